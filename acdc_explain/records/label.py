"""A proposed role for one component of a circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ids import content_id, plain
from ..llm.exchange import Exchange
from .circuit import Node
from .claim import Claim
from .evidence import Evidence


@dataclass(frozen=True, slots=True)
class Label:
    """The claim that a node plays a role in a circuit. Verdicts say whether it is supported.

    Attributes:
        circuit_id: The circuit.
        node: The component.
        labeler: The name of the labeler.
        role: The name of the role.
        positions: The named positions at which the component acts.
        description: What the component does, in a sentence.
        confidence: The labeler's, from 0 to 1.
        evidence_ids: The evidence that the labeler cites.
        exchange_id: The reply of the LLM with the label; None if no LLM was asked.
        claims: What the description claims, to be tested. Without any, only its role is tested.
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
    claims: tuple[Claim, ...] = ()

    @property
    def id(self) -> str:
        """A hash of the content."""
        content = plain(self)
        if not self.claims:  # which labels of earlier stores do not have
            del content["claims"]
        return content_id("label", content)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A label as a labeler returns it, without circuit, node and labeler. See `Label`."""

    role: str
    description: str
    confidence: float
    evidence_ids: tuple[str, ...]
    positions: tuple[str, ...] = ()
    claims: Sequence[Claim] = ()


@dataclass(frozen=True, slots=True)
class LabelerReply:
    """A labeler's answer about one node.

    Attributes:
        proposals: The labels.
        exchange: The exchange with the answer, if an LLM gave it.
        findings: What the labeler measured itself. It is stored as evidence that the labels cite.
    """

    proposals: tuple[Proposal, ...]
    exchange: Exchange | None = None
    findings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a node has no label."""

    node: Node
    labeler: str
    reason: str


@dataclass(frozen=True, slots=True)
class LabelResult:
    """The answer to one question: labels, a failure, or neither yet.

    Attributes:
        question_id: The question: node, labeler, settings and prompt.
        labels: The labels; empty after a failure.
        exchange_ids: All exchanges with the LLM.
        evidence: What the labeler measured.
        failure: Why there is no label.
        waiting: The node, if its answer is still to come in a batch file.
    """

    question_id: str
    labels: tuple[Label, ...]
    exchange_ids: tuple[str, ...] = ()
    evidence: Evidence | None = None
    failure: Failure | None = None
    waiting: Node | None = None
