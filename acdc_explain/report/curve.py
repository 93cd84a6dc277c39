"""The curve of faithfulness by circuit size, with a line for each way of finding circuits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..records.run.size import CircuitSize

LEFT, RIGHT, TOP, BOTTOM = 30.0, 280.0, 15.0, 105.0  # edges of the plot, in pixels


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    n_edges: int
    share: float
    highlighted: bool  # the circuit of the page


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]  # by size


@dataclass(frozen=True, slots=True)
class Curve:
    lines: tuple[Line, ...]
    sizes: tuple[int, int]  # the smallest and the largest
    shares: tuple[float, float]


def curve(sizes: Sequence[CircuitSize], highlight: str | None = None) -> Curve | None:
    """Place circuits on a picture of 330 by 130 pixels, with a logarithmic axis of sizes.

    Args:
        sizes: The circuits; those without edges or with a faithfulness that is not finite are
            left out.
        highlight: The id of the circuit to mark.

    Returns:
        None if all circuits have the same size.
    """
    circuits = [x for x in sizes if x.n_edges > 0 and math.isfinite(x.share)]
    counts = [circuit.n_edges for circuit in circuits]
    if len(set(counts)) < 2:
        return None
    smallest, largest = min(counts), max(counts)
    shares = [circuit.share for circuit in circuits]
    least, most = min(0.0, *shares), max(1.0, *shares)

    def point(circuit: CircuitSize) -> Point:
        right = math.log(circuit.n_edges / smallest) / math.log(largest / smallest)
        up = (circuit.share / 2 - least / 2) / (most / 2 - least / 2)
        x, y = LEFT + (RIGHT - LEFT) * right, BOTTOM - (BOTTOM - TOP) * up
        return Point(x, y, circuit.n_edges, circuit.share, circuit.circuit_id == highlight)

    lines = [
        Line(name, tuple(map(point, sorted(members, key=lambda x: (x.n_edges, x.share)))))
        for name, members in _by_name(circuits).items()
    ]
    return Curve(tuple(lines), (smallest, largest), (least, most))


def _by_name(sizes: Sequence[CircuitSize]) -> dict[str, list[CircuitSize]]:
    """Group circuits by how they were found.

    A group is named after its discoverer and the settings in which it differs from other groups of
    the same discoverer.
    """
    ways: dict[Any, list[CircuitSize]] = {}
    for circuit in sizes:
        ways.setdefault(circuit.way, []).append(circuit)
    named: dict[str, list[CircuitSize]] = {}
    for (discoverer, settings), members in sorted(ways.items()):
        others = [dict(other) for name, other in ways if name == discoverer]
        differing = [f"{k} {v}" for k, v in settings if any(o.get(k) != v for o in others)]
        named[", ".join([discoverer, *differing])] = members
    return named
