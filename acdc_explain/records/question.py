"""Everything that a labeler sees of one component."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..ids import content_id
from .circuit import Circuit, Edge, Node
from .claim import Claim, ClaimResult, Statement, Topic
from .evidence import Evidence
from .role import RoleCard
from .run.behavior import Behavior


class Experiments(Protocol):
    """Experiments on one component that a labeler may ask for, on the discovery examples."""

    @property
    def catalogue(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """By name: what an experiment finds out, and the JSON schema of its arguments."""
        ...

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an experiment.

        Args:
            name: One of the catalogue.
            arguments: They must fit its schema.

        Returns:
            The result, as JSON.

        Raises:
            ValueError: The arguments make no sense.
        """
        ...


class Claimable(Protocol):
    """A kind of claim that a labeler may make (`hookspecs.ClaimKind`)."""

    @property
    def topic(self) -> Topic: ...

    @property
    def arguments(self) -> Any:
        """A pydantic model."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of components that it can be about."""
        ...

    @property
    def meaning(self) -> str: ...

    def says(self, arguments: Mapping[str, Any]) -> str:
        """A claim of this kind in words."""
        ...

    def claim(self, node: Node, name: str, arguments: Mapping[str, Any]) -> Claim:
        """A claim of this kind. Raises pydantic.ValidationError."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What does this node do? With its evidence, and the roles and claims to choose from.

    Attributes:
        node: The component.
        circuit: Its circuit.
        evidence: What collectors measured.
        roles: The role cards by name.
        task_description: What the model does.
        position_names: The named positions of the prompts.
        shown: The names under which a prompt may speak of the circuit's components.
        model: The model's name; None if the labeler must not know it.
        experiments: The experiments that the labeler may run; None if it may run none.
        kinds: The kinds of claims that the labeler may make, by name.
        behavior: How the model does on the discovery prompts; None if that is not known.
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
    kinds: Mapping[str, Claimable] = field(default_factory=dict)
    behavior: Behavior | None = None

    @property
    def suggested(self) -> list[ClaimResult]:
        """The claims that may hold, with what their tests said on the discovery prompts.

        They are of this component, even where it is shown the evidence of another one
        (`bench firewall`).
        """
        found = [result for item in self.evidence for result in item.suggested]
        return [
            replace(result, claim=replace(result.claim, node=self.node))
            for result in found
            if result.claim.name in self.kinds
        ]

    @property
    def claims(self) -> list[Statement]:
        """The claims that hold on the discovery prompts, without the results."""
        return [result.statement for result in self.suggested if result.outcome == "holds"]

    @property
    def measured(self) -> dict[str, tuple[float, float]]:
        """(value, percentile) of every measure in the evidence; 0.5 if there is no percentile."""
        return {
            name: (facts["value"], facts.get("percentile", 0.5))
            for evidence in self.evidence
            for name, facts in evidence.measures.items()
        }

    @property
    def possible_roles(self) -> dict[str, RoleCard]:
        """The role cards for this kind of component."""
        return {n: c for n, c in self.roles.items() if c.kind in (self.node.kind, "any")}

    @property
    def inputs(self) -> list[Edge]:
        """The circuit's edges into the component."""
        return [edge for edge in self.circuit.edges if edge.dst.base == self.node]

    @property
    def outputs(self) -> list[Edge]:
        """The circuit's edges out of the component."""
        return [edge for edge in self.circuit.edges if edge.src.base == self.node]


def blind_names(circuit: Circuit) -> dict[Node, str]:
    """H1, M2 ...: names that show the kind of a component and hide its layer and number."""
    nodes = sorted(circuit.components, key=str)
    edges = [str(edge) for edge in circuit.edges]  # all that names depend on
    random.Random(content_id("names", [circuit.task_id, circuit.model_id, edges])).shuffle(nodes)
    return {node: f"{'H' if node.kind == 'head' else 'M'}{n}" for n, node in enumerate(nodes, 1)}


def true_names(circuit: Circuit) -> dict[Node, str]:
    """The real names of the components."""
    return {node: str(node) for node in circuit.components}


def true_text(text: str, shown: Mapping[Node, str], others: Mapping[str, str] | None = None) -> str:
    """A text with the real names in place of the shown ones.

    Args:
        text: What a labeler wrote.
        shown: The names of components that it was shown.
        others: The real names of positions and variables, by those that it was shown.
    """
    true = {name: str(node) for node, name in shown.items()}
    true |= others or {}
    return re.sub(r"\b[HMPV]\d+\b", lambda match: true.get(match[0], match[0]), text)
