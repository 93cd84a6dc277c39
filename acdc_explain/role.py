"""Role cards: what a label claims, and the measurements that grant it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Tier = Literal["pattern", "causal"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """Bounds on one measure (see experiments.MEASURES) and on its rank among its kind.

    `tier`: "pattern" says what the component does anywhere, "causal" what it does in the circuit.
    `away_from_zero` and `near_zero` bound the size of the value, whatever its sign.
    `above` and `below` bound the share (0 to 1) of all nodes of the kind that score lower.
    Where this does not hold, one of `instead` will do. With `if_defined` it counts only where the
    measure has a meaning for the task and the component.
    """

    tier: Tier
    measure: str
    at_least: float | None = None
    at_most: float | None = None
    away_from_zero: float | None = None
    near_zero: float | None = None
    above: float | None = None
    below: float | None = None
    instead: tuple[Requirement, ...] = ()
    if_defined: bool = False

    def holds(self, value: float, percentile: float) -> bool:
        """Whether a measurement meets this requirement's own bounds."""
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
        return " or ".join([f"{self.measure} " + ", ".join(said), *map(str, self.instead)])

    @property
    def options(self) -> tuple[Requirement, ...]:
        """This one and what will do in its place, each by itself."""
        return (replace(self, instead=()), *self.instead)

    def met(self, measured: Mapping[str, tuple[float, float]]) -> bool:
        """Whether (value, percentile) by measure meets this or what will do in its place."""
        if self.if_defined and self.measure not in measured:
            return True
        return any(o.measure in measured and o.holds(*measured[o.measure]) for o in self.options)


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
        return [r for r in self.requirements if not r.met(measured)]
