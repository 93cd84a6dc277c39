"""Two runs side by side: what they share, and which components are labeled differently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..records.circuit import Node
from ..records.label import Label
from ..records.run.run import Run
from ..records.verdict import worst

Outcomes = Mapping[str, str]  # of a node: from role to the outcome of its verdict


@dataclass(frozen=True, slots=True)
class Shared:
    """Names in both runs, in the first alone, in the second alone."""

    both: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    @staticmethod
    def of(first: Iterable[str], second: Iterable[str]) -> Shared:
        left, right = dict.fromkeys(first), dict.fromkeys(second)  # ordered sets
        return Shared(
            tuple(x for x in left if x in right),
            tuple(x for x in left if x not in right),
            tuple(x for x in right if x not in left),
        )

    @property
    def overlap(self) -> float | None:
        """The Jaccard index: the share of all names that are in both; None if there is no name."""
        total = len(self.both) + len(self.first) + len(self.second)
        return len(self.both) / total if total else None


@dataclass(frozen=True, slots=True)
class Change:
    """A component of both runs whose roles or outcomes differ."""

    node: Node
    first: Outcomes
    second: Outcomes


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs share by name; names of nodes and edges say little across models."""

    same_model: bool
    components: Shared
    edges: Shared
    roles: Shared  # supported ones
    motifs: Shared
    changes: tuple[Change, ...]


def compare(first: Run, second: Run) -> Comparison:
    """Compare two runs: components, edges, supported roles and motifs.

    Args:
        first: A run.
        second: Another one, perhaps of another task or model.

    Returns:
        What is in both and in one alone. Changes of labels are listed only if the model is the
        same.

    Raises:
        Nothing: a run without a circuit has no components.
    """
    runs = (first, second)
    nodes = [run.circuit.components if run.circuit else () for run in runs]
    both = [node for node in nodes[0] if node in nodes[1]]
    outcomes = [{node: _outcomes(run, node) for node in both} for run in runs]
    same_model = first.header.model_id == second.header.model_id
    changes = [
        Change(node, outcomes[0][node], outcomes[1][node])
        for node in both
        if same_model and outcomes[0][node] != outcomes[1][node]
    ]
    return Comparison(
        same_model=same_model,
        components=Shared.of(*(map(str, components) for components in nodes)),
        edges=Shared.of(*(map(str, run.circuit.edges if run.circuit else ()) for run in runs)),
        roles=Shared.of(*map(_supported, runs)),
        motifs=Shared.of(*((motif.pattern for motif in run.motifs) for run in runs)),
        changes=tuple(changes),
    )


def _outcomes(run: Run, node: Node) -> Outcomes:
    return {label.role: _outcome(run, label) for label in run.labels_of(node)}


def _outcome(run: Run, label: Label) -> str:
    verdict = worst(run.verdicts_of(label))
    return verdict.outcome if verdict else "untested"


def _supported(run: Run) -> Sequence[str]:
    roles = {label.role for label in run.labels if _outcome(run, label) == "supported"}
    return sorted(roles - {"other"})
