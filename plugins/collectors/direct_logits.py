"""Evidence: what a component adds directly to the logits at the last token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node


def direct_logits(
    contrast: Contrast, nodes: Sequence[Node], *, tokens: int = 6
) -> Iterator[tuple[Node, Facts]]:
    """Effect on answers minus foils, and the `tokens` most promoted and most suppressed."""
    from acdc_explain.evidence.effects import top_logits
    from acdc_explain.evidence.measures import measure

    direct = measure("direct_effect", contrast)
    strongest = top_logits(contrast, nodes, tokens)
    for node in nodes:
        promoted, suppressed = strongest[node]
        yield (
            node,
            {
                "measures": {"direct_effect": direct.facts(node)},
                "promoted": promoted,
                "suppressed": suppressed,
            },
        )


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"direct_logits": direct_logits}
