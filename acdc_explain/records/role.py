"""Role cards: what a label claims, and the measurements that grant it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from .circuit import Node

Tier = Literal["pattern", "causal"]
State = Literal["fails", "unclear", "holds"]
WORST: tuple[State, ...] = ("fails", "unclear", "holds")
Interval = tuple[float, float]


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

    def state(
        self, percentile: float, interval: Interval, beyond: tuple[Interval, Interval]
    ) -> State:
        """What a measurement says: it surely meets all bounds, surely misses one, or cannot tell.

        `interval` is that of the value, `beyond` those of what it is above chance and below it
        (Measurement.beyond_chance). A lower bound, or an upper one of 0 or less, also asks for a
        value beyond chance; an upper bound above 0 only says that something is absent.
        """
        low, high = interval
        (above_low, above_high), (below_low, below_high) = beyond
        sure, failed = (
            [],
            [
                self.above is not None and percentile < self.above,
                self.below is not None and percentile > self.below,
            ],
        )
        if self.at_least is not None:
            sure += [low >= self.at_least, above_low > 0]
            failed += [high < self.at_least, above_high <= 0]
        if self.at_most is not None:
            sure += [high <= self.at_most, self.at_most > 0 or below_low > 0]
            failed += [low > self.at_most, self.at_most <= 0 and below_high <= 0]
        if self.away_from_zero is not None:
            bound = self.away_from_zero
            sure.append(low >= bound or high <= -bound)
            failed.append(-bound < low and high < bound)
        if self.near_zero is not None:
            sure.append(max(abs(low), abs(high)) <= self.near_zero)
            failed.append(low > self.near_zero or high < -self.near_zero)
        if any(failed):
            return "fails"
        return "holds" if all(sure) else "unclear"

    @property
    def only_absence(self) -> bool:
        """Whether it is met by whatever is small: true of most components, and no support alone."""
        absent = self.near_zero is not None or (self.at_most is not None and self.at_most > 0)
        return absent and self.at_least is None and self.away_from_zero is None

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


@dataclass(frozen=True, slots=True)
class KnownRoles:
    """The roles of some nodes; `()` for a node that plays no part.

    `decoys` have the pattern of a role and do nothing: a label that claims it must not pass.
    `settings` of the run that labels them; every component is labeled unless they say otherwise.
    """

    model: str
    task: str
    roles: Mapping[Node, tuple[str, ...]]
    decoys: Mapping[Node, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"discoverer": "everything"})


AnswerKey: TypeAlias = Callable[[], Sequence[KnownRoles]]
