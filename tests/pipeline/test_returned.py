"""The run that is returned, put together by the stages, is the one that the store holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import acdc_explain as ax
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..labeling.test_agent import ABLATE, CONCLUSION, HYPOTHESES, script, step
from ..llm.scripted_server import serve

OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 12, "anyway": True, "judges": ("role_card",),
}  # fmt: skip
AGENT = ax.Settings(labeler="agent", llm_model="scripted", anyway=True)
ANSWERS = script(
    hypothesise=HYPOTHESES, experiment=[step(**ABLATE), step(experiment="done")],
    conclude=CONCLUSION,
)  # fmt: skip
NONSENSE = script(hypothesise={"no": "hypotheses"}, repair={"no": "hypotheses"})


def check(store: Store, run: ax.Run) -> None:
    stored = store.get(run.id)
    assert to_document(stored) == to_document(run)
    assert stored.header == run.header
    assert [motif.id for motif in stored.motifs] == [motif.id for motif in run.motifs]


@pytest.fixture
def explained(measured, small_model, monkeypatch) -> tuple[Store, ax.Run]:
    """A run by rules, which `label` and `judge` go on from with the same model."""
    model = small_model("neox")
    monkeypatch.setattr("acdc_explain.pipeline.prepare.load_model", lambda *a, **k: model)
    return measured, ax.explain(word_task(4), model, store=measured, labeler="rules", **OPTIONS)


def asked(run: ax.Run, store: Store, answers: Any, monkeypatch: pytest.MonkeyPatch) -> ax.Run:
    with serve(answers) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return ax.label(run, store, AGENT, judge=False)


def test_by_rules_and_with_a_name(explained):
    store, run = explained
    check(store, run)
    store.name_run(run.id, "mine", "a note")
    settings = ax.Settings(judges=("role_card",), more_judges=("interchange",), anyway=True)
    judged = ax.judge(store.get(run.id), store, settings)
    check(store, judged)
    assert judged.labels == run.labels
    assert {verdict.judge for verdict in judged.verdicts} == {"role_card"}  # all are `other`
    assert set(judged.header.settings["judges"]) == {"role_card", "interchange"}


def test_by_an_agent_and_again_from_what_it_was_told(explained, monkeypatch):
    """The second run reuses answers of the first, with the evidence and exchanges behind them."""
    store, run = explained
    first = asked(run, store, ANSWERS, monkeypatch)
    check(store, first)
    assert first.exchanges
    assert any(item.collector == "agent" for item in first.evidence)
    more = replace(AGENT, more_judges=("interchange",))
    other = ax.label(run, store, more, judge=False)  # of the same answers; nobody is asked
    check(store, other)
    assert other.id != first.id
    assert other.labels == first.labels
    assert [x.id for x in other.exchanges] == [x.id for x in first.exchanges]
    again = ax.label(store.get(first.id), store, replace(AGENT, retry=True), judge=False)
    check(store, again)
    assert again.id == first.id


def test_failures_and_what_repairs_them(explained, monkeypatch):
    store, run = explained
    failed = asked(run, store, NONSENSE, monkeypatch)
    check(store, failed)
    assert len(failed.failures) == len(run.circuit.components)
    with serve(ANSWERS) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        repaired = ax.label(run, store, replace(AGENT, retry=True), judge=False)
    check(store, repaired)
    assert not repaired.failures
    assert {x.id for x in failed.exchanges} < {x.id for x in repaired.exchanges}


def test_a_summary_is_asked_for_in_the_order_of_the_store(measured, small_model, monkeypatch):
    """Else the question would be another one when it is asked from the stored run."""
    orders: list[tuple[list[str], list[str]]] = []

    def summary_of(stage: Any, circuit: Any, labels: Any, verdicts: Any, results: Any) -> None:
        orders.append(([x.id for x in labels], [x.id for x in verdicts]))

    monkeypatch.setattr("acdc_explain.pipeline.summarise.summary_of", summary_of)
    run = ax.explain(word_task(4), small_model("neox"), store=measured, labeler="rules", **OPTIONS)
    stored = measured.get(run.id)
    assert len(stored.labels) > 2
    for order in orders:
        assert order == ([x.id for x in stored.labels], [x.id for x in stored.verdicts])
    assert orders
