"""Judge `role_card`: measure again, on held-out examples, everything the role's card demands."""

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

if TYPE_CHECKING:
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import Requirement, RoleCard, Tier

NULL_NODES = 12  # of each kind, ablated for comparison: a run each, so not all


@dataclass(frozen=True)
class Test:
    """One requirement, measured."""

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
    def room(self) -> float:
        """How far the value is from the bound or from chance, in half widths of its interval."""
        requirement, half = self.requirement, max((self.high - self.low) / 2, 1e-9)
        bars = [x for x in (requirement.at_least, requirement.at_most) if x is not None]
        if requirement.away_from_zero is not None:
            bars.append(math.copysign(requirement.away_from_zero, self.value))
        return min((abs(self.value - bar) for bar in [*bars, self.chance]), default=0.0) / half


def role_card(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """`supported` if all pattern and all causal tests surely hold; see docs/roles.md."""
    null = null_nodes(contrast, seed)
    for label in labels:
        card = roles.get(label.role)
        if card is None:
            yield _no_test(label, f"no role card for {label.role!r} is installed")
            continue
        tests, unmeasurable = tests_of(contrast, label.node, card, null)
        yield _no_test(label, unmeasurable) if unmeasurable else _verdict(label, tests)


def null_nodes(contrast: Contrast, seed: int) -> list[Node]:
    """Some heads and some MLPs, the same ones whatever is judged."""
    writers, rng = contrast.model.graph.writers, random.Random(seed)
    chosen: list[Node] = []
    for kind in ("head", "mlp"):
        nodes = [node for node in writers if node.kind == kind]
        chosen += rng.sample(nodes, min(NULL_NODES, len(nodes)))
    return chosen


def tests_of(
    contrast: Contrast, node: Node, card: RoleCard, null: list[Node]
) -> tuple[list[Test], str | None]:
    """Every requirement measured, or why one cannot be."""
    found = []
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
        found.append(max(tests, key=lambda test: WORST.index(test.state)))  # the best option
    return found, None


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
    """A verdict that shows the test that decided it; of a size, whatever its sign, the size."""
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
    """The test behind the outcome: the first that fails, or that cannot tell; where all hold, that
    with the least room. What is merely absent decides only where nothing else was tested."""
    for state in ("fails", "unclear"):
        if found := [test for test in tests if test.state == state]:
            return found[0]
    telling = [test for test in tests if not test.requirement.only_absence]
    return min(telling or tests, key=lambda test: test.room)


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


def _no_test(label: Label, reason: str) -> Verdict:
    return Verdict(label.id, "role_card", "inconclusive", None, None, None, 0, reason)


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"role_card": Judge(role_card)}
