"""Nodes and edges of a transformer's residual-stream graph, and the part of it a circuit keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..ids import content_id
from .display import as_html

Kind = Literal["input", "head", "attn", "mlp", "logits"]
Port = Literal["q", "k", "v"]
PORTS: tuple[Port, ...] = ("q", "k", "v")

MOST_LAYERS, MOST_HEADS = (1 << 19) - 2, 4094
"""No model has as many. Stores count on it: beyond, two nodes would share a key."""

_NODE = re.compile(
    r"(?:(?P<end>input|logits)|m(?P<mlp>\d+)|a(?P<layer>\d+)(?:\.h(?P<head>\d+))?)"
    r"(?:@(?P<place>[\w.+']+))?"
)
_EDGE = re.compile(r"(?P<src>[^<>\s-]+)->(?P<dst>[^<>\s-]+?)(?:<(?P<port>[qkv])>)?")


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """A writer or reader of the residual stream; prints as the field does: a9.h6, m3, logits.

    `attn` is a whole attention layer (a9). `place` is the named position at which the node reads
    and writes (a9.h6@S2); None: at all of them.
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= (self.layer or 0) < MOST_LAYERS or not 0 <= (self.head or 0) < MOST_HEADS:
            raise ValueError(f"{str(self)[:40]!r} is no node: no model has such a layer or head")

    def __str__(self) -> str:
        names = {
            "head": f"a{self.layer}.h{self.head}",
            "attn": f"a{self.layer}",
            "mlp": f"m{self.layer}",
        }
        return names.get(self.kind, self.kind) + (f"@{self.place}" if self.place else "")

    @property
    def base(self) -> Node:
        """The node at all positions."""
        return self if self.place is None else replace(self, place=None)

    def at(self, place: str | None) -> Node:
        return replace(self, place=place)

    @staticmethod
    def parse(text: str) -> Node:
        """The node a name stands for. Raises ValueError."""
        match = _NODE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no node; nodes are input, logits, m3, a9.h6 or a9.h6@S2")
        place = match["place"]
        if match["mlp"]:
            return Node("mlp", int(match["mlp"]), place=place)
        if match["head"]:
            return Node("head", int(match["layer"]), int(match["head"]), place)
        if match["layer"]:
            return Node("attn", int(match["layer"]), place=place)
        return (INPUT if match["end"] == "input" else LOGITS).at(place)


INPUT = Node("input")
LOGITS = Node("logits")


@dataclass(frozen=True, slots=True)
class Edge:
    """A sender's contribution to what a receiver reads, at one port of it if it is a head.

    `effect`: how much worse the metric became when the edge was cut (an estimate for EAP).
    `share`: where the search was repeated in other orders, in how many of them it was kept.
    """

    src: Node
    dst: Node
    port: Port | None = None
    effect: float = field(default=0.0, compare=False)
    share: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.src}->{self.dst}" + (f"<{self.port}>" if self.port else "")

    @staticmethod
    def parse(text: str, effect: float = 0.0, share: float | None = None) -> Edge:
        """The edge a name stands for. Raises ValueError."""
        match = _EDGE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no edge; edges look like m3->logits, a3.h7->a9.h6<q>")
        src, dst = Node.parse(match["src"]), Node.parse(match["dst"])
        port: Any = match["port"]
        if (dst.kind in ("head", "attn")) != (port is not None):
            raise ValueError(
                f"{text!r}: an edge into a head ends in <q>, <k> or <v>, others do not"
            )
        return Edge(src, dst, port, effect, share)


def prune(edges: Iterable[Edge]) -> list[Edge]:
    """Only the edges that lie on a path from the input to the logits."""
    kept = list(edges)
    steps = [(edge.src, edge.dst) for edge in kept] + _across_places(kept)
    from_input = _reached({edge.src for edge in kept if edge.src.kind == "input"}, steps)
    to_logits = _reached({LOGITS}, [(there, here) for here, there in steps])
    return [edge for edge in kept if edge.src in from_input and edge.dst in to_logits]


def _across_places(edges: Iterable[Edge]) -> list[tuple[Node, Node]]:
    """What a head reads through k or v at one place, it may write at another."""
    nodes = {node for edge in edges for node in (edge.src, edge.dst)}
    read = {edge.dst for edge in edges if edge.port in ("k", "v") and edge.dst.place is not None}
    return [(here, there) for here in read for there in nodes if there.base == here.base]


def _reached(start: set[Node], steps: list[tuple[Node, Node]]) -> set[Node]:
    following: dict[Node, list[Node]] = {}
    for here, there in steps:
        following.setdefault(here, []).append(there)
    reached, frontier = set(start), list(start)
    while frontier:
        for node in following.get(frontier.pop(), ()):
            if node not in reached:
                reached.add(node)
                frontier.append(node)
    return reached


