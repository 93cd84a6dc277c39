"""Role cards: what a label claims, and the measurements that must support it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar

from .circuit import Node
from .claim import ClaimResult, Statement

Tier = Literal["pattern", "causal"]
State = Literal["fails", "unclear", "holds"]
NO_ROLE = "other"  # the role of a label that names none
WORST: tuple[State, ...] = ("fails", "unclear", "holds")
Interval = tuple[float, float]

# Bounds of cards and claims that are also read elsewhere: to choose the heads whose inputs are
# tested (evidence/composition.py), to say that a component has no effect (collector `patching`),
# and to suggest the claims that may hold (claims/candidates.py).
COPYING = 0.5  # least `copying` of a mover, as a share of tokens
ATTENTION_AT_END = 0.1  # least attention of movers to the answer, of S-inhibition heads to the foil
STEERING = 0.05  # least `steers_movers` of an S-inhibition head, as a share of attention
COPIED = 0.5  # least share of tokens that a head `copies` or `suppresses`
MAPPED: Mapping[str, tuple[str, float]] = {
    "successor": ("successor_score", 0.5),
    "relation": ("relation_score", 0.3),
}
"""By relation that a head `maps`: its measure, and the least share of pairs."""
OF_THE_TOKEN = 0.5  # least R^2 of an MLP that reads the token alone
STANDS_IN = 0.05  # logits by which the direct effect of a backup rises without the others
LEAST_EFFECT = 0.01  # of `ablation_effect`, as a share of the gap: a smaller effect is none


@dataclass(frozen=True, slots=True)
class Requirement:
    """Bounds on one measure of a component and on its rank among the nodes of its kind.

    Attributes:
        tier: "pattern": what the component does on any text. "causal": what it does in the circuit.
        measure: The name of the measure, one of `evidence/measures.py`.
        at_least, at_most: Bounds on the value.
        away_from_zero, near_zero: Bounds on the size of the value, whatever its sign.
        above, below: Bounds on the percentile, the share (0 to 1) of nodes that score lower.
        instead: Alternatives. Where this requirement does not hold, one of them is enough.
        if_defined: It counts only where the measure is defined for the task and the component.
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

    @property
    def is_ranked(self) -> bool:
        """Whether it is about the rank among other components."""
        return self.above is not None or self.below is not None

    def holds(self, value: float, percentile: float) -> bool:
        """Whether a measurement meets the bounds, without the alternatives."""
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
        """Whether a measurement with its uncertainty meets the bounds.

        A lower bound, or an upper one of 0 or less, also requires a value beyond chance. An upper
        bound above 0 only says that something is absent.

        Args:
            percentile: The share (0 to 1) of nodes of the kind that score lower.
            interval: The confidence interval of the value.
            beyond: The intervals of the value minus chance and of chance minus the value
                (`Measurement.beyond_chance`).

        Returns:
            "holds" if it surely meets all bounds, "fails" if it surely misses one, else "unclear".
        """
        low, high = interval
        (above_low, above_high), (below_low, below_high) = beyond
        sure: list[bool] = []
        failed = [
            self.above is not None and percentile < self.above,
            self.below is not None and percentile > self.below,
        ]
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
        """Whether any small value meets it, as most components do: alone it supports nothing."""
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
        texts = [text.format(bound) for text, bound in bounds.items() if bound is not None]
        return " or ".join([f"{self.measure} " + ", ".join(texts), *map(str, self.instead)])

    @property
    def options(self) -> tuple[Requirement, ...]:
        """This requirement without alternatives, and each alternative."""
        return (replace(self, instead=()), *self.instead)

    def met(self, measured: Mapping[str, tuple[float, float]]) -> bool:
        """Whether measurements meet this requirement or one of its alternatives.

        Args:
            measured: (value, percentile) by the name of the measure.

        Returns:
            True also where the measure is missing and counts only if it is defined.
        """
        if self.if_defined and self.measure not in measured:
            return True
        return any(o.measure in measured and o.holds(*measured[o.measure]) for o in self.options)


