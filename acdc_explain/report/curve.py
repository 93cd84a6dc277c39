"""The circuits of a task and model by size: a line for each way of finding them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..records.run.size import CircuitSize

LEFT, RIGHT, TOP, BOTTOM = 30.0, 280.0, 15.0, 105.0  # of the picture


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    n_edges: int
    share: float
    own: bool  # the circuit of the page


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]  # by size


@dataclass(frozen=True, slots=True)
class Curve:
    lines: tuple[Line, ...]
    sizes: tuple[int, int]  # the smallest and the largest
    shares: tuple[float, float]


def curve(sizes: Sequence[CircuitSize], own: str | None = None) -> Curve | None:
    """On a picture of 330 by 130, sizes by logarithm; None where all have one size.

    `own`: the id of the circuit to mark.
    """
    found = [one for one in sizes if one.n_edges > 0 and math.isfinite(one.share)]
    counts = [one.n_edges for one in found]
    if len(set(counts)) < 2:
        return None
    smallest, largest = min(counts), max(counts)
    least, most = min(0.0, *(one.share for one in found)), max(1.0, *(one.share for one in found))

    def point(one: CircuitSize) -> Point:
        right = math.log(one.n_edges / smallest) / math.log(largest / smallest)
        up = (one.share / 2 - least / 2) / (most / 2 - least / 2)
        x, y = LEFT + (RIGHT - LEFT) * right, BOTTOM - (BOTTOM - TOP) * up
        return Point(x, y, one.n_edges, one.share, one.circuit_id == own)

    lines = [
        Line(name, tuple(map(point, sorted(members, key=lambda one: (one.n_edges, one.share)))))
        for name, members in _by_name(found).items()
    ]
    return Curve(tuple(lines), (smallest, largest), (least, most))


def _by_name(sizes: Sequence[CircuitSize]) -> dict[str, list[CircuitSize]]:
    """Ways named by their discoverer and whatever tells them apart from another way here."""
    ways: dict[Any, list[CircuitSize]] = {}
    for one in sizes:
        ways.setdefault(one.way, []).append(one)
    named: dict[str, list[CircuitSize]] = {}
    for (discoverer, settings), members in sorted(ways.items()):
        others = [dict(other) for name, other in ways if name == discoverer]
        differing = [f"{k} {v}" for k, v in settings if any(o.get(k) != v for o in others)]
        named[", ".join([discoverer, *differing])] = members
    return named
