"""Searches against brute force over the records themselves."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acdc_explain.circuit import Graph
from acdc_explain.errors import UserError
from acdc_explain.motif import Pattern
from acdc_explain.run import Run
from acdc_explain.store import Store

from .samples import ROLES, make_run

ROLE_NAMES = ["previous_token", "induction", "name_mover", "other"]


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
        ({"pattern": "* -> *", "task": "ioi", "text": "mover"}, set()),
    ],
)  # fmt: skip
def test_queries(store, query, expected):
    assert found(store.search(**query)) == expected


def test_limit(store):
    assert len(store.search(limit=3)) == 3
    assert len(store.search()) == 2 * len(ROLES)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "character 1 (the end): expected a role"),
        ("induction", "has no arrow"),
        ("induction ->", "character 13 (the end): expected a role"),
        ("induction -x-> logits", "character 11 ('-'): expected ->"),
        ("induction > logits", "character 11 ('>'): expected ->"),
        ("induction -> logits; DROP TABLE runs", "character 20 (';')"),
        ("Induction -> logits", "character 1 ('I'): expected a role"),
        ("a -> " * 2000, "the end"),
    ],
)
def test_a_pattern_that_cannot_be_read(store, text, complaint):
    with pytest.raises(UserError) as caught:
        store.search(pattern=text)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 300


@given(text=st.text(max_size=30))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
def test_hostile_text_finds_nothing_and_changes_nothing(store, text):
    store.search(text, role=text, verdict=text, task=text, model=text)
    assert len(store.search()) == 2 * len(ROLES)


def random_run(seed: int) -> Run:
    rng = random.Random(seed)
    graph = Graph(3, 2)
    edges = tuple(str(edge) for edge in rng.sample(list(graph.edges()), 30))
    roles = {str(node): rng.choice(ROLE_NAMES) for node in graph.writers[1:]}
    return make_run(f"t{seed}", edges=edges, roles=roles)


def brute_force(run: Run, pattern: Pattern) -> set[tuple[str, ...]]:
    """Every combination of nodes, tried."""
    assert run.circuit is not None
    edges = {(str(e.src), str(e.dst), e.port) for e in run.circuit.edges}
    role_of = {str(label.node): label.role for label in run.labels}
    names = [*role_of, "input", "logits"]

    def fits(step: str, name: str) -> bool:
        if step == "*":
            return name not in ("input", "logits")
        return name == step or role_of.get(name) == step

    def joined(a: str, b: str, port: str | None) -> bool:
        return any(e[:2] == (a, b) and (port is None or e[2] == port) for e in edges)

    candidates = [[name for name in names if fits(step, name)] for step in pattern.steps]
    return {
        (run.header.task, *path)
        for path in product(*candidates)
        if all(joined(a, b, port) for a, b, port in zip(path, path[1:], pattern.ports))
    }


@pytest.mark.parametrize("seed", range(8))
def test_patterns_against_brute_force(seed, tmp_path):
    store = Store(tmp_path / "s.duckdb")
    runs = [random_run(10 * seed + i) for i in range(3)]
    for run in runs:
        store.add_run(run)
    rng = random.Random(seed)
    for _ in range(6):
        steps = rng.choices([*ROLE_NAMES, "*", "logits", "input"], k=rng.randint(2, 4))
        text = steps[0]
        for step in steps[1:]:
            text += rng.choice([" -> ", " -q-> ", " -k-> ", " -v-> "]) + step
        expected = set().union(*(brute_force(run, Pattern.parse(text)) for run in runs))
        assert found(store.search(pattern=text, limit=10_000)) == expected, text


def test_a_contradicted_label_is_downgraded(tmp_path):
    from acdc_explain.verdict import Judging, Verdict

    store, run = Store(tmp_path / "s.duckdb"), make_run()
    store.add_run(run)
    label = run.labels[0]
    verdict = Verdict(label.id, "transfer", "refuted", 0.0, 0.0, 0.5, 9, "fails")
    store.add_judgings(run.id, [Judging("j", verdict)])
    assert not store.search(role=label.role, verdict="supported")
    assert len(store.search(role=label.role, verdict="refuted")) == 1


def test_match_finds_named_patterns_in_one_run(store):
    motifs = store.match(store.header("last").id, {"chain": "previous_token -> induction -> *"})
    assert len(motifs) == 2
    assert {motif.pattern for motif in motifs} == {"chain"}
    assert {str(motif.nodes["*"]) for motif in motifs} == {"m1", "a2.h1"}
