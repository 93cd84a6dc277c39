"""Evidence: composition. How cutting a head from a later head changes what that head does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

# The inputs of the receiver that each measure cuts.
PORTS = {"feeds_induction": "<k>", "steers_movers": "<q>", "feeds_inhibition": "<k,v>"}


def routes(contrast: Contrast, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """For heads: effects on induction heads, movers and S-inhibition heads, and as a backup.

    Effects go through the keys of induction heads, the queries of movers, and the keys and values
    of S-inhibition heads. `into` names the receiver that changes most.
    """
    from acdc_explain.evidence.composition import receivers_by_sender
    from acdc_explain.evidence.measures import measure_all

    measurements, reasons = measure_all((*PORTS, "stands_in"), contrast)
    receivers = {
        name: receivers_by_sender(contrast, name) for name in PORTS if name in measurements
    }
    for node in nodes:
        measures = {name: m.facts(node) for name, m in measurements.items() if node in m.nodes}
        facts: dict[str, object] = {"measures": measures} if measures else {}
        if reasons and node.kind == "head":
            facts["not_measured"] = reasons
        inputs = {
            name: f"{receiver_of[node]}{PORTS[name]}"
            for name, receiver_of in receivers.items()
            if node in receiver_of
        }
        yield node, {**facts, "into": inputs} if inputs else facts


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"routes": routes}
