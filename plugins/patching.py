"""Evidence: what happens to the metric when a component writes what it wrote when corrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.circuit import Node
    from acdc_explain.subject import Subject


def patching(subject: Subject, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """The total effect of resample ablation. Without a percentile: the null costs a run a node."""
    from acdc_explain.effects import of_nodes

    for node in nodes:
        value = of_nodes("ablation_effect", subject, [node]).value(node)
        yield node, {"measures": {"ablation_effect": {"value": round(value, 5)}}}


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"patching": patching}
