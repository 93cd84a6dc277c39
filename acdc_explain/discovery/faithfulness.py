"""Faithfulness: how much of the behavior a circuit carries, compared with random circuits."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Iterator, Sequence

from ..models.contrast import Contrast
from ..records.circuit import LOGITS, Edge, Faithfulness, Node
from ..records.graph import Receiver, SearchGraph, prune
from .engine.choose import AnyEngine, engine_for
from .engine.fast import TooLittleMemory
from .engine.reference import ReferenceEngine

DRAWS = 5  # random circuits


def faithfulness(
    contrast: Contrast, edges: Iterable[Edge], *, draws: int = DRAWS, seed: int = 0
) -> Faithfulness:
    """The metric for the whole model, for a circuit alone, and with every edge cut.

    Args:
        contrast: The model and the prompts on which it is measured.
        edges: Those of the circuit.
        draws: The number of random circuits of as many edges.
        seed: Decides the random circuits.

    Returns:
        The metrics, with the median over the random circuits.
    """
    kept = list(edges)
    search_graph = SearchGraph.of(
        contrast.model.graph, kept, contrast.place_names if _split(kept) else ()
    )
    engine = _engine(contrast, search_graph)
    if len(kept) == sum(1 for _ in search_graph.edges()):
        draws = 0  # the whole model: there is no other circuit of the size
    measured = [
        engine.measure(random_circuit(search_graph, len(kept), f"{seed} {draw}"))
        for draw in range(draws)
    ]
    return Faithfulness(
        contrast.metric_name,
        contrast.clean_metric,
        engine.measure(kept),
        contrast.corrupt_metric,
        statistics.median(measured) if measured and kept else None,
    )


def _split(edges: Iterable[Edge]) -> bool:
    return any(edge.src.place is not None for edge in edges)


def _engine(contrast: Contrast, search_graph: SearchGraph) -> AnyEngine:
    """The fast engine, or the reference engine, which needs less memory for a few circuits."""
    try:
        return engine_for(contrast, search_graph)
    except TooLittleMemory:
        return ReferenceEngine(contrast, search_graph)


def random_circuit(search_graph: SearchGraph, n_edges: int, seed: str) -> list[Edge]:
    """At most `n_edges` random edges, all on paths from the input to the logits.

    Random paths are added as long as they fit. Edges drawn one by one would hardly form a path, and
    the circuit would carry nothing.
    """
    rng = random.Random(f"random circuit {seed}")
    chosen: dict[Edge, None] = {}
    failures = 0
    while len(chosen) < n_edges and failures < 50:
        longer = dict.fromkeys([*chosen, *_path(search_graph, rng)])
        if len(longer) > n_edges or len(longer) == len(chosen):
            failures += 1
        else:
            chosen, failures = longer, 0
    return prune(chosen)


def _path(search_graph: SearchGraph, rng: random.Random) -> Iterator[Edge]:
    """A random path, edge by edge from the logits back to the input."""
    node: Node = LOGITS
    while node.kind != "input":
        receivers = _ports(search_graph, node)
        receiver, port = rng.choice(receivers)
        sender = rng.choice(search_graph.senders(receiver))
        yield Edge(sender, receiver, port)
        node = sender


def _ports(search_graph: SearchGraph, node: Node) -> Sequence[Receiver]:
    """The receivers of a node: its query at its place, keys and values there and before."""
    if node.kind in ("logits", "mlp"):
        return [(node, None)]
    places = search_graph.places[: search_graph.place(node) + 1] or (None,)
    earlier: list[Receiver] = [(node.at(place), "k") for place in places]
    earlier += [(node.at(place), "v") for place in places]
    return [(node, "q"), *earlier]
