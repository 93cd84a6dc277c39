"""What a circuit does, in sentences that cite the nodes they speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ids import content_id
from ..circuit import Circuit, Node
from ..label import Label
from ..verdict import Verdict, worst


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Sentences about a run's circuit, written from its verdicts."""

    run_id: str
    labeler: str
    sentences: tuple[Sentence, ...]
    exchange_id: str | None = None

    @property
    def id(self) -> str:
        return content_id("summary", self)


@dataclass(frozen=True, slots=True)
class SummaryQuestion:
    """All that a summary is written from. `shown` are the names it may use for the nodes."""

    circuit: Circuit
    task_description: str
    labels: Sequence[Label]
    verdicts: Mapping[str, Verdict]  # the one that counts, by label id
    claims: Mapping[str, str]  # what each role says
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
        counting = {x.id: worst(v for v in verdicts if v.label_id == x.id) for x in labels}
        held = {name: verdict for name, verdict in counting.items() if verdict is not None}
        return SummaryQuestion(circuit, task_description, labels, held, claims, shown)

    def granted(self, node: Node) -> list[Label]:
        """The labels of a node that were supported, but for `other`, which claims nothing."""
        return [
            label
            for label in self.labels
            if label.node == node and label.role != "other" and self._outcome(label) == "supported"
        ]

    def _outcome(self, label: Label) -> str | None:
        verdict = self.verdicts.get(label.id)
        return verdict.outcome if verdict else None

    def outcomes(self, node: Node) -> list[tuple[str, str]]:
        """Role and outcome of every label of a node."""
        return [(x.role, self._outcome(x) or "untested") for x in self.labels if x.node == node]

    @property
    def by_role(self) -> dict[str, list[Node]]:
        """The nodes that were granted each role, in the order of the forward pass."""
        found: dict[str, list[Node]] = {}
        for node in self.circuit.components:
            for label in self.granted(node):
                found.setdefault(label.role, []).append(node)
        return found
