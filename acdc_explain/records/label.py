"""A proposed role for one component of a circuit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ids import content_id
from ..llm.exchange import Exchange
from .circuit import Node
from .evidence import Evidence


@dataclass(frozen=True, slots=True)
class Label:
    """The claim that a node plays a role in a circuit. Proposed here, granted by verdicts.

    `positions` names where the component acts, `confidence` is the labeler's own, 0 to 1.
    """

    circuit_id: str
    node: Node
    labeler: str
    role: str
    positions: tuple[str, ...]
    description: str
    confidence: float
    evidence_ids: tuple[str, ...]
    exchange_id: str | None = None

    @property
    def id(self) -> str:
        return content_id("label", self)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A label before it is known which circuit, node and labeler it belongs to."""

    role: str
    description: str
    confidence: float
    evidence_ids: tuple[str, ...]
    positions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelerReply:
    """A labeler's answer about one node.

    `exchange` holds the reply with the answer, where an LLM gave it. `findings` is what the
    labeler measured itself: it becomes evidence, and the labels cite it.
    """

    proposals: tuple[Proposal, ...]
    exchange: Exchange | None = None
    findings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A node that has no label, and why."""

    node: Node
    labeler: str
    reason: str


@dataclass(frozen=True, slots=True)
class LabelResult:
    """The answer to one question: labels, or a failure that says what went wrong.

    Or neither: the node is `waiting` for an answer that comes by way of a file.
    """

    question_id: str
    labels: tuple[Label, ...]
    exchange_ids: tuple[str, ...] = ()
    evidence: Evidence | None = None
    failure: Failure | None = None
    waiting: Node | None = None
