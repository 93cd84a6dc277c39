"""Searches compared with brute force over the records."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acdc_explain.store.store import Store

from ..samples import ROLES, make_run


def found(matches) -> set[tuple[str, ...]]:
    return {(m.task, *map(str, m.nodes.values())) for m in matches}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("store") / "s.duckdb")
    store.add_run(make_run("ioi", "mini"))
    store.add_run(make_run("induction", "big", outcome="refuted"))
    return store


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"role": "induction"}, {("ioi", "a1.h0"), ("induction", "a1.h0")}),
        ({"role": "induction", "model": "mini"}, {("ioi", "a1.h0")}),
        ({"role": "induction", "model": "big@1"}, {("induction", "a1.h0")}),
        ({"role": "induction", "task": "ioi"}, {("ioi", "a1.h0")}),
        ({"verdict": "refuted", "role": "other"}, {("induction", "m1")}),
        ({"verdict": "supported", "text": "NAME_mover is"}, {("ioi", "a2.h1")}),
        ({"text": "nothing like that"}, set()),
        ({"role": "nobody"}, set()),
        ({"pattern": "previous_token -k-> induction", "task": "ioi"}, {("ioi", "a0.h1", "a1.h0")}),
        ({"pattern": "previous_token -q-> induction"}, set()),
        ({"pattern": "induction -> logits"}, set()),
        ({"pattern": "input -v-> previous_token -> induction -v-> name_mover -> logits",
          "task": "ioi"}, {("ioi", "input", "a0.h1", "a1.h0", "a2.h1", "logits")}),
        ({"pattern": "induction -> * -> name_mover", "task": "ioi"}, {("ioi", "a1.h0", "m1", "a2.h1")}),
        ({"pattern": "induction -> *", "model": "mini"}, {("ioi", "a1.h0", "m1"), ("ioi", "a1.h0", "a2.h1")}),
        ({"pattern": "induction -> *", "verdict": "refuted"},
         {("induction", "a1.h0", "m1"), ("induction", "a1.h0", "a2.h1")}),
        ({"pattern": "* -> *", "task": "ioi", "text": "mover"}, {("ioi", "a1.h0", "a2.h1"), ("ioi", "m1", "a2.h1")}),
        ({"pattern": "* -> *", "role": "previous_token", "task": "ioi"}, {("ioi", "a0.h1", "a1.h0")}),
        ({"pattern": "induction", "task": "ioi"}, {("ioi", "a1.h0")}),
    ],
)  # fmt: skip
def test_queries(store, query, expected):
    assert found(store.search(**query)) == expected


def test_limit(store):
    assert len(store.search(limit=3)) == 3
    assert len(store.search()) == 2 * len(ROLES)


@given(text=st.text(max_size=30))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
def test_hostile_text_finds_nothing_and_changes_nothing(store, text):
    store.search(text, role=text, verdict=text, task=text, model=text)
    assert len(store.search()) == 2 * len(ROLES)


def test_a_contradicted_label_is_downgraded(tmp_path):
    from acdc_explain.records.verdict import JudgeResult, Verdict

    store, run = Store(tmp_path / "s.duckdb"), make_run()
    store.add_run(run)
    label = run.labels[0]
    verdict = Verdict(label.id, "transfer", "refuted", 0.0, 0.0, 0.5, 9, "fails")
    store.writer(run.id).add_judge_results([JudgeResult("j", verdict)])
    assert not store.search(role=label.role, verdict="supported")
    assert len(store.search(role=label.role, verdict="refuted")) == 1


def test_match_finds_named_patterns_in_one_run(store):
    (ioi,) = (run.id for run in store.runs() if run.task == "ioi")
    motifs = store.match(ioi, {"chain": "previous_token -> induction -> *"})
    assert len(motifs) == 2
    assert {motif.pattern for motif in motifs} == {"chain"}
    assert {str(motif.nodes["*"]) for motif in motifs} == {"m1", "a2.h1"}
