"""Everything that a run holds about one component."""

from __future__ import annotations

from dataclasses import dataclass

from ..circuit import Node
from ..claim import ClaimResult, ComponentResult
from ..evidence import Evidence
from ..label import Label
from ..verdict import Verdict, worst


@dataclass(frozen=True, slots=True, repr=False)
class ComponentRecord:
    """A component with its evidence, labels and verdicts: `run["a9.h6"]`.

    Attributes:
        node: The head or MLP.
        evidence: What each collector measured.
        labels: The proposed roles.
        verdicts: Those on all labels; see `verdicts_of` for those on one.
        failure: Why there is no label; None if there is one, or if an LLM has not answered yet.
        claims: What is claimed about it, with the outcomes of the tests.
        result: How much it matters, and whether its claims explain it; None if that is not known.
    """

    node: Node
    evidence: tuple[Evidence, ...]
    labels: tuple[Label, ...]
    verdicts: tuple[Verdict, ...]
    failure: str | None = None
    claims: tuple[ClaimResult, ...] = ()
    result: ComponentResult | None = None

    def verdicts_of(self, label: Label) -> tuple[Verdict, ...]:
        """The verdicts on one of the labels."""
        return tuple(verdict for verdict in self.verdicts if verdict.label_id == label.id)

    def __repr__(self) -> str:
        roles = [f"{label.role} ({self._outcome(label)})" for label in self.labels]
        state = ", ".join(roles) or f"no label{f' ({self.failure})' if self.failure else ''}"
        measured = ", ".join(evidence.collector for evidence in self.evidence) or "none"
        return f"{self.node}: {state}; evidence: {measured}"

    def _outcome(self, label: Label) -> str:
        verdict = worst(self.verdicts_of(label))
        return verdict.outcome if verdict else "untested"
