"""The graph of a model, and the graphs in which circuits are searched for."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from .circuit import INPUT, LOGITS, PORTS, Edge, Node, Port

Level = Literal["head", "layer"]
LEVELS: tuple[Level, ...] = ("head", "layer")
END = "END"
REST = "rest"  # the place of all tokens without a name
PLACE = re.compile(r"[\w.+']+")  # what can be part of a node's name

Receiver = tuple[Node, Port | None]


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of a model, in the order in which the original ACDC visits them.

    Receivers go from the output back; senders from the latest layer to the earliest, within a layer
    the MLP first and then the heads from the highest to the lowest.

    Attributes:
        n_layers: The number of layers.
        n_heads: The number of heads in each layer.
        has_mlps: False for models of attention alone.
        parallel: Attention and MLP of a layer read the same stream (GPT-NeoX, GPT-J).
    """

    n_layers: int
    n_heads: int
    has_mlps: bool = True
    parallel: bool = False

    @cached_property
    def writers(self) -> tuple[Node, ...]:
        """Every node that writes to the stream, in the order of the forward pass."""
        nodes = [INPUT]
        for layer in range(self.n_layers):
            nodes += self.heads_of(layer)
            nodes += [Node("mlp", layer)] if self.has_mlps else []
        return tuple(nodes)

    @cached_property
    def writer_index(self) -> dict[Node, int]:
        """The index of each node in `writers`."""
        return {node: index for index, node in enumerate(self.writers)}

    @cached_property
    def heads(self) -> tuple[Node, ...]:
        """Every head, in the order of the forward pass."""
        return tuple(node for node in self.writers if node.kind == "head")

    def heads_of(self, layer: int) -> tuple[Node, ...]:
        """The heads of a layer."""
        return tuple(Node("head", layer, head) for head in range(self.n_heads))

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """Every port that reads from the stream, from the output back."""
        ports: list[Receiver] = [(LOGITS, None)]
        for node in reversed(self.writers[1:]):
            ports += [(node, port) for port in PORTS] if node.kind == "head" else [(node, None)]
        return tuple(ports)

    @cached_property
    def receiver_index(self) -> dict[Receiver, int]:
        """The index of each port in `receivers`."""
        return {receiver: index for index, receiver in enumerate(self.receivers)}

    def n_senders(self, receiver: Node) -> int:
        """How many writers a receiver reads: the first so many of `writers`."""
        if receiver.kind == "logits":
            return len(self.writers)
        assert receiver.layer is not None
        per_layer = self.n_heads + self.has_mlps
        before = 1 + receiver.layer * per_layer
        return before + (self.n_heads if receiver.kind == "mlp" and not self.parallel else 0)

    def reads(self, receiver: Node, writer: Node) -> bool:
        """Whether a receiver reads what a writer writes; never of a writer that is not there."""
        return writer in self.writer_index and self.writer_index[writer] < self.n_senders(receiver)

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        """The writers a receiver reads, the latest first."""
        return tuple(reversed(self.writers[: self.n_senders(receiver)]))

    def edges(self) -> Iterator[Edge]:
        """Every edge, in the order in which ACDC decides."""
        for node, port in self.receivers:
            for sender in self.senders(node):
                yield Edge(sender, node, port)

    @property
    def n_edges(self) -> int:
        """The number of edges."""
        return sum(self.n_senders(node) for node, _ in self.receivers)


