"""Evidence: whom a head reaches. What cutting it does to the heads that read it, seen there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Collector, Facts

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node

PORTS = {"feeds_induction": "<k>", "steers_movers": "<q>", "feeds_inhibition": "<k,v>"}


def routes(contrast: Contrast, nodes: Sequence[Node]) -> Iterator[tuple[Node, Facts]]:
    """For heads: effects on the keys of induction heads, the queries of movers, and the keys and
    values of S-inhibition heads, with the receiver moved most; and who stands in for movers."""
    from acdc_explain.evidence.composition import receivers_by_sender
    from acdc_explain.evidence.measures import measure_all

    found = measure_all((*PORTS, "stands_in"), contrast)
    into = {name: receivers_by_sender(contrast, name) for name in PORTS if name in found}
    for node in nodes:
        known = {name: m.facts(node) for name, m in found.items() if node in m.nodes}
        facts = {"measures": known} if known else {}
        receivers = {n: f"{who[node]}{PORTS[n]}" for n, who in into.items() if node in who}
        yield node, {**facts, "into": receivers} if receivers else facts


@hookimpl
def register_collectors() -> dict[str, Collector]:
    return {"routes": routes}
