"""The tests of a role card: each requirement measured, each claim with its result."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acdc_explain.records.role import WORST, State
from acdc_explain.records.verdict import Verdict

if TYPE_CHECKING:
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import ClaimResult, Topic
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import Requirement, RoleCard, RoleClaim, Tier
    from acdc_explain.records.verdict import Outcome

NULL_NODES = 12  # nodes of each kind, ablated for comparison; each costs a run


@dataclass(frozen=True)
class Test:
    """One requirement or one claim of a card, tested.

    Attributes:
        tier: "pattern": what the component reads or does anywhere; "causal": what it does here.
        about: The requirement or the claim in words.
        state: What the test says.
        measure, unit: What the value is. None where nothing was measured.
        value, low, high: The value with its bootstrap 95 % interval.
        chance: What the value would be by chance.
        percentile: The share of others of the kind with a smaller value.
        n: The number of samples.
        bounds: Values at which the state would change, besides chance.
        size: Whether only the size of the value counts, not its sign.
        absence: Whether any small value would do, as most components have.
    """

    tier: Tier
    about: str
    state: State
    measure: str | None = None
    unit: str | None = None
    value: float | None = None
    low: float = 0.0
    high: float = 0.0
    chance: float = 0.0
    percentile: float | None = None
    n: int = 0
    bounds: tuple[float, ...] = ()
    size: bool = False
    absence: bool = False

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.about} {self.state}"
        rank = "" if self.percentile is None else f", above {self.percentile:.0%}"
        return (
            f"{self.about} {self.state}: {self.value:.3f} [{self.low:.3f}, {self.high:.3f}], "
            f"chance {self.chance:.3f}{rank}"
        )

    @property
    def margin(self) -> float:
        """How far the value is from its nearest bound or from chance, in half interval widths."""
        if self.value is None:
            return math.inf
        half = max((self.high - self.low) / 2, 1e-9)
        return min(abs(self.value - bound) for bound in (*self.bounds, self.chance)) / half


def tests_of(
    contrast: Contrast,
    node: Node,
    card: RoleCard,
    null: list[Node],
    claims: Sequence[ClaimResult],
) -> tuple[list[Test], str | None]:
    """Every requirement and claim tested; or an empty list and why one of them cannot be.

    `claims`: the results of all claims about the node.
    """
    tests, unmeasurable = requirement_tests(contrast, node, card, null)
    return tests if unmeasurable else [*tests, *claim_tests(card, claims)], unmeasurable


# --- claims -------------------------------------------------------------------------------------


def claim_tests(card: RoleCard, claims: Sequence[ClaimResult]) -> list[Test]:
    """The claims of a card at the position where most of them hold."""
    against = [
        Test("causal", f"{x.text!r}, the opposite of the role,", "fails")
        for x in card.against(claims)
        if x.outcome == "holds"
    ]
    if not card.claims:
        return against
    at_no_place: list[list[ClaimResult]] = [[] for _ in card.claims]
    bundles = [at_no_place, *card.bundles(claims).values()]
    tested = [
        [_claim_test(wanted, fitting, claims) for wanted, fitting in zip(card.claims, bundle)]
        for bundle in bundles
    ]
    best_first = WORST[::-1]
    best = max(tested, key=lambda tests: [sum(t.state == s for t in tests) for s in best_first])
    return [*best, *against]


def claim_state(result: ClaimResult) -> State:
    """What counts as support must be specific, except of where a component acts."""
    if result.outcome == "fails":
        return "fails"
    supports = result.explains or (result.topic == "where" and result.outcome == "holds")
    return "holds" if supports else "unclear"


def _claim_test(
    wanted: RoleClaim, fitting: Sequence[ClaimResult], claims: Sequence[ClaimResult]
) -> Test:
    """The best of the claims that fit.

    Where none does, what the role claims was not found on the discovery prompts: it fails if the
    component surely does something else, else it is unclear.
    """
    if not fitting:
        topic = _topic_of(wanted.name)
        others = [x for x in claims if x.explains and x.topic == topic]
        about = f"{wanted}, of which nothing is found,"
        return Test(_tier_of(topic), about, "fails" if others else "unclear")
    return tested_claim(max(fitting, key=lambda result: WORST.index(claim_state(result))))


def _topic_of(name: str) -> Topic:
    """What a kind of claim speaks of; of one that is not installed, what the component does."""
    from acdc_explain.plugins import load_plugins

    kinds = load_plugins().claims()
    return kinds[name].topic if name in kinds else "does"


def _tier_of(topic: Topic) -> Tier:
    """What is read, and what weights do with anything, is a pattern; all else is causal."""
    return "pattern" if topic in ("reads", "weights") else "causal"


def tested_claim(result: ClaimResult) -> Test:
    """A claim with its result as a test."""
    return Test(
        _tier_of(result.topic), f"{result.text!r}", claim_state(result), result.text,
        result.unit, result.value,
        result.low or 0.0, result.high or 0.0, result.chance or 0.0, result.percentile, result.n,
    )  # fmt: skip


# --- requirements -------------------------------------------------------------------------------


def null_nodes(contrast: Contrast, seed: int) -> list[Node]:
    """Some heads and some MLPs; the same ones for every label."""
    writers, rng = contrast.model.graph.writers, random.Random(seed)
    chosen: list[Node] = []
    for kind in ("head", "mlp"):
        nodes = [node for node in writers if node.kind == kind]
        chosen += rng.sample(nodes, min(NULL_NODES, len(nodes)))
    return chosen


def requirement_tests(
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
    return measured_test(requirement, measurement, node)


def measured_test(requirement: Requirement, measurement: Measurement, node: Node) -> Test:
    """A requirement with the value of a node."""
    from acdc_explain.evidence.measures import UNITS

    percentile, interval = measurement.percentile(node), measurement.interval(node)
    value, least = measurement.value(node), requirement.away_from_zero
    bounds = [x for x in (requirement.at_least, requirement.at_most) if x is not None]
    if least is not None:
        bounds.append(math.copysign(least, value))
    return Test(
        requirement.tier,
        str(requirement),
        requirement.state(percentile, interval, measurement.beyond_chance(node)),
        requirement.measure,
        UNITS.get(requirement.measure),
        value,
        *interval,
        chance=measurement.chance(node),
        percentile=percentile if len(measurement.null(node)) else None,
        n=measurement.n,
        bounds=tuple(bounds),
        size=least is not None,
        absence=requirement.only_absence,
    )


# --- from tests to a verdict --------------------------------------------------------------------


def outcome_of(tests: Sequence[Test], card: RoleCard | None = None) -> Outcome:
    """What the tests of both tiers say together.

    A card that names no role at all, `other`, says only that the component matters.
    """
    pattern, causal = _tier(tests, "pattern"), _tier(tests, "causal")
    states = {pattern, causal} - {None}
    if states == {"holds"}:
        return "matters" if card is not None and card.name == "other" else "supported"
    if states == {"fails"}:
        return "refuted"
    if "unclear" in states:
        return "inconclusive"
    return "pattern_only" if pattern == "holds" else "causal_only"


def _tier(tests: Sequence[Test], tier: Tier) -> State | None:
    """The worst state among the tests of a tier; None if the card has none."""
    states = {test.state for test in tests if test.tier == tier}
    return next((state for state in WORST if state in states), None)


def deciding_of(tests: Sequence[Test]) -> Test:
    """The test behind the outcome: the first that fails, else the first that is unclear.

    Where all hold it is the one with the least margin. A requirement that something is absent
    decides only where nothing else was tested.
    """
    for state in ("fails", "unclear"):
        if in_state := [test for test in tests if test.state == state]:
            return next((test for test in in_state if test.value is not None), in_state[0])
    positive = [test for test in tests if not test.absence]
    return min(positive or tests, key=lambda test: test.margin)


def verdict_of(
    label: Label, judge: str, outcome: Outcome, tests: Sequence[Test], reason: str
) -> Verdict:
    """A verdict with the numbers of the test that decided it.

    A negative value that had to be away from zero is shown as its size.
    """
    deciding = deciding_of(tests)
    if deciding.value is None:
        return Verdict(label.id, judge, outcome, None, None, None, 0, reason)
    negative = deciding.size and deciding.value < 0
    value, low, high = deciding.value, deciding.low, deciding.high
    if negative:
        value, low, high = -value, -high, -low
    rank = deciding.percentile
    return Verdict(
        label_id=label.id,
        judge=judge,
        outcome=outcome,
        score=round(value, 5),
        chance=round(deciding.chance, 5),
        percentile=None if rank is None else round(rank, 4),
        n=deciding.n,
        reason=reason,
        measure=f"minus {deciding.measure}" if negative else deciding.measure,
        unit=deciding.unit,
        low=round(low, 5),
        high=round(high, 5),
    )
