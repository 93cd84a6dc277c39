"""Results of code that gives other answers are never taken for one's own."""

from __future__ import annotations

import pytest

import acdc_explain as ax
from acdc_explain.discovery import search as work
from acdc_explain.errors import UserError
from acdc_explain.pipeline import flow as pipeline
from acdc_explain.pipeline.settings import Settings
from acdc_explain.records.run import header as settings
from acdc_explain.store.store import Store

from ..conftest import word_task

pytestmark = pytest.mark.usefixtures("shared_contrasts")
OPTIONS = {"discoverer": "eap", "max_edges": 12, "labeler": "rules", "anyway": True}


@pytest.mark.slow
def test_a_program_with_other_results_makes_a_run_of_its_own(small_model, tmp_path, monkeypatch):
    store, model = Store(tmp_path / "s.duckdb"), small_model("neox")
    old = ax.explain(word_task(4), model, store=store, **OPTIONS)
    monkeypatch.setattr(settings, "RESULTS", settings.RESULTS + 1)
    monkeypatch.setattr(work, "RESULTS", settings.RESULTS)
    new = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert not new.reused
    assert new.id != old.id
    assert new.circuit is not None
    assert old.circuit is not None
    assert new.circuit.id != old.circuit.id
    for things in ("evidence", "labels", "verdicts"):
        mine = {record.id for record in getattr(new, things)}
        assert mine
        assert not mine & {record.id for record in getattr(old, things)}
    assert store.verify() == []
    for change in (pipeline.label, pipeline.judge):
        with pytest.raises(UserError, match="gives other results"):
            change(old, store, Settings(labeler="rules"))


def test_runs_from_before_results_were_counted_keep_their_ids():
    versions = {"acdc-explain": "0.1.0"}
    assert settings.results_of(versions) == "0.1.0"
    assert settings.results_of({**versions, "results": "7"}) == "results 7"


JUDGE = """
from acdc_explain import hookimpl
from acdc_explain import Verdict

def strict(contrast, labels, roles):
    for label in labels:
        yield Verdict(label.id, "strict", "OUTCOME", None, None, None, 1, "so it is")

@hookimpl
def register_judges():
    return {"strict": strict}
"""


@pytest.mark.slow
def test_a_plugin_that_was_edited_is_asked_again(small_model, tmp_path, monkeypatch):
    """Without it, whoever writes a judge would see the verdicts of yesterday's."""
    import importlib

    from acdc_explain.plugins import load_plugins

    store, model, found = Store(tmp_path / "s.duckdb"), small_model("neox"), []
    monkeypatch.syspath_prepend(tmp_path)
    for number, outcome in enumerate(("refuted", "causal_only", "causal_only")):
        name = f"strict_judge_{number}"
        file = tmp_path / f"{name}.py"
        file.write_text(JUDGE.replace("OUTCOME", outcome))
        importlib.invalidate_caches()
        plugins = load_plugins()
        plugin = importlib.import_module(name)
        plugins.register(plugin, "strict")
        try:
            run = ax.explain(word_task(4), model, store=store, more_judges=("strict",), **OPTIONS)
        finally:
            plugins.unregister(plugin)
        found.append(run)
    outcomes = [{v.outcome for v in run.verdicts if v.judge == "strict"} for run in found]
    assert outcomes == [{"refuted"}, {"causal_only"}, {"causal_only"}]
    assert [run.reused for run in found] == [False, False, True]
    assert found[0].id != found[1].id == found[2].id
    assert found[0].circuit is not None
    assert found[1].circuit is not None
    assert found[0].circuit.id == found[1].circuit.id  # what is built in is not done again
