"""Evidence: where a head attends, on random tokens and between the task's named positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

PATTERNS = (
    "previous_token_attention",
    "duplicate_token_attention",
    "induction_attention",
    "fixed_offset_attention",
    "sink_attention",
    "first_value_norm",
    "attention_entropy",
    "largest_attention",
    "answer_attention",
    "foil_attention",
    "subject_attention",
)


def attention(contrast: Contrast, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """For heads: pattern scores, mean attention between named positions, one example's pattern."""
    from acdc_explain.evidence.attention import example_attention, named_attention
    from acdc_explain.evidence.measures import measure_all

    measurements, reasons = measure_all(PATTERNS, contrast)
    between = named_attention(contrast)
    for node in nodes:
        if node.kind != "head":
            yield node, {}
            continue
        yield (
            node,
            {
                "measures": {name: m.facts(node) for name, m in measurements.items()},
                "not_measured": reasons,
                "between_positions": between[node],
                "example": example_attention(contrast, node),
            },
        )


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"attention": attention}
