"""Claims: sentences about one component that a program can test, and what the tests say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..ids import content_id
from .circuit import Edge, Node

Topic = Literal["where", "reads", "does", "weights"]
"""What a claim speaks of: where the component acts, what it reads or carries, what it does, or what
its weights would do with anything."""
TOPICS: tuple[Topic, ...] = ("where", "reads", "does", "weights")
EXPLAINING: tuple[Topic, ...] = ("reads", "does")  # the topics that an explanation must speak of
ClaimOutcome = Literal["holds", "fails", "unclear", "untested"]
OUTCOMES: tuple[ClaimOutcome, ...] = ("holds", "fails", "unclear", "untested")
Vote = Literal["agrees", "contradicts", "silent"]
RELATIONS = ("previous", "duplicate", "continuation", "first", "itself", "answer", "foil")
"""How keys may be named by where they stand to the query, or to the answer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about a component.

    Attributes:
        node: The component.
        name: The kind of claim, such as `attends`.
        arguments: Its arguments by name, such as `at` and `to`.
    """

    node: Node
    name: str
    arguments: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A hash of the content."""
        return content_id("claim", self)

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim in words, without any result: what a labeler sees of it.

    Attributes:
        claim: The claim.
        text: The claim in words.
        topic: What it speaks of.
        also: By argument: the relations by which its place is known as well in every prompt, such
            as `duplicate` or `answer` of the place S1.
    """

    claim: Claim
    text: str
    topic: Topic
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def at(self) -> str:
        """The position at which the component writes: END where the claim is on the logits."""
        return str(self.claim.arguments.get("at", "END"))


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """A claim with the outcome of its test.

    Attributes:
        claim: The claim.
        text: The claim in words.
        topic: What it speaks of.
        outcome: What the test says.
        value: The measure that decided; None if nothing could be measured.
        low, high: The 95 % interval of the value.
        chance: What the value would be if the claim were wrong.
        percentile: The share (0 to 1) of the components of the kind that do not make the claim and
            have a smaller value; None where there are none.
        unit: The unit of the value.
        n: The number of samples.
        specific: Whether nine in ten of these components have a smaller value.
        votes: What other corruptions of the prompts say, by name.
        reason: The measurements in words.
        also: Other names of its places, see `Statement`.
    """

    claim: Claim
    text: str
    topic: Topic
    outcome: ClaimOutcome
    value: float | None = None
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    percentile: float | None = None
    unit: str = ""
    n: int = 0
    specific: bool = False
    votes: Mapping[str, Vote] = field(default_factory=dict)
    reason: str = ""
    also: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        """The component that the claim is about."""
        return self.claim.node

    @property
    def statement(self) -> Statement:
        """The claim without the result."""
        return Statement(self.claim, self.text, self.topic, self.also)

    def is_about(self, edge: Edge) -> bool:
        """Whether it says what the sender of an edge does to its receiver, or carries there."""
        arguments, sender, receiver = self.claim.arguments, edge.src.base, edge.dst.base
        if sender != self.node:
            return False
        port = f"<{edge.port}>" if edge.port else ""
        fed = arguments.get("receiver") == str(receiver) and arguments.get("port") == edge.port
        return fed or arguments.get("through") == f"{receiver}{port}"

    @property
    def explains(self) -> bool:
        """Whether it holds, for few components, and is not contradicted by another corruption."""
        return self.outcome == "holds" and self.specific


ClaimsOf: TypeAlias = Mapping[Node, Sequence[ClaimResult]]
"""The results of the claims about each component."""


@dataclass(frozen=True, slots=True)
class ComponentResult:
    """How much a component matters, and whether it is explained.

    Attributes:
        node: The component.
        effect: The share of the gap that is lost when it alone is ablated.
        low, high: The 95 % interval of the effect.
        idle: Whether no corruption at any place makes it matter by more than 1 % of the gap.
        explained: Whether its claims explain it (`is_explained`); never if it is idle.
    """

    node: Node
    effect: float
    low: float
    high: float
    idle: bool
    explained: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A sentence of the algorithm of a circuit, with the ids of the claims that it rests on."""

    text: str
    claims: Sequence[str]


def is_explained(results: Sequence[ClaimResult]) -> bool:
    """Whether the claims about one component explain it.

    At one position, a specific claim on what it reads or carries and one on what it does must hold,
    and at most a third of those that hold or fail may fail: what is often wrong explains nothing.
    """
    topics: dict[str, set[str]] = defaultdict(set)
    for result in results:
        if result.explains:
            topics[result.statement.at].add(result.topic)
    counts = {x: sum(result.outcome == x for result in results) for x in ("holds", "fails")}
    complete = any({*EXPLAINING} <= some for some in topics.values())
    return complete and counts["holds"] >= 2 * counts["fails"]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a circuit is explained, of the components that are not idle.

    Attributes:
        components: The share of the components, 0 to 1; None if there are none.
        effect: The share of the summed sizes of their effects; None if it is 0.
        idle: The number of idle components.
        n: The number of components that are not idle.
    """

    components: float | None
    effect: float | None
    idle: int
    n: int

    @property
    def in_words(self) -> str:
        """The numbers in a sentence without a full stop."""
        idle = f"{self.idle} idle" if self.idle else "none is idle"
        if self.components is None:
            return f"no component to explain ({idle})"
        n = round(self.components * self.n)
        effect = "" if self.effect is None else f", with {self.effect:.0%} of the summed effect"
        return f"{n} of {self.n} components are explained ({self.components:.0%}){effect}; {idle}"

    @staticmethod
    def of(results: Sequence[ComponentResult]) -> Coverage:
        """The coverage of a circuit with these components."""
        active = [result for result in results if not result.idle]
        total = sum(abs(result.effect) for result in active)
        explained = [result for result in active if result.explained]
        return Coverage(
            components=len(explained) / len(active) if active else None,
            effect=sum(abs(result.effect) for result in explained) / total if total else None,
            idle=len(results) - len(active),
            n=len(active),
        )
