"""How much of the behavior a circuit carries, beside random circuits of the same size."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Iterator, Sequence

from ..models.contrast import Subject
from ..records.circuit import LOGITS, Edge, Faithfulness, Node, prune
from ..records.graph import Receiver, View
from .engine.fast import AnyEngine, TooLittleMemory, engine_for
from .engine.reference import ReferenceEngine

DRAWS = 5


def faithfulness(
    subject: Subject, edges: Iterable[Edge], *, draws: int = DRAWS, seed: int = 0
) -> Faithfulness:
    """The subject's metric for the whole model, for these edges alone, and with all cut.

    Beside it the median over random circuits of as many edges.
    """
    kept = list(edges)
    view = View.of(subject.model.graph, kept, subject.place_names if _split(kept) else ())
    engine = _engine(subject, view)
    if len(kept) == sum(1 for _ in view.edges()):
        draws = 0  # the whole model: there is no other circuit of the size
    measured = [
        engine.measure(random_circuit(view, len(kept), f"{seed} {draw}")) for draw in range(draws)
    ]
    return Faithfulness(
        subject.metric_name,
        subject.clean_metric,
        engine.measure(kept),
        subject.corrupt_metric,
        statistics.median(measured) if measured and kept else None,
    )


def _split(edges: Iterable[Edge]) -> bool:
    return any(edge.src.place is not None for edge in edges)


def _engine(subject: Subject, view: View) -> AnyEngine:
    """Measuring one circuit takes one pass on the reference engine, which needs less memory."""
    try:
        return engine_for(subject, view)
    except TooLittleMemory:
        return ReferenceEngine(subject, view)


def random_circuit(view: View, n_edges: int, seed: str) -> list[Edge]:
    """At most `n_edges` edges at random, all of them on paths from the input to the logits.

    Paths through random edges are added until the next would be too long (a circuit of edges
    drawn one by one would be in pieces, and carry nothing at all).
    """
    rng = random.Random(f"random circuit {seed}")
    chosen: dict[Edge, None] = {}
    failures = 0
    while len(chosen) < n_edges and failures < 50:
        more = dict.fromkeys([*chosen, *_path(view, rng)])
        if len(more) > n_edges or len(more) == len(chosen):
            failures += 1
        else:
            chosen, failures = more, 0
    return prune(chosen)


def _path(view: View, rng: random.Random) -> Iterator[Edge]:
    """A path from the logits back to the input, a random edge at a time."""
    node: Node = LOGITS
    while node.kind != "input":
        receivers = _ports(view, node)
        receiver, port = rng.choice(receivers)
        sender = rng.choice(view.senders(receiver))
        yield Edge(sender, receiver, port)
        node = sender


def _ports(view: View, node: Node) -> Sequence[Receiver]:
    """What a node reads: its query at its own place, keys and values at any place before."""
    if node.kind in ("logits", "mlp"):
        return [(node, None)]
    places = view.places[: view.place(node) + 1] or (None,)
    earlier: list[Receiver] = [(node.at(place), "k") for place in places]
    earlier += [(node.at(place), "v") for place in places]
    return [(node, "q"), *earlier]
