"""What a circuit does, in sentences that cite their nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ids import content_id
from ..circuit import Circuit, Node
from ..label import Label
from ..verdict import Verdict, worst


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence about the circuit, and the nodes that it cites."""

    text: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Sentences about a run's circuit, written by a labeler from the verdicts."""

    run_id: str
    labeler: str
    sentences: tuple[Sentence, ...]
    exchange_id: str | None = None

    @property
    def id(self) -> str:
        """A hash of the content."""
        return content_id("summary", self)


@dataclass(frozen=True, slots=True)
class SummaryQuestion:
    """Everything from which a summary is written.

    Attributes:
        circuit: The circuit.
        task_description: What the model does.
        labels: All labels.
        verdicts: By label id, the verdict that counts.
        claims: By role, what it claims.
        shown: The names that the summary may use for the nodes.
    """

    circuit: Circuit
    task_description: str
    labels: Sequence[Label]
    verdicts: Mapping[str, Verdict]
    claims: Mapping[str, str]
    shown: Mapping[Node, str]

    @staticmethod
    def of(
        circuit: Circuit,
        task_description: str,
        labels: Sequence[Label],
        verdicts: Sequence[Verdict],
        claims: Mapping[str, str],
        shown: Mapping[Node, str],
    ) -> SummaryQuestion:
        """The question, with the verdict that counts for each label."""
        decisive = {x.id: worst(v for v in verdicts if v.label_id == x.id) for x in labels}
        tested = {label: verdict for label, verdict in decisive.items() if verdict is not None}
        return SummaryQuestion(circuit, task_description, labels, tested, claims, shown)

    def granted(self, node: Node) -> list[Label]:
        """The supported labels of a node, without `other`, which claims nothing."""
        return [
            label
            for label in self.labels
            if label.node == node and label.role != "other" and self._outcome(label) == "supported"
        ]

    def _outcome(self, label: Label) -> str | None:
        verdict = self.verdicts.get(label.id)
        return verdict.outcome if verdict else None

    def outcomes(self, node: Node) -> list[tuple[str, str]]:
        """The role and outcome of every label of a node."""
        return [(x.role, self._outcome(x) or "untested") for x in self.labels if x.node == node]

    @property
    def by_role(self) -> dict[str, list[Node]]:
        """By role, the nodes with a supported label of it, in the order of the forward pass."""
        nodes: dict[str, list[Node]] = {}
        for node in self.circuit.components:
            for label in self.granted(node):
                nodes.setdefault(label.role, []).append(node)
        return nodes
