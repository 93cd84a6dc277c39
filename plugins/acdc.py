"""ACDC: cut every edge that the metric does not miss (Conmy et al. 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.circuit import LOGITS, Edge, Found
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import Discoverer

if TYPE_CHECKING:
    from acdc_explain.progress import Progress
    from acdc_explain.subject import Subject

DEFAULT_SHARE = 0.01  # of the gap between the clean and the corrupted metric


def acdc(subject: Subject, progress: Progress, *, tau: float | None = None) -> Found:
    """Go through the receivers from the output back and cut each incoming edge in turn.

    An edge stays cut if the metric worsens by less than `tau` (by default 1 % of the gap between
    the clean and the corrupted metric). A receiver without a kept outgoing edge loses all its
    inputs untested. One forward pass per tested edge.
    """
    from acdc_explain.engine import ReferenceEngine

    if tau is None:
        tau = DEFAULT_SHARE * abs(subject.clean_metric - subject.corrupt_metric)
    elif not (math.isfinite(tau) and tau >= 0):
        raise UserError(f"--tau is {tau}; give a number from 0 up.")
    engine = ReferenceEngine(subject)
    cut = engine.cut_none()
    metric = engine.metric(cut)
    kept: list[Edge] = []
    consumed = {LOGITS}  # nodes with a kept outgoing edge
    decided = tested = 0
    for node, port in engine.graph.receivers:
        for sender in engine.graph.senders(node):
            decided += 1
            edge = Edge(sender, node, port)
            cut[engine.index(edge)] = True
            if node not in consumed:
                continue
            tested += 1
            without = engine.metric(cut)
            worse = subject.sign * (metric - without)
            if worse < tau:
                metric = without
            else:
                cut[engine.index(edge)] = False
                kept.append(Edge(sender, node, port, worse))
                consumed.add(sender)
            note = f"{len(kept)} kept, {subject.metric_name} {metric:.3f}"
            progress("discover", decided, engine.graph.n_edges, note)
    progress("discover", decided, engine.graph.n_edges, f"{len(kept)} kept")
    return Found(tuple(kept), tested)


@hookimpl
def register_discoverers() -> dict[str, Discoverer]:
    return {"acdc": acdc}
