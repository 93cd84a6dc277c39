"""Evidence: what happens to the metric when a component writes what it wrote when corrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

ACTS, IDLE = 0.05, 0.01  # shares of the gap: between them, nothing is said


def patching(contrast: Contrast, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """The total effect of resample ablation, under the task's own corruption and its others.

    `schemes_disagree` where it acts under one and not, or the other way, under another. Without a
    percentile: the null costs a run a node.
    """
    from acdc_explain.evidence.effects import of_nodes

    for node in nodes:
        value = of_nodes("ablation_effect", contrast, [node]).value(node)
        facts: dict[str, object] = {"measures": {"ablation_effect": {"value": round(value, 5)}}}
        others = {
            scheme: round(of_nodes("ablation_effect", other, [node]).value(node), 5)
            for scheme, other in contrast.schemes.items()
        }
        if others:
            facts["under_other_corruptions"] = others
            facts["schemes_disagree"] = _disagree([value, *others.values()])
        yield node, facts


def _disagree(values: Sequence[float]) -> bool:
    up, down = max(values) >= ACTS, min(values) <= -ACTS
    return (up and down) or ((up or down) and min(map(abs, values)) <= IDLE)


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"patching": patching}
