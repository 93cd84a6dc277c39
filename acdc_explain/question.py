"""All a labeler is shown about one component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .circuit import Circuit, Edge, Node
from .evidence import Evidence
from .role import RoleCard


@dataclass(frozen=True, slots=True)
class Question:
    """What role does this node play? With its evidence and the vocabulary to answer in."""

    node: Node
    circuit: Circuit
    evidence: Sequence[Evidence]
    roles: Mapping[str, RoleCard]
    task_description: str
    position_names: Sequence[str]

    @property
    def measured(self) -> dict[str, tuple[float, float]]:
        """Value and percentile of every measure the evidence holds; 0.5 where there is no null."""
        return {
            name: (facts["value"], facts.get("percentile", 0.5))
            for evidence in self.evidence
            for name, facts in evidence.measures.items()
        }

    @property
    def possible_roles(self) -> dict[str, RoleCard]:
        """The cards that speak of this kind of component."""
        return {n: c for n, c in self.roles.items() if c.kind in (self.node.kind, "any")}

    @property
    def inputs(self) -> list[Edge]:
        return [edge for edge in self.circuit.edges if edge.dst == self.node]

    @property
    def outputs(self) -> list[Edge]:
        return [edge for edge in self.circuit.edges if edge.src == self.node]