@dataclass(frozen=True, slots=True)
class RoleClaim:
    """A claim that a role makes: its kind, and what its arguments may be.

    Attributes:
        name: The kind of claim, such as `attends`.
        allowed: By argument: the values that fit, or relations that its place must stand in
            (`Statement.also`). Of a receiver it is the kind: head, mlp or logits.
        positive: The sign that the claimed number `by` must have; None: any.
        instead: Alternatives.
    """

    name: str
    allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positive: bool | None = None
    instead: tuple[RoleClaim, ...] = ()

    def fits(self, statement: Statement) -> bool:
        """Whether a claim says this, or one of the alternatives."""
        return self._fits(statement) or any(other.fits(statement) for other in self.instead)

    def _fits(self, statement: Statement) -> bool:
        arguments = statement.claim.arguments
        if statement.claim.name != self.name:
            return False
        by = arguments.get("by")
        if self.positive is not None and (by is None or (by > 0) is not self.positive):
            return False
        return all(
            not {*_names(name, arguments.get(name)), *statement.also.get(name, ())}.isdisjoint(some)
            for name, some in self.allowed.items()
        )

    def __str__(self) -> str:
        parts = [f"{name} {' or '.join(some)}" for name, some in self.allowed.items()]
        if self.positive is not None:
            parts.append("by more than 0" if self.positive else "by less than 0")
        own = f"{self.name}({', '.join(parts)})" if parts else self.name
        return " or ".join([own, *map(str, self.instead)])


def _names(argument: str, value: Any) -> set[str]:
    """What an argument may be called on a card."""
    if argument == "receiver" and value is not None:
        return {str(value), Node.parse(str(value)).kind}
    return {str(value)}


Stated = TypeVar("Stated", Statement, ClaimResult)


@dataclass(frozen=True, slots=True)
class RoleCard:
    """A role: the claims that it makes about a component, and measurements that must hold.

    Attributes:
        name: The role's name, such as `induction`.
        kind: The kind of component that can play the role.
        claim: What a component with the role does, in a sentence.
        requirements: The measurements that must hold.
        aliases: Other names of the role in the literature.
        source: The paper that describes the role.
        claims: The claims that must hold, all at one position: there the component plays the role.
        unless: Claims of which none may hold, at any position: they say that it does the opposite.
    """

    name: str
    kind: Literal["head", "mlp", "any"]
    claim: str
    requirements: tuple[Requirement, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str = ""
    claims: tuple[RoleClaim, ...] = ()
    unless: tuple[RoleClaim, ...] = ()

    @property
    def sentence(self) -> str:
        """What a component with the role does, as a sentence of its own."""
        return f"{self.claim[0].upper()}{self.claim[1:]}."

    def tests(self, tier: Tier) -> tuple[Requirement, ...]:
        """The requirements of a tier."""
        return tuple(r for r in self.requirements if r.tier == tier)

    def against(self, claims: Sequence[Stated]) -> list[Stated]:
        """The claims that say the opposite of the role."""
        statements = (x if isinstance(x, Statement) else x.statement for x in claims)
        pairs = zip(claims, statements)
        return [x for x, s in pairs if any(unwanted.fits(s) for unwanted in self.unless)]

    def bundles(self, claims: Sequence[Stated]) -> dict[str, list[list[Stated]]]:
        """By position: of the claims made there, those that fit each claim of the role."""
        statements = [x if isinstance(x, Statement) else x.statement for x in claims]
        bundles: dict[str, list[list[Stated]]] = {}
        for at in dict.fromkeys(statement.at for statement in statements):
            here = [pair for pair in zip(claims, statements) if pair[1].at == at]
            bundles[at] = [[x for x, s in here if wanted.fits(s)] for wanted in self.claims]
        return bundles

    def complete_bundles(self, claims: Sequence[Stated]) -> list[list[list[Stated]]]:
        """The bundles of the positions at which every claim of the role is made."""
        return [bundle for bundle in self.bundles(claims).values() if all(bundle)]

    def grounds(self, claims: Sequence[Stated]) -> list[Stated]:
        """The claims by which a component has the role: of each kind the strongest, by position."""
        return [some[0] for bundle in self.complete_bundles(claims) for some in bundle]

    def missing(self, measured: Mapping[str, tuple[float, float]]) -> list[Requirement]:
        """The requirements that (value, percentile) by measure fail, or for which there is none."""
        return [r for r in self.requirements if not r.met(measured)]


@dataclass(frozen=True, slots=True)
class KnownRoles:
    """The known roles of some nodes of a model, to measure labels against.

    Attributes:
        model: The model's name.
        task: The task's name.
        roles: By node; `()` for a node that plays no part.
        decoys: Nodes with the pattern of a role that do nothing. A label that claims the role must
            not be supported.
        settings: Of the run that labels the nodes; by default every component is labeled.
    """

    model: str
    task: str
    roles: Mapping[Node, tuple[str, ...]]
    decoys: Mapping[Node, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"discoverer": "everything"})


AnswerKey: TypeAlias = Callable[[], Sequence[KnownRoles]]
