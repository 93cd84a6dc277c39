"""Evidence: what a head's value and output weights do with the tokens of the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

SCORES = ("copying", "negative_copying", "copying_strength", "successor_score", "relation_score")


def weights(contrast: Contrast, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """For heads: whether attending to a token raises its logit (copying) or lowers it."""
    from acdc_explain.evidence.measures import measure_all

    measurements, reasons = measure_all(SCORES, contrast)
    for node in nodes:
        if node.kind != "head":
            yield node, {}
            continue
        measures = {name: m.facts(node) for name, m in measurements.items()}
        yield node, {"measures": measures, "not_measured": reasons}


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"weights": weights}
