"""Evidence: the change of the metric when a component writes its output on the corrupted prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts
from acdc_explain.records.role import LEAST_EFFECT

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

# Share of the gap that is a clear effect, to compare corruptions; more than the card's LEAST_EFFECT
# asks for, as an effect between the two is neither clear nor absent.
CLEAR_EFFECT = 0.05
TOGETHER = 16  # nodes whose effects are read at once, so that a GPU need not wait for each


def patching(contrast: Contrast, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """The total effect of resample ablation, under the task's own corruption and its others.

    `schemes_disagree` if a component acts under one scheme, and has no effect or the opposite one
    under another. There is no percentile: the null would cost a run per node.
    """
    from acdc_explain.evidence.effects import of_nodes

    for start in range(0, len(nodes), TOGETHER):
        some = nodes[start : start + TOGETHER]
        effects = of_nodes("ablation_effect", contrast, some)
        under = {
            scheme: of_nodes("ablation_effect", other, some)
            for scheme, other in contrast.schemes.items()
        }
        for node in some:
            value = effects.value(node)
            facts: dict[str, object] = {"measures": {"ablation_effect": {"value": round(value, 5)}}}
            others = {scheme: round(found.value(node), 5) for scheme, found in under.items()}
            if others:
                facts["under_other_corruptions"] = others
                facts["schemes_disagree"] = _disagree([value, *others.values()])
            yield node, facts


def _disagree(values: Sequence[float]) -> bool:
    helps, hurts = max(values) >= CLEAR_EFFECT, min(values) <= -CLEAR_EFFECT
    return (helps and hurts) or ((helps or hurts) and min(map(abs, values)) <= LEAST_EFFECT)


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"patching": patching}
