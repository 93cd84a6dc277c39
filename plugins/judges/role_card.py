"""Judge `role_card`: measure every requirement of the role's card on held-out examples."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.role import WORST, State
from acdc_explain.records.verdict import Outcome, Verdict

from .verdicts import without_numbers

if TYPE_CHECKING:
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import Requirement, RoleCard, Tier

NULL_NODES = 12  # nodes of each kind, ablated for comparison; each costs a run


@dataclass(frozen=True)
class Test:
    """One requirement, measured.

    `low` and `high` are the bootstrap 95 % interval of the value; `n` counts the samples.
    """

    requirement: Requirement
    state: State
    value: float
    low: float
    high: float
    chance: float
    percentile: float
    n: int

    def __str__(self) -> str:
        return (
            f"{self.requirement} {self.state}: {self.value:.3f} [{self.low:.3f}, {self.high:.3f}], "
            f"chance {self.chance:.3f}, above {self.percentile:.0%}"
        )

    @property
    def margin(self) -> float:
        """How far the value is from its nearest bound or from chance, in half interval widths."""
        requirement, half = self.requirement, max((self.high - self.low) / 2, 1e-9)
        bounds = [x for x in (requirement.at_least, requirement.at_most) if x is not None]
        if requirement.away_from_zero is not None:
            bounds.append(math.copysign(requirement.away_from_zero, self.value))
        return min(abs(self.value - bound) for bound in [*bounds, self.chance]) / half


def role_card(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """`supported` if the 95 % intervals of all tests meet the card; see docs/roles.md."""
    null = null_nodes(contrast, seed)
    for label in labels:
        card = roles.get(label.role)
        if card is None:
            reason = f"no role card for {label.role!r} is installed"
            yield without_numbers(label, "role_card", reason)
            continue
        tests, unmeasurable = tests_of(contrast, label.node, card, null)
        if unmeasurable:
            yield without_numbers(label, "role_card", unmeasurable)
        else:
            yield _verdict(label, tests)


def null_nodes(contrast: Contrast, seed: int) -> list[Node]:
    """Some heads and some MLPs; the same ones for every label."""
    writers, rng = contrast.model.graph.writers, random.Random(seed)
    chosen: list[Node] = []
    for kind in ("head", "mlp"):
        nodes = [node for node in writers if node.kind == kind]
        chosen += rng.sample(nodes, min(NULL_NODES, len(nodes)))
    return chosen


def tests_of(
    contrast: Contrast, node: Node, card: RoleCard, null: list[Node]
) -> tuple[list[Test], str | None]:
    """Every requirement measured; or an empty list and why one of them cannot be."""
    measured = []
    for requirement in card.requirements:
        tests: list[Test] = []
        reasons: list[str] = []
        for option in requirement.options:
            test = _measured(contrast, node, option, null)
            if isinstance(test, str):
                reasons.append(test)
            else:
                tests.append(test)
        if not tests and requirement.if_defined:
            continue
        if not tests:
            return [], "; ".join(reasons)
        measured.append(max(tests, key=lambda test: WORST.index(test.state)))  # the best option
    return measured, None


def _measured(
    contrast: Contrast, node: Node, requirement: Requirement, null: list[Node]
) -> Test | str:
    """One requirement measured, or why it cannot be."""
    from acdc_explain.evidence.effects import NODE_MEASURES, of_nodes
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.evidence.measures import measure

    try:
        if requirement.measure in NODE_MEASURES:
            others = [n for n in null if n.kind == node.kind and n != node]
            measurement = of_nodes(requirement.measure, contrast, [node, *others])
        else:
            measurement = measure(requirement.measure, contrast)
    except NotMeasurable as reason:
        return f"{requirement.measure} cannot be measured: {reason}"
    if node not in measurement.nodes:
        return f"{requirement.measure} is not defined for {node}"
    return _test(requirement, measurement, node)


def _test(requirement: Requirement, measurement: Measurement, node: Node) -> Test:
    percentile, interval = measurement.percentile(node), measurement.interval(node)
    return Test(
        requirement,
        requirement.state(percentile, interval, measurement.beyond_chance(node)),
        measurement.value(node),
        *interval,
        measurement.chance(node),
        percentile,
        measurement.n,
    )


def _verdict(label: Label, tests: list[Test]) -> Verdict:
    return verdict_of(label, "role_card", outcome_of(tests), tests, "; ".join(map(str, tests)))


def verdict_of(
    label: Label, judge: str, outcome: Outcome, tests: Sequence[Test], reason: str
) -> Verdict:
    """A verdict with the numbers of the test that decided it.

    A negative value that had to be away from zero is shown as its size.
    """
    from acdc_explain.evidence.measures import UNITS

    deciding = deciding_of(tests)
    measure, low, high = deciding.requirement.measure, deciding.low, deciding.high
    negative = deciding.requirement.away_from_zero is not None and deciding.value < 0
    score = -deciding.value if negative else deciding.value
    return Verdict(
        label_id=label.id,
        judge=judge,
        outcome=outcome,
        score=round(score, 5),
        chance=round(deciding.chance, 5),
        percentile=round(deciding.percentile, 4),
        n=deciding.n,
        reason=reason,
        measure=f"minus {measure}" if negative else measure,
        unit=UNITS.get(measure),
        low=round(-high if negative else low, 5),
        high=round(-low if negative else high, 5),
    )


def deciding_of(tests: Sequence[Test]) -> Test:
    """The test behind the outcome: the first that fails, else the first that is unclear.

    Where all hold it is the one with the least margin. A requirement that something is absent
    decides only where nothing else was tested.
    """
    for state in ("fails", "unclear"):
        if in_state := [test for test in tests if test.state == state]:
            return in_state[0]
    positive = [test for test in tests if not test.requirement.only_absence]
    return min(positive or tests, key=lambda test: test.margin)


def _tier(tests: Sequence[Test], tier: Tier) -> State | None:
    """The worst state among the tests of a tier; None if the card has none."""
    states = {test.state for test in tests if test.requirement.tier == tier}
    return next((state for state in WORST if state in states), None)


def outcome_of(tests: Sequence[Test]) -> Outcome:
    """What the tests of both tiers say together."""
    pattern, causal = _tier(tests, "pattern"), _tier(tests, "causal")
    states = {pattern, causal} - {None}
    if states == {"holds"}:
        return "supported"
    if states == {"fails"}:
        return "refuted"
    if "unclear" in states:
        return "inconclusive"
    return "pattern_only" if pattern == "holds" else "causal_only"


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"role_card": Judge(role_card)}
