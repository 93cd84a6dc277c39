"""Randomised circuits with the same degrees and layers: the null distribution of a motif's count.

Pairs of edges exchange their receivers, as in Milo et al. 2002: `a->b` and `c->d` become `a->d` and
`c->b`, where a and c are in the same layer or b and d are. This keeps how many edges leave each
sender, how many enter each port, and how many run between each pair of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ...records.circuit import Edge, Node
from ...records.graph import Receiver

ROUNDS = 10  # exchanges tried for each edge, by each of the two rules


def randomised(edges: Sequence[Edge], n: int, seed: int) -> list[list[tuple[Node, Receiver]]]:
    """`n` randomised circuits, each as pairs of sender and receiver without token positions."""
    pairs = sorted({(e.src.base, (e.dst.base, e.port)) for e in edges}, key=str)
    senders = list(dict.fromkeys(src for src, _ in pairs))
    receivers = list(dict.fromkeys(receiver for _, receiver in pairs))
    sources = np.array([senders.index(src) for src, _ in pairs], dtype=np.int64)
    start = np.array([receivers.index(receiver) for _, receiver in pairs], dtype=np.int64)
    targets = np.tile(start, (n, 1))
    if len(pairs) > 1 and n:
        stages = (_stages(senders)[sources], _stages([node for node, _ in receivers]))
        _exchange(sources, targets, stages, np.random.default_rng(seed))
    return [[(senders[s], receivers[t]) for s, t in zip(sources, row)] for row in targets.tolist()]


def _stages(nodes: Sequence[Node]) -> Int[np.ndarray, " nodes"]:
    """A number for each layer of heads or of MLPs."""
    stages = [(node.kind, node.layer) for node in nodes]
    known = list(dict.fromkeys(stages))
    return np.array([known.index(stage) for stage in stages], dtype=np.int64)


def _exchange(
    sources: Int[np.ndarray, " edges"],
    targets: Int[np.ndarray, "n edges"],
    stages: tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " receivers"]],
    rng: np.random.Generator,
) -> None:
    """Exchange receivers in place, in all circuits at once, so that no edge occurs twice.

    `stages`: the layer of each edge's sender, and of each receiver.
    """
    n, width = targets.shape
    rows = np.arange(n)
    exists: Bool[np.ndarray, "n senders receivers"] = np.zeros(
        (n, int(sources.max()) + 1, int(targets.max()) + 1), dtype=bool
    )
    exists[rows[:, None], sources[None], targets] = True
    of_source, of_target = stages
    everywhere = np.ones(n, dtype=bool)
    same_layer = [np.flatnonzero(of_source == stage) for stage in of_source]
    counts = np.array([len(group) for group in same_layer])
    table: Int[np.ndarray, "edges same_layer"] = np.stack(
        [np.resize(group, counts.max()) for group in same_layer]
    )
    one: Any
    other: Any  # rng.integers of a size is an array, whatever its stub says
    for attempt in range(2 * ROUNDS * width):
        one = rng.integers(width, size=n)
        if attempt % 2:  # senders of one layer
            other = table[one, rng.integers(1 << 30, size=n) % counts[one]]
            allowed = everywhere
        else:
            other = rng.integers(width, size=n)
            allowed = of_target[targets[rows, one]] == of_target[targets[rows, other]]
        first, second = targets[rows, one], targets[rows, other]
        free = ~exists[rows, sources[one], second] & ~exists[rows, sources[other], first]
        chosen = rows[free & allowed]
        one, other, first, second = (x[chosen] for x in (one, other, first, second))
        exists[chosen, sources[one], first] = exists[chosen, sources[other], second] = False
        exists[chosen, sources[one], second] = exists[chosen, sources[other], first] = True
        targets[chosen, one], targets[chosen, other] = second, first
