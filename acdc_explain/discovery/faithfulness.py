"""Faithfulness: how much of the behavior a circuit carries, compared with random circuits."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence

from ..models.activations import search_bytes
from ..models.contrast import Contrast
from ..records.circuit import LOGITS, Edge, Faithfulness, Node
from ..records.graph import Receiver, SearchGraph, prune
from ..records.task import Example
from .engine.choose import AnyEngine, engine_for
from .engine.fast import TooLittleMemory
from .engine.reference import ReferenceEngine

DRAWS = 5  # random circuits
PART = 0.125  # of the memory that a search may take: the prompts of one part take less


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
    if len(kept) == sum(1 for _ in search_graph.edges()):
        draws = 0  # the whole model: there is no other circuit of the size
    others = (random_circuit(search_graph, len(kept), f"{seed} {draw}") for draw in range(draws))
    metric, *random_metrics = _metrics(contrast, search_graph, [kept, *others])
    return Faithfulness(
        contrast.metric_name,
        contrast.clean_metric,
        metric,
        contrast.corrupt_metric,
        statistics.median(random_metrics) if random_metrics and kept else None,
    )


def _metrics(
    contrast: Contrast, search_graph: SearchGraph, circuits: Sequence[Sequence[Edge]]
) -> list[float]:
    """The mean metric of each circuit, some prompts at a time."""
    totals = [0.0] * len(circuits)
    for examples in _parts(contrast):
        part = contrast.of(examples)
        engine = _engine(part, search_graph)
        for number, circuit in enumerate(circuits):
            totals[number] += len(part) * engine.measure(circuit)
        del engine  # before that of the next part takes memory as well
        part.forget()
    return [total / len(contrast) for total in totals]


def _parts(contrast: Contrast) -> list[Sequence[Example]]:
    """The examples in parts of which each takes a share of the memory at most.

    In one part for mean ablation, which takes the mean over all prompts.
    """
    model = contrast.model
    numbers = contrast.clean.tokens.numel() * model.d_model
    most = search_bytes(model.graph, numbers, model.dtype.itemsize, model.has_post_norms)
    n_parts = min(len(contrast), math.ceil(most / (contrast.memory * 1e9 * PART)))
    size = len(contrast) if contrast.ablation == "mean" else math.ceil(len(contrast) / n_parts)
    return [contrast.examples[at : at + size] for at in range(0, len(contrast), size)]


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
