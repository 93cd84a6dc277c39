"""The graph a circuit is sought in: heads or whole layers, whole nodes or nodes by place."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from .circuit import INPUT, LOGITS, PORTS, Circuit, Edge, Node, Port

Level = Literal["head", "layer"]
LEVELS: tuple[Level, ...] = ("head", "layer")
END = "END"
REST = "rest"  # the tokens without a name
PLACE = re.compile(r"[\w.+']+")  # what can be part of a node's name


@dataclass(frozen=True)
class SearchGraph:
    """A model's graph at a granularity, and the one order in which its edges are visited.

    Receivers go from the output back, senders from the latest layer to the earliest, within a
    layer the MLP first and then the highest head to the lowest: the order of the original ACDC.
    At one node the ports go q, k, v; with `places`, for each port the last place first. The
    logits read at END alone.
    """

    graph: Graph
    level: Level = "head"
    places: tuple[str, ...] = ()  # in the order of the prompt; empty: nodes are not split

    @cached_property
    def writers(self) -> tuple[Node, ...]:
        """Every node that writes, at all places, in the order of the forward pass."""
        if self.level == "head":
            return self.graph.writers
        heads = (
            n if n.kind != "head" else Node("attn", n.layer) for n in self._at_granularity.writers
        )
        return tuple(heads)

    @cached_property
    def _at_granularity(self) -> Graph:
        """The graph whose heads are the attention nodes of the search graph."""
        return self.graph if self.level == "head" else replace(self.graph, n_heads=1)

    @cached_property
    def receiver_groups(self) -> tuple[tuple[Receiver, ...], ...]:
        """Every receiver, those of one node together, from the output back."""
        end: Receiver = (LOGITS, None)
        return ((end,), *(self._ports(node) for node in reversed(self.writers[1:])))

    def _ports(self, node: Node) -> tuple[Receiver, ...]:
        ports = PORTS if node.kind in ("head", "attn") else (None,)
        places = tuple(reversed(self.places)) or (None,)
        return tuple((node.at(place), port) for port in ports for place in places)

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        """The writers a receiver reads, the latest first."""
        place = END if self.places and receiver.kind == "logits" else receiver.place
        found = self.writers[: self._at_granularity.n_senders(receiver)]
        return tuple(node.at(place) for node in reversed(found))

    def edges(self) -> Iterator[Edge]:
        """Every edge, in the order in which ACDC decides."""
        for receivers in self.receiver_groups:
            for node, port in receivers:
                for sender in self.senders(node):
                    yield Edge(sender, node, port)

    @property
    def n_edges(self) -> int:
        return sum(
            self._at_granularity.n_senders(node)
            for group in self.receiver_groups
            for node, _ in group
        )

    # --- in terms of the model's own graph -----------------------------------------------------

    def members(self, node: Node) -> tuple[Node, ...]:
        """The nodes of the model's graph that a node stands for."""
        if node.kind != "attn":
            return (node.base,)
        assert node.layer is not None
        return self.graph.heads_of(node.layer)

    def columns(self, sender: Node) -> list[int]:
        """The writers that a sender stands for."""
        return [self.graph.writer_index[node] for node in self.members(sender)]

    def rows(self, receiver: Node, port: Port | None) -> list[int]:
        """The receivers of the model's graph that a receiver stands for."""
        return [self.graph.receiver_index[node, port] for node in self.members(receiver)]

    def place(self, node: Node) -> int:
        """The number of a node's place (0 where nodes are not split)."""
        if not self.places:
            return 0
        return self.places.index(node.place or END)

    def shuffled(self, seed: int) -> ShuffledGraph:
        return ShuffledGraph(self.graph, self.level, self.places, seed)

    @staticmethod
    def of(graph: Graph, edges: Iterable[Edge], places: Sequence[str]) -> SearchGraph:
        """The graph in which edges were found; `places`: the task's, in case they are split."""
        nodes = {node for edge in edges for node in (edge.src, edge.dst)}
        layered = any(node.kind == "attn" for node in nodes)
        split = any(node.place is not None for node in nodes)
        return SearchGraph(graph, "layer" if layered else "head", tuple(places) if split else ())


@dataclass(frozen=True)
class ShuffledGraph(SearchGraph):
    """The same edges in another order that is as good: any within a layer, any of the senders."""

    seed: int = 0

    @cached_property
    def receiver_groups(self) -> tuple[tuple[Receiver, ...], ...]:
        rng = random.Random(self.seed)
        found = [rng.sample(group, len(group)) for group in super().receiver_groups]
        keyed = [(self._turn(group[0][0]), rng.random(), tuple(group)) for group in found]
        return tuple(group for _, _, group in sorted(keyed, key=lambda entry: entry[:2]))

    def _turn(self, node: Node) -> int:
        """Receivers of the same turn do not read each other."""
        if node.kind == "logits":
            return -1
        assert node.layer is not None
        together = self.graph.parallel or node.kind != "mlp"
        return 2 * (self.graph.n_layers - 1 - node.layer) + together

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        found = super().senders(receiver)
        return tuple(random.Random(f"{self.seed} {receiver}").sample(found, len(found)))


Receiver = tuple[Node, Port | None]


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of a model, and the one order in which they are visited.

    Receivers go from the output back, senders from the latest layer to the earliest, within a
    layer the MLP first and then the highest head to the lowest: the order of the original ACDC.
    """

    n_layers: int
    n_heads: int
    has_mlps: bool = True
    parallel: bool = False  # attention and MLP of a layer read the same stream (GPT-NeoX, GPT-J)

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
        return {node: index for index, node in enumerate(self.writers)}

    @cached_property
    def heads(self) -> tuple[Node, ...]:
        return tuple(node for node in self.writers if node.kind == "head")

    def heads_of(self, layer: int) -> tuple[Node, ...]:
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
        return {receiver: index for index, receiver in enumerate(self.receivers)}

    def n_senders(self, receiver: Node) -> int:
        """How many writers (a prefix of `writers`) a receiver reads."""
        if receiver.kind == "logits":
            return len(self.writers)
        assert receiver.layer is not None
        per_layer = self.n_heads + self.has_mlps
        before = 1 + receiver.layer * per_layer
        return before + (self.n_heads if receiver.kind == "mlp" and not self.parallel else 0)

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
        return sum(self.n_senders(node) for node, _ in self.receivers)


def to_eap_ig(circuit: Circuit, graph: Graph) -> dict[str, Any]:
    """The circuit in the JSON form of EAP-IG and of the Mechanistic Interpretability Benchmark."""
    kept = {str(edge): edge.effect for edge in circuit.edges}
    nodes = {str(node) for node in circuit.nodes}
    return {
        "cfg": {
            "n_layers": graph.n_layers,
            "n_heads": graph.n_heads,
            "parallel_attn_mlp": graph.parallel,
        },
        "nodes": {str(n): {"in_graph": str(n) in nodes} for n in (*graph.writers, LOGITS)},
        "edges": {
            str(edge): {"score": kept.get(str(edge), 0.0), "in_graph": str(edge) in kept}
            for edge in graph.edges()
        },
    }


def from_eap_ig(document: Mapping[str, Any]) -> list[Edge]:
    """The kept edges of a circuit in the JSON form of EAP-IG. Raises ValueError, KeyError."""
    return [
        Edge.parse(name, float(entry.get("score") or 0.0))
        for name, entry in document["edges"].items()
        if entry["in_graph"]
    ]
