"""Evidence: what an MLP makes of the token it reads, and which of its neurons matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

SCORES = ("token_share", "few_neurons", "staircase")


def mlps(
    contrast: Contrast, nodes: Sequence[Node], *, neurons: int = 5
) -> Iterator[tuple[Node, Facts]]:
    """For MLPs: how much the token alone explains, the staircase over ordered answers, and neurons.

    Args:
        neurons: How many to list, those with the largest direct effect on answers minus foils.
    """
    from acdc_explain.evidence.measures import measure_all
    from acdc_explain.evidence.mlps import mean_neuron_effects

    measurements, reasons = measure_all(SCORES, contrast)
    effects_of = mean_neuron_effects(contrast, [node for node in nodes if node.kind == "mlp"])
    for node in nodes:
        if node.kind != "mlp":
            yield node, {}
            continue
        measures = {name: m.facts(node) for name, m in measurements.items()}
        facts: dict[str, object] = {"measures": measures, "not_measured": reasons}
        if node in effects_of:
            effects = effects_of[node]
            largest = effects.abs().topk(min(neurons, len(effects))).indices.tolist()
            facts["neurons"] = {str(n): round(float(effects[n]), 4) for n in largest}
        yield node, facts


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"mlps": mlps}