@dataclass(frozen=True, slots=True)
class Found:
    """What a discoverer returns: the edges it keeps, and how many it decided by measuring.

    `n_edges_total`: of how many it chose; None: of all edges between heads and MLPs.
    `alternatives`: edges that searches in other orders kept instead, with how many of them did.
    """

    edges: tuple[Edge, ...]
    n_edges_tested: int
    n_edges_total: int | None = None
    alternatives: Mapping[Edge, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """The metric on held-out examples: the whole model, the circuit alone, everything corrupted.

    `random`: the median over random circuits of as many edges, all on paths from input to logits.
    """

    metric: str
    clean: float
    circuit: float
    corrupt: float
    random: float | None = None

    @property
    def share(self) -> float | None:
        """1: the circuit does what the model does; 0: no better than the corrupted run.

        None where clean and corrupted prompts give the same metric.
        """
        return self._share(self.circuit)

    @property
    def random_share(self) -> float | None:
        """The same for the random circuits."""
        return None if self.random is None else self._share(self.random)

    def _share(self, metric: float) -> float | None:
        gap = self.clean - self.corrupt
        return (metric - self.corrupt) / gap if gap else None


@dataclass(frozen=True, slots=True)
class Circuit:
    """The edges a discoverer kept for a task and a model."""

    task_id: str
    model_id: str
    discoverer: str
    settings: Mapping[str, Any]
    edges: tuple[Edge, ...]
    n_edges_total: int
    n_edges_tested: int
    faithfulness: Faithfulness
    seconds: float
    forward_seconds: float
    alternatives: Mapping[Edge, float] = field(default_factory=dict)
    n_layers: int | None = None  # of the model; None: not known

    @property
    def id(self) -> str:
        """Of what was found, not of how long it took."""
        content = {
            "task_id": self.task_id,
            "model_id": self.model_id,
            "discoverer": self.discoverer,
            "settings": self.settings,
            "edges": [str(edge) for edge in self.edges],
        }
        return content_id("circuit", content)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node an edge touches, in the order of the forward pass."""
        found = {node for edge in self.edges for node in (edge.src, edge.dst)}
        return tuple(sorted(found, key=depth))

    @property
    def components(self) -> tuple[Node, ...]:
        """The heads and MLPs, at whatever place: what evidence is collected for."""
        bases = dict.fromkeys(node.base for node in self.nodes)
        return tuple(node for node in bases if node.kind in ("head", "mlp"))

    def to_networkx(self) -> Any:
        """A networkx.MultiDiGraph: nodes by name, edges with `port` and `effect`."""
        import networkx

        graph = networkx.MultiDiGraph(task_id=self.task_id, model_id=self.model_id)
        for node in self.nodes:
            graph.add_node(str(node), kind=node.kind, layer=node.layer, head=node.head)
        for edge in self.edges:
            graph.add_edge(str(edge.src), str(edge.dst), port=edge.port, effect=edge.effect)
        return graph

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for every edge."""
        import pandas

        rows = [(str(e), str(e.src), str(e.dst), e.port, e.effect) for e in self.edges]
        return pandas.DataFrame(rows, columns=["edge", "src", "dst", "port", "effect"])

    def _repr_html_(self) -> str | None:
        """The circuit drawn, in a notebook."""
        return as_html(self)


def depth(node: Node) -> tuple[int, int, int, str]:
    """Sorts nodes in the order of the forward pass."""
    place = node.place or ""
    if node.kind == "input":
        return (-1, 0, 0, place)
    if node.kind == "logits":
        return (1 << 30, 0, 0, place)
    assert node.layer is not None
    return (node.layer, int(node.kind == "mlp"), node.head or 0, place)


def in_order(nodes: Mapping[str, Node]) -> list[tuple[str, Node]]:
    """Named nodes in the order of the forward pass."""
    return sorted(nodes.items(), key=lambda item: depth(item[1]))


OF_SIZE = {"tau", "max_edges"}  # settings that make a circuit larger or smaller


SAME = {"metric", "engine"}  # those of one curve have the same metric; engines decide the same


@dataclass(frozen=True, slots=True)
class Sized:
    """A circuit of the store: how it was found, its edges, its faithfulness."""

    circuit_id: str
    discoverer: str
    settings: Mapping[str, Any]
    n_edges: int
    share: float

    @property
    def way(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The discoverer and its settings, but for those of the size."""
        given = self.settings if isinstance(self.settings, Mapping) else {}  # an import's
        kept = {k: v for k, v in given.items() if k not in OF_SIZE | SAME}
        return self.discoverer, tuple((k, str(v)) for k, v in sorted(kept.items()))
