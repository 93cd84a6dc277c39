"""Circuits with the same degrees and layers whose edges lead elsewhere: the null of a motif.

Edges exchange receivers, as in Milo et al. 2002: of `a->b` and `c->d` become `a->d` and `c->b`,
where a and c are in the same layer or b and d are. So every sender keeps how many edges leave it,
every port how many enter it, and every pair of layers how many run between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ...records.circuit import Edge, Node
from ...records.graph import Receiver

ROUNDS = 10  # exchanges tried per edge, by either rule


def randomised(edges: Sequence[Edge], n: int, seed: int) -> list[list[tuple[Node, Receiver]]]:
    """`n` circuits, each the senders and receivers of as many edges. Places are left out."""
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
    """Exchange receivers in place, in all circuits at once; no edge occurs twice."""
    n, width = targets.shape
    rows = np.arange(n)
    held: Bool[np.ndarray, "n senders receivers"] = np.zeros(
        (n, int(sources.max()) + 1, int(targets.max()) + 1), dtype=bool
    )
    held[rows[:, None], sources[None], targets] = True
    of_source, of_target = stages
    everywhere = np.ones(n, dtype=bool)
    mates = [np.flatnonzero(of_source == stage) for stage in of_source]
    counts = np.array([len(group) for group in mates])
    table: Int[np.ndarray, "edges mates"] = np.stack(
        [np.resize(group, counts.max()) for group in mates]
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
        free = ~held[rows, sources[one], second] & ~held[rows, sources[other], first]
        chosen = rows[free & allowed]
        one, other, first, second = (x[chosen] for x in (one, other, first, second))
        held[chosen, sources[one], first] = held[chosen, sources[other], second] = False
        held[chosen, sources[one], second] = held[chosen, sources[other], first] = True
        targets[chosen, one], targets[chosen, other] = second, first
