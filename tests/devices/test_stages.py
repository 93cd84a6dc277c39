"""Collectors and judges find on a device what they find on the CPU, and seldom wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from acdc_explain.evidence import top_examples
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult
from acdc_explain.records.label import Label

from .placed import JUDGES, PLUGINS, most, on_device, prompts, waits_of
from .simulated import SimulatedDevice, simulated_device

MANY = tuple(map(Node.parse, ("a0.h0", "a0.h1", "m0", "a2.h2", "m3")))
FEW = MANY[1:3]
CLAIMS = (
    "a0.h0 duplicate_token", "a0.h0 previous_token", "a1.h0 name_mover", "a1.h1 name_mover",
    "a1.h0 induction", "m2 token_enrichment",
)  # fmt: skip
MOVER = Node.parse("a1.h0")
MOVES: dict[str, dict[str, Any]] = {
    "attends": {"at": "END", "to": "IO", "through": "answers"},
    "raises": {"what": "answers", "source": "IO", "by": 1.0},
}
RESULTS_OF = {
    MOVER: [
        ClaimResult(
            Claim(MOVER, name, arguments), name, "reads" if name == "attends" else "does", "holds",
            0.9, 0.8, 1.0, 0.0, 1.0, specific=True, votes={"swap_s2": "agrees"}, also={"to": ["answer"], "source": ["answer"]},
        )
        for name, arguments in MOVES.items()
    ]
}  # fmt: skip
LABELS = [
    Label("c", Node.parse(node), "test", role, (), "", 0.5, ())
    for node, role in map(str.split, CLAIMS)
]
LABELS.append(replace(LABELS[2], claims=tuple(x.claim for x in RESULTS_OF[MOVER])))
TOKENS = 24  # the most waits of a place: the model writes a text token by token


def test_all_judges_are_tested() -> None:
    assert set(JUDGES) == {name for name, x in PLUGINS.judges().items() if not x.asks_llm}


@pytest.fixture(scope="module")
def there() -> Iterator[tuple[SimulatedDevice, Any]]:
    """A simulated device, and `mini` on it."""
    with simulated_device() as simulated:
        yield simulated, on_device("mini")


def alike(one: Any, other: Any) -> bool:
    """The same but for the last digit of rounded numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return one == (pytest.approx(other, abs=2e-5) if isinstance(one, float) else other)


@pytest.mark.parametrize("task", ["ioi", pytest.param("induction", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PLUGINS.collectors())
def test_collectors(mini: Any, there: Any, name: str, task: str, monkeypatch: Any) -> None:
    """The number of waits depends neither on that of components nor on that of prompts."""
    simulated, model = there
    monkeypatch.setattr(top_examples, "LENGTH", 8)
    collector = PLUGINS.collectors()[name]
    found: dict[Node, Any] = {}

    def waits(nodes: Any, times: int = 1) -> Any:
        contrast = prompts(model, task, times=times)
        return waits_of(simulated, lambda: found.update(collector(contrast, nodes)))

    waits(FEW)  # the proof that layers can be run as functions is made once
    few, twice, several = waits(FEW), waits(MANY, times=2), waits(MANY)
    assert few == twice == several
    assert most(several) <= TOKENS
    assert alike(found, dict(collector(prompts(mini, task), MANY)))
    assert any(found.values())


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("name", JUDGES)
def test_judges(mini: Any, there: Any, name: str) -> None:
    """A label costs a few waits, however many prompts it is tested on."""
    simulated, model = there
    judge, roles = PLUGINS.judges()[name], PLUGINS.roles()
    given = (LABELS, roles, RESULTS_OF) if judge.reads_claims else (LABELS, roles)
    contrast, twice = prompts(model, n=4), prompts(model, n=4, times=2)
    found = [*judge.function(contrast, *given)]
    assert found == [*judge.function(prompts(mini, n=4), *given)]
    assert any(verdict.score is not None for verdict in found)
    [*judge.function(twice, *given)]
    waits = waits_of(simulated, lambda: [*judge.function(contrast, *given)])
    assert most(waits) <= 2 * len(LABELS)
    assert waits_of(simulated, lambda: [*judge.function(twice, *given)]) == waits
