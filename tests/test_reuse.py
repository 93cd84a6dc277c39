"""Results of code that gives other answers are never taken for one's own."""

from __future__ import annotations

import pytest

import acdc_explain as ax
from acdc_explain import pipeline, settings, work
from acdc_explain.errors import UserError
from acdc_explain.settings import Settings
from acdc_explain.store import Store

from .conftest import word_task

OPTIONS = {"discoverer": "eap", "max_edges": 12, "labeler": "rules", "anyway": True}


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
