"""Questions about components of a circuit, with what the discovery prompts suggest about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from acdc_explain.claims.compose import compose, facts_of
from acdc_explain.evidence.behavior import behavior_of
from acdc_explain.experiments.contrasts import find_circuit
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Circuit, Node
from acdc_explain.records.claim import ClaimResult
from acdc_explain.records.evidence import CLAIMS, Evidence
from acdc_explain.records.question import Question, blind_names, true_names
from acdc_explain.records.run.behavior import Behavior


@dataclass
class Asker:
    """A circuit of a contrast, and the questions about its components."""

    contrast: Contrast
    max_edges: int = 60

    @cached_property
    def circuit(self) -> Circuit:
        options: dict[str, Any] = {"max_edges": self.max_edges}
        return find_circuit(self.contrast.task, self.contrast.model, "eap", **options)

    @cached_property
    def composed(self) -> list[ClaimResult]:
        kinds = load_plugins().claims()
        return compose(self.contrast, self.circuit, self.circuit.components, kinds)

    @cached_property
    def behavior(self) -> Behavior:
        return behavior_of(self.contrast)

    def about(self, name: str, *, blind: bool = True, evidence: bool = True) -> Question:
        node, plugins = Node.parse(name), load_plugins()
        found: list[Evidence] = []
        if evidence:
            facts = facts_of(self.contrast, node, self.composed)
            found = [Evidence(self.circuit.id, node, CLAIMS, {}, facts)]
        return Question(
            node=node,
            circuit=self.circuit,
            evidence=found,
            roles=plugins.roles(),
            task_description=self.contrast.task.description,
            position_names=self.contrast.task.position_names,
            shown=(blind_names if blind else true_names)(self.circuit),
            model=None if blind else self.contrast.model.name,
            kinds=plugins.claims(),
            behavior=self.behavior,
        )