@dataclass(frozen=True)
class SearchGraph:
    """A model's graph at a granularity: heads or whole layers, nodes split by place or not.

    The order is that of `Graph`. Within a node the ports go q, k, v, and within a port the last
    place comes first. With places, the logits read at END alone.

    Attributes:
        graph: The model's own graph.
        level: "head", or "layer" where the heads of a layer are one node.
        places: The named positions in the order of the prompt; empty where nodes are not split.
    """

    graph: Graph
    level: Level = "head"
    places: tuple[str, ...] = ()

    @cached_property
    def writers(self) -> tuple[Node, ...]:
        """Every node that writes, without places, in the order of the forward pass."""
        if self.level == "head":
            return self.graph.writers
        writers = self._at_granularity.writers
        return tuple(n if n.kind != "head" else Node("attn", n.layer) for n in writers)

    @cached_property
    def _at_granularity(self) -> Graph:
        """A graph of the same shape: with one head in each layer where layers are one node."""
        return self.graph if self.level == "head" else replace(self.graph, n_heads=1)

    @cached_property
    def receiver_groups(self) -> tuple[tuple[Receiver, ...], ...]:
        """The receivers, grouped by node, from the output back.

        A group holds the ports of one node, at each place. No edge joins two of them.
        """
        end: Receiver = (LOGITS, None)
        return ((end,), *(self._ports(node) for node in reversed(self.writers[1:])))

    def _ports(self, node: Node) -> tuple[Receiver, ...]:
        ports = PORTS if node.kind in ("head", "attn") else (None,)
        places = tuple(reversed(self.places)) or (None,)
        return tuple((node.at(place), port) for port in ports for place in places)

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        """The writers a receiver reads, the latest first."""
        place = END if self.places and receiver.kind == "logits" else receiver.place
        writers = self.writers[: self._at_granularity.n_senders(receiver)]
        return tuple(node.at(place) for node in reversed(writers))

    def edges(self) -> Iterator[Edge]:
        """Every edge, in the order in which ACDC decides."""
        for receivers in self.receiver_groups:
            for node, port in receivers:
                for sender in self.senders(node):
                    yield Edge(sender, node, port)

    @property
    def n_edges(self) -> int:
        """The number of edges."""
        nodes = [node for group in self.receiver_groups for node, _ in group]
        return sum(map(self._at_granularity.n_senders, nodes))

    # --- in terms of the model's own graph -----------------------------------------------------

    def members(self, node: Node) -> tuple[Node, ...]:
        """The nodes of the model's graph that a node stands for."""
        if node.kind != "attn":
            return (node.base,)
        assert node.layer is not None
        return self.graph.heads_of(node.layer)

    def columns(self, sender: Node) -> list[int]:
        """The indices in `graph.writers` that a sender stands for."""
        return [self.graph.writer_index[node] for node in self.members(sender)]

    def rows(self, receiver: Node, port: Port | None) -> list[int]:
        """The indices in `graph.receivers` that a receiver stands for."""
        return [self.graph.receiver_index[node, port] for node in self.members(receiver)]

    def place(self, node: Node) -> int:
        """The index of a node's place in `places`; 0 where nodes are not split."""
        if not self.places:
            return 0
        return self.places.index(node.place or END)

    def shuffled(self, seed: int) -> ShuffledGraph:
        """The same graph in another order."""
        return ShuffledGraph(self.graph, self.level, self.places, seed)

    @staticmethod
    def of(graph: Graph, edges: Iterable[Edge], places: Sequence[str]) -> SearchGraph:
        """The search graph to which edges belong.

        Args:
            graph: The model's own graph.
            edges: Whole layers and places among their nodes decide the granularity.
            places: The task's named positions, used if nodes are split.

        Returns:
            The graph with all these edges.
        """
        nodes = {node for edge in edges for node in (edge.src, edge.dst)}
        layered = any(node.kind == "attn" for node in nodes)
        split = any(node.place is not None for node in nodes)
        return SearchGraph(graph, "layer" if layered else "head", tuple(places) if split else ())


@dataclass(frozen=True)
class ShuffledGraph(SearchGraph):
    """The same edges in another order that ACDC could visit: still from the output back.

    Nodes of a layer that do not read each other are shuffled, and so are the senders.
    """

    seed: int = 0

    @cached_property
    def receiver_groups(self) -> tuple[tuple[Receiver, ...], ...]:
        """The receivers, grouped by node, in the order of the seed."""
        rng = random.Random(self.seed)
        groups = [rng.sample(group, len(group)) for group in super().receiver_groups]
        keyed = [(self._rank(group[0][0]), rng.random(), tuple(group)) for group in groups]
        return tuple(group for _, _, group in sorted(keyed, key=lambda entry: entry[:2]))

    def _rank(self, node: Node) -> int:
        """How far from the output a node is. Nodes of one rank do not read each other."""
        if node.kind == "logits":
            return -1
        assert node.layer is not None
        same_as_heads = self.graph.parallel or node.kind != "mlp"
        return 2 * (self.graph.n_layers - 1 - node.layer) + same_as_heads

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        """The writers a receiver reads, in the order of the seed."""
        senders = super().senders(receiver)
        return tuple(random.Random(f"{self.seed} {receiver}").sample(senders, len(senders)))


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a discoverer returns.

    Attributes:
        edges: Those it keeps.
        n_edges_tested: How many it decided by measuring.
        n_edges_total: From how many it chose; None: from all edges between heads and MLPs.
        alternatives: Edges that searches in other orders kept instead, with the share of orders.
    """

    edges: tuple[Edge, ...]
    n_edges_tested: int
    n_edges_total: int | None = None
    alternatives: Mapping[Edge, float] = field(default_factory=dict)


def prune(edges: Iterable[Edge]) -> list[Edge]:
    """The edges that lie on a path from the input to the logits, in their order."""
    kept = list(edges)
    links = [(edge.src, edge.dst) for edge in kept] + _links_within_heads(kept)
    from_input = _reachable({edge.src for edge in kept if edge.src.kind == "input"}, links)
    to_logits = _reachable({LOGITS}, [(dst, src) for src, dst in links])
    return [edge for edge in kept if edge.src in from_input and edge.dst in to_logits]


def _links_within_heads(edges: Iterable[Edge]) -> list[tuple[Node, Node]]:
    """From a head at the place of a key or value to the same head at every place it writes."""
    nodes = {node for edge in edges for node in (edge.src, edge.dst)}
    read = {edge.dst for edge in edges if edge.port in ("k", "v") and edge.dst.place is not None}
    return [(src, dst) for src in read for dst in nodes if dst.base == src.base]


def _reachable(start: set[Node], links: list[tuple[Node, Node]]) -> set[Node]:
    following: dict[Node, list[Node]] = {}
    for src, dst in links:
        following.setdefault(src, []).append(dst)
    reachable, frontier = set(start), list(start)
    while frontier:
        for node in following.get(frontier.pop(), ()):
            if node not in reachable:
                reachable.add(node)
                frontier.append(node)
    return reachable
