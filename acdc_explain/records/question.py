"""All a labeler is shown about one component."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..ids import content_id
from .circuit import Circuit, Edge, Node
from .evidence import Evidence
from .role import RoleCard


class Experiments(Protocol):
    """Experiments on one component that a labeler may ask for, on the discovery examples."""

    @property
    def catalogue(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """By name: what an experiment finds out, and the JSON schema of its arguments."""
        ...

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was found, as JSON. Raises ValueError for arguments that make no sense."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What role does this node play? With its evidence and the vocabulary to answer in.

    `shown` are the names that may be told of the circuit's components; `model` is told only
    where nothing is hidden.
    """

    node: Node
    circuit: Circuit
    evidence: Sequence[Evidence]
    roles: Mapping[str, RoleCard]
    task_description: str
    position_names: Sequence[str]
    shown: Mapping[Node, str] = field(default_factory=dict)
    model: str | None = None
    experiments: Experiments | None = None

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
        return [edge for edge in self.circuit.edges if edge.dst.base == self.node]

    @property
    def outputs(self) -> list[Edge]:
        return [edge for edge in self.circuit.edges if edge.src.base == self.node]


def blind_names(circuit: Circuit) -> dict[Node, str]:
    """H1, M2 ...: names that tell a head from an MLP, and nothing of layer or number."""
    nodes = sorted(circuit.components, key=str)
    edges = [str(edge) for edge in circuit.edges]  # and nothing that changes with the program
    random.Random(content_id("names", [circuit.task_id, circuit.model_id, edges])).shuffle(nodes)
    return {node: f"{'H' if node.kind == 'head' else 'M'}{n}" for n, node in enumerate(nodes, 1)}


def true_names(circuit: Circuit) -> dict[Node, str]:
    return {node: str(node) for node in circuit.components}


def true_text(text: str, shown: Mapping[Node, str]) -> str:
    """What was written with shown names, with the true ones for people."""
    true = {name: str(node) for node, name in shown.items()}
    return re.sub(r"\b[HM]\d+\b", lambda found: true.get(found[0], found[0]), text)
