"""Role cards: what a label claims, and the measurements that grant it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Tier = Literal["pattern", "causal"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """Bounds on one measure (see experiments.MEASURES) and on its rank among its kind.

    `tier`: "pattern" says what the component does anywhere, "causal" what it does in the circuit.
    `away_from_zero` and `near_zero` bound the size of the value, whatever its sign.
    `above` and `below` bound the share (0 to 1) of all nodes of the kind that score lower.
    """

    tier: Tier
    measure: str
    at_least: float | None = None
    at_most: float | None = None
    away_from_zero: float | None = None
    near_zero: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float, percentile: float) -> bool:
        """Whether a measurement meets the bounds."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.away_from_zero is None or abs(value) >= self.away_from_zero)
            and (self.near_zero is None or abs(value) <= self.near_zero)
            and (self.above is None or percentile >= self.above)
            and (self.below is None or percentile <= self.below)
        )

    def certain(self, low: float, high: float, chance: float) -> bool:
        """Whether an interval of the value leaves no doubt.

        It lies wholly within the bound, or wholly beyond chance (what is usual for the kind).
        """
        if self.near_zero is not None:
            return max(abs(low), abs(high)) <= self.near_zero
        if self.away_from_zero is not None:
            return low > 0 or high < 0
        if self.at_most is not None or self.below is not None:
            return high < chance or (self.at_most is not None and high <= self.at_most)
        return low > chance or (self.at_least is not None and low >= self.at_least)

    def __str__(self) -> str:
        bounds = {
            ">= {:g}": self.at_least,
            "<= {:g}": self.at_most,
            "|.| >= {:g}": self.away_from_zero,
            "|.| <= {:g}": self.near_zero,
            "above {:.0%} of its kind": self.above,
            "below all but {:.0%} of its kind": self.below,
        }
        said = [text.format(bound) for text, bound in bounds.items() if bound is not None]
        return f"{self.measure} " + ", ".join(said)


@dataclass(frozen=True, slots=True)
class RoleCard:
    """A word of the vocabulary, the claim it makes and the tests the claim must pass."""

    name: str
    kind: Literal["head", "mlp", "any"]
    claim: str
    requirements: tuple[Requirement, ...]
    aliases: tuple[str, ...] = ()
    source: str = ""

    def tests(self, tier: Tier) -> tuple[Requirement, ...]:
        return tuple(r for r in self.requirements if r.tier == tier)

    def missing(self, measured: Mapping[str, tuple[float, float]]) -> list[Requirement]:
        """The requirements that (value, percentile) by measure fail, or do not speak of."""
        return [
            requirement
            for requirement in self.requirements
            if requirement.measure not in measured
            or not requirement.holds(*measured[requirement.measure])
        ]
