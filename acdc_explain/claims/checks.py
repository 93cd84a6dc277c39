"""What a test of a claim measures, and when the claim holds.

A check is one number of a component with its interval, what chance would give, and the same number
of other components. A claim holds if all its checks hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..evidence.measurement import Measurement
from ..records.circuit import Node
from ..records.claim import ClaimOutcome

SPECIFIC = 0.9  # of the components of the kind that do not make the claim must have less
SIZE = 2.0  # a value may differ from the claimed one by this factor
WORST: tuple[ClaimOutcome, ...] = ("untested", "fails", "unclear", "holds")


@dataclass(frozen=True)
class Check:
    """One measure of a claim's test, with the sign that makes the claimed direction positive.

    Attributes:
        measurement: The samples of the component, of its control, and of others of its kind.
        unit: The unit of the value.
        least: The least value that supports the claim.
        size: The value that is claimed, if one is.
        for_null: Whether other components were measured, so that `specific` has a meaning.
    """

    measurement: Measurement
    unit: str
    least: float = 0.0
    size: float | None = None
    for_null: bool = True


@dataclass(frozen=True)
class Checked:
    """A check with its outcome. `p`: the probability of such a value by chance, one-sided."""

    check: Check
    outcome: ClaimOutcome
    value: float
    low: float
    high: float
    chance: float
    percentile: float | None
    p: float

    def __str__(self) -> str:
        check = self.check
        bound = f", at least {check.least:g}" if check.least else ""
        size = "" if check.size is None else f", claimed {check.size:.3g}"
        return (
            f"{check.measurement.measure} {self.value:.3g} [{self.low:.3g}, {self.high:.3g}] "
            f"{check.unit} (chance {self.chance:.3g}{bound}{size})"
        )


def decide(check: Check, node: Node, group: Sequence[Node]) -> Checked:
    """Whether a check holds for a component.

    Args:
        check: What was measured.
        node: The component.
        group: The components that make the same claim, which are no null for each other.
    """
    measurement = check.measurement
    value, (low, high) = measurement.value(node), measurement.interval(node)
    above, _ = measurement.beyond_chance(node)
    chance = measurement.chance(node)
    states = [_state(above[0] > 0, above[1] <= 0)]
    if check.least:
        states.append(_state(low >= check.least, high < check.least))
    if check.size is not None:
        smallest, largest = sorted((check.size / SIZE, check.size * SIZE))
        states.append(_state(smallest <= value <= largest, high < smallest or low > largest))
    outcome = next(state for state in WORST if state in states)
    return Checked(
        check, outcome, value, low, high, chance, _percentile(check, node, group),
        _p_value(value, max(chance, 0.0), low, high),
    )  # fmt: skip


def _state(sure: bool, impossible: bool) -> ClaimOutcome:
    return "fails" if impossible else "holds" if sure else "unclear"


def _percentile(check: Check, node: Node, group: Sequence[Node]) -> float | None:
    """The share of the measured components outside the group with a smaller value."""
    if not check.for_null:
        return None
    measurement, excluded = check.measurement, {node, *group}
    others = [measurement.value(other) for other in measurement.nodes if other not in excluded]
    value = measurement.value(node)
    return sum(other < value for other in others) / len(others) if others else None


def _p_value(value: float, chance: float, low: float, high: float) -> float:
    """One-sided, by a normal distribution as wide as the interval on the side of chance.

    The intervals of ratios are skewed, and only that side says how likely chance is.
    """
    error = (value - low if value > chance else high - value) / 1.96
    if error <= 0:
        return 0.0 if value > chance else 1.0
    return 0.5 * math.erfc((value - chance) / error / math.sqrt(2))


def discoveries(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which of several tests are discoveries at a false discovery rate.

    Benjamini and Hochberg 1995.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    last = -1
    for rank, i in enumerate(order, start=1):
        if p_values[i] <= rate * rank / len(p_values):
            last = rank
    accepted = set(order[:last]) if last > 0 else set()
    return [i in accepted for i in range(len(p_values))]


def measured(
    name: str,
    nodes: Sequence[Node],
    samples: Sequence[torch.Tensor],
    control: Sequence[torch.Tensor] | None = None,
    gaps: torch.Tensor | None = None,
) -> Measurement:
    """A Measurement from one tensor of samples for each node."""
    together = None if control is None else torch.stack(list(control)).double()
    samples_of_all = torch.stack(list(samples)).double()
    return Measurement(name, tuple(nodes), samples_of_all, together, gaps)
