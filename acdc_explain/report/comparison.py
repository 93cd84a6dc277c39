"""Two runs side by side: what they share, and what is labeled otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..records.circuit import Edge, Node
from ..records.label import Label
from ..records.run.run import Run
from ..records.verdict import worst

Standing = Mapping[str, str]  # the outcome of each role that a node was given


@dataclass(frozen=True, slots=True)
class Shared:
    """Things of two runs: in both, in the first alone, in the second alone."""

    both: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    @staticmethod
    def of(first: Iterable[str], second: Iterable[str]) -> Shared:
        one, other = dict.fromkeys(first), dict.fromkeys(second)
        return Shared(
            tuple(x for x in one if x in other),
            tuple(x for x in one if x not in other),
            tuple(x for x in other if x not in one),
        )

    @property
    def overlap(self) -> float | None:
        """Jaccard: the share of all that is in both."""
        whole = len(self.both) + len(self.first) + len(self.second)
        return len(self.both) / whole if whole else None


@dataclass(frozen=True, slots=True)
class Change:
    """A component of both runs whose roles or their outcomes differ."""

    node: Node
    first: Standing
    second: Standing


@dataclass(frozen=True, slots=True)
class Comparison:
    """Nodes and edges are compared by name: between models that says little, roles say more."""

    same_model: bool
    components: Shared
    edges: Shared
    roles: Shared  # supported ones
    motifs: Shared
    changes: tuple[Change, ...]


def compare(first: Run, second: Run) -> Comparison:
    runs = (first, second)
    nodes = [run.circuit.components if run.circuit else () for run in runs]
    both = [node for node in nodes[0] if node in nodes[1]]
    standings = [{node: _standing(run, node) for node in both} for run in runs]
    same_model = first.header.model_id == second.header.model_id
    changes = [
        Change(node, standings[0][node], standings[1][node])
        for node in both
        if same_model and standings[0][node] != standings[1][node]
    ]
    return Comparison(
        same_model=same_model,
        components=Shared.of(*(map(str, found) for found in nodes)),
        edges=Shared.of(*(map(_name, run.circuit.edges if run.circuit else ()) for run in runs)),
        roles=Shared.of(*map(_supported, runs)),
        motifs=Shared.of(*((motif.pattern for motif in run.motifs) for run in runs)),
        changes=tuple(changes),
    )


def _name(edge: Edge) -> str:
    return str(edge)


def _standing(run: Run, node: Node) -> Standing:
    return {label.role: _outcome(run, label) for label in run.labels_of(node)}


def _outcome(run: Run, label: Label) -> str:
    verdict = worst(run.verdicts_of(label))
    return verdict.outcome if verdict else "untested"


def _supported(run: Run) -> Sequence[str]:
    granted = {label.role for label in run.labels if _outcome(run, label) == "supported"}
    return sorted(granted - {"other"})
