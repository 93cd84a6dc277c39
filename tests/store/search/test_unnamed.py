"""What components without a role share across tasks: candidates for new roles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult, ComponentResult
from acdc_explain.records.run.run import Run
from acdc_explain.store.search.unnamed import anywhere
from acdc_explain.store.store import Store

from ...samples import make_run

EDGES = ("input->a0.h0<v>", "a0.h0->a1.h0<v>", "a1.h0->logits", "a0.h0->logits")


def result(node: str, name: str, topic: Any, arguments: Any, **fields: Any) -> ClaimResult:
    return ClaimResult(
        Claim(Node.parse(node), name, arguments), name, topic, "holds", specific=True, **fields
    )


def lowering(node: str, place: str, **fields: Any) -> list[ClaimResult]:
    """It attends from END to the wrong answer, whatever that position is called, and lowers it."""
    also = {"to": ["elsewhere", "foil token"]}
    read = {"at": "END", "to": place, "through": "foils"}
    return [
        result(node, "attends", "reads", read, also=also, **fields),
        result(node, "lowers", "does", {"what": "foils", "source": None, "by": 1.5}),
    ]


def run_of(
    task: str, claims: list[ClaimResult], *, role: str = "other", explained: Any = True
) -> Run:
    run = make_run(task, edges=EDGES, roles={"a0.h0": role, "a1.h0": role})
    assert run.circuit is not None
    results = [
        ComponentResult(x, 0.1, 0.05, 0.15, False, explained) for x in run.circuit.components
    ]
    return replace(run, claims=claims, components=results)


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return Store(tmp_path / "s.duckdb")


def test_positions_of_other_names(store: Store) -> None:
    store.add_run(run_of("one", lowering("a0.h0", "S2") + lowering("a1.h0", "S1")))
    store.add_run(run_of("two", lowering("a1.h0", "YEAR")))
    (found,) = store.unnamed()
    assert found.reads == ("attends to foil token",)
    assert found.does == ("lowers foils",)
    assert [(x.task, str(x.node)) for x in found.components] == [
        ("one", "a0.h0"), ("one", "a1.h0"), ("two", "a1.h0")
    ]  # fmt: skip
    assert [task for task, _ in found.occurs_in] == ["one", "two"]
    assert store.unnamed(3) == []


@pytest.mark.parametrize(
    "other",
    [
        run_of("two", lowering("a1.h0", "YEAR"), role="induction"),  # a supported name
        run_of("two", lowering("a1.h0", "YEAR"), explained=False),
        run_of("two", [replace(x, outcome="fails") for x in lowering("a1.h0", "YEAR")]),
        run_of("two", [replace(x, specific=False) for x in lowering("a1.h0", "YEAR")]),
        run_of("two", lowering("a1.h0", "YEAR")[1:]),  # nothing that it reads
        run_of("two", [replace(lowering("a1.h0", "YEAR")[0], also={}), lowering("a1.h0", "Y")[1]]),
        run_of("one", lowering("a1.h0", "YEAR")),  # the same task again
        run_of(
            "two",
            [result("a1.h0", "carries", "reads", {"variable": "S"}), lowering("a1.h0", "YEAR")[1]],
        ),
    ],
)
def test_what_does_not_count(store: Store, other: Run) -> None:
    store.add_run(run_of("one", lowering("a0.h0", "S2")))
    store.add_run(other)
    assert store.unnamed() == []
    assert len(store.unnamed(1)) >= 1


@pytest.mark.parametrize(
    ("claim", "arguments", "also", "text"),
    [
        ("attends", {"to": "previous"}, {}, "attends to previous"),
        ("attends", {"to": "offset 2"}, {}, "attends to offset 2"),
        ("attends", {"to": "S1"}, {"to": ["duplicate", "foil"]}, "attends to duplicate = foil"),
        ("attends", {"to": "S1"}, {"to": ["elsewhere"]}, "attends to a position"),
        ("raises", {"what": "answers", "source": "END"}, {}, "raises answers from END"),
        ("raises", {"what": "answers", "source": None}, {}, "raises answers"),
        ("feeds", {"receiver": "logits"}, {}, "feeds logits"),
        ("feeds", {"receiver": "m3", "port": None, "by": 1}, {}, "feeds mlp"),
        ("feeds", {"receiver": "a3.h1", "port": "q", "query": "END"}, {},
         "feeds head<q> and turns its attention"),
        ("opposes", {"what": "answers", "components": ["a0.h0"]}, {}, "opposes others on answers"),
        ("reads_token", {"at": "S2"}, {}, "reads_token"),
    ],
)  # fmt: skip
def test_claims_in_words_without_positions(
    claim: str, arguments: Any, also: Any, text: str
) -> None:
    assert anywhere(claim, arguments, also) == text


def test_the_command(store: Store) -> None:
    def output(*arguments: str) -> str:
        command = ["unnamed", "--db", str(store.path), *arguments]
        outcome = CliRunner().invoke(app, command, catch_exceptions=False)
        assert outcome.exit_code == 0
        return outcome.output

    store.add_run(run_of("one", lowering("a0.h0", "S2")))
    assert "No claims" in output()
    store.add_run(run_of("two", lowering("a1.h0", "YEAR")))
    shown = output()
    assert "attends to foil token" in shown
    assert "one on" in shown
    assert ":a1.h0" in shown
    assert '"lowers foils"' in output("--json")
