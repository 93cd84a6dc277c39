"""The layout of a circuit on a page: layers from the bottom up, with few crossings of edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..records.circuit import Circuit, Edge, Node, Port, depth
from ..records.evidence import finite

WIDTH, ROW, NODE = 1000, 66, 86  # pixels: the page, from row to row, the least a node gets
MARGIN, LANE = 60, 130  # on the left for captions, on the right for MLPs
SWEEPS = 6  # over the rows, ordering by barycenters (Sugiyama et al. 1981)


@dataclass(frozen=True, slots=True)
class Spot:
    """A node and its center."""

    node: Node
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    """The curve of an edge."""

    edge: Edge
    path: str  # as SVG writes it
    width: float
    label: tuple[float, float]  # the place of its port's letter


@dataclass(frozen=True, slots=True)
class Drawing:
    width: float
    height: float
    spots: Sequence[Spot]
    lines: Sequence[Line]
    layers: Sequence[tuple[str, float]]  # a caption for each row, and its height


def draw(circuit: Circuit) -> Drawing:
    """Lay out a circuit: inputs at the bottom, logits on top, wide lines for large effects.

    The circuit must have an edge.
    """
    rows = _rows(circuit)
    _order(rows, circuit.edges)
    width = max(WIDTH, NODE * max(map(len, rows)) + MARGIN + LANE)
    height = ROW * len(rows) + 20
    spots, layers = {}, []
    for number, row in enumerate(rows):
        y = height - ROW * (number + 0.5) - 10
        layers.append((_caption(row[0]), y))
        for place, node in enumerate(row):
            spots[node] = Spot(node, _across(node, (place + 0.5) / len(row), width), y)
    effects = [abs(finite(edge.effect) or 0.0) for edge in circuit.edges]
    largest = max(effects, default=0.0) or 1.0
    lines = [_line(edge, spots, effect / largest) for edge, effect in zip(circuit.edges, effects)]
    return Drawing(width, height, list(spots.values()), lines, layers)


def _across(node: Node, share: float, width: float) -> float:
    """The x of a node; MLPs, one a layer, are in a lane on the right."""
    if node.kind == "mlp":
        return width - 60
    return MARGIN + (width - MARGIN - LANE) * share


def _rows(circuit: Circuit) -> list[list[Node]]:
    """Nodes of one layer and kind, in the order of the forward pass."""
    rows: dict[tuple[int | None, str], list[Node]] = {}
    for node in sorted(circuit.nodes, key=depth):
        rows.setdefault((node.layer, node.kind), []).append(node)
    return list(rows.values())


def _caption(node: Node) -> str:
    if node.layer is None:
        return node.kind
    return f"{'MLP' if node.kind == 'mlp' else 'layer'} {node.layer}"


def _order(rows: list[list[Node]], edges: Sequence[Edge]) -> None:
    """Sort each row so that nodes are near their neighbors, alternately from below and above."""
    neighbors: dict[Node, list[Node]] = {}
    for edge in edges:
        neighbors.setdefault(edge.src, []).append(edge.dst)
        neighbors.setdefault(edge.dst, []).append(edge.src)
    for sweep in range(SWEEPS):
        place = {node: (i + 0.5) / len(row) for row in rows for i, node in enumerate(row)}
        for row in rows if sweep % 2 else rows[::-1]:
            row.sort(key=lambda node: _middle(node, neighbors, place))
            place |= {node: (i + 0.5) / len(row) for i, node in enumerate(row)}


def _middle(node: Node, neighbors: Mapping[Node, list[Node]], place: Mapping[Node, float]) -> float:
    """The mean place of a node's neighbors; its own place if it has none."""
    others = [place[other] for other in neighbors.get(node, [])]
    return sum(others) / len(others) if others else place[node]


SHIFT: Mapping[Port | None, float] = {"q": -14.0, "k": 0.0, "v": 14.0, None: 0.0}


def _line(edge: Edge, spots: Mapping[Node, Spot], share: float) -> Line:
    """From the top of the sender to the port of the receiver: q left, k middle, v right."""
    start, end = spots[edge.src], spots[edge.dst]
    x0, y0, x1, y1 = start.x, start.y - 14, end.x + SHIFT[edge.port], end.y + 14
    bend = max(24.0, 0.45 * (y0 - y1))
    path = f"M{x0:.1f},{y0:.1f}C{x0:.1f},{y0 - bend:.1f} {x1:.1f},{y1 + bend:.1f} {x1:.1f},{y1:.1f}"
    return Line(edge, path, round(0.8 + 5 * share, 2), (x1, y1 + 10))
