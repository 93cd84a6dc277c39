"""What a circuit does, in sentences that cite their nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ids import content_id, plain
from ..circuit import Circuit, Node
from ..claim import ClaimResult
from ..label import Label
from ..verdict import Verdict, worst


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence about the circuit, the nodes it speaks of, and the ids of claims it rests on."""

    text: str
    nodes: tuple[Node, ...]
    claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Sentences about a circuit, written by a labeler from verdicts and claims that hold."""

    run_id: str
    labeler: str
    sentences: tuple[Sentence, ...]
    exchange_id: str | None = None

    @property
    def id(self) -> str:
        """A hash of the content."""
        content = plain(self)
        for sentence in content["sentences"]:
            if not sentence["claims"]:  # which sentences of earlier stores do not have
                del sentence["claims"]
        return content_id("summary", content)


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
        results: The claims that explain the components, with their results.
        said: By claim id, the claim in words, in these names.
        blind: Whether these names say nothing.
    """

    circuit: Circuit
    task_description: str
    labels: Sequence[Label]
    verdicts: Mapping[str, Verdict]
    claims: Mapping[str, str]
    shown: Mapping[Node, str]
    results: Sequence[ClaimResult] = ()
    said: Mapping[str, str] = field(default_factory=dict)
    blind: bool = True

    @staticmethod
    def of(
        circuit: Circuit,
        task_description: str,
        labels: Sequence[Label],
        verdicts: Sequence[Verdict],
        claims: Mapping[str, str],
        shown: Mapping[Node, str],
        **rest: Any,
    ) -> SummaryQuestion:
        """The question, with the verdict that counts for each label; `rest`: its other fields."""
        decisive = {x.id: worst(v for v in verdicts if v.label_id == x.id) for x in labels}
        tested = {label: verdict for label, verdict in decisive.items() if verdict is not None}
        return SummaryQuestion(circuit, task_description, labels, tested, claims, shown, **rest)

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
