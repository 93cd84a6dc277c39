"""Nodes and edges of a transformer's residual-stream graph, and the circuit made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..ids import content_id
from .run.display import as_html

Kind = Literal["input", "head", "attn", "mlp", "logits"]
Port = Literal["q", "k", "v"]
PORTS: tuple[Port, ...] = ("q", "k", "v")

MOST_LAYERS, MOST_HEADS = (1 << 19) - 2, 4094
"""More than any model has. Stores rely on it: beyond, two nodes would share a key."""

_NODE = re.compile(
    r"(?:(?P<end>input|logits)|m(?P<mlp>\d+)|a(?P<layer>\d+)(?:\.h(?P<head>\d+))?)"
    r"(?:@(?P<place>[\w.+']+))?"
)
_EDGE = re.compile(r"(?P<src>[^<>\s-]+)->(?P<dst>[^<>\s-]+?)(?:<(?P<port>[qkv])>)?")


@dataclass(frozen=True, slots=True, order=True, repr=False)
class Node:
    """A writer or reader of the residual stream. It prints as its name: a9.h6, m3, logits.

    Attributes:
        kind: `attn` is a whole attention layer (a9).
        layer: From 0; None for the input and the logits.
        head: From 0; of heads alone.
        place: The named position at which the node reads and writes (a9.h6@S2); None: at all.
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

    __repr__ = __str__

    @property
    def base(self) -> Node:
        """The node at all positions."""
        return self if self.place is None else replace(self, place=None)

    def at(self, place: str | None) -> Node:
        """The node at a named position."""
        return replace(self, place=place)

    @staticmethod
    def parse(text: str) -> Node:
        """The node of a name.

        Args:
            text: A name such as a9.h6, a9, m3, input, logits or a9.h6@S2.

        Raises:
            ValueError: No node has such a name.
        """
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


@dataclass(frozen=True, slots=True, repr=False)
class Edge:
    """What a sender contributes to a receiver's input. It prints as its name: a3.h7->a9.h6<q>.

    Attributes:
        src: The sender.
        dst: The receiver.
        port: Whether a head reads it for its queries, keys or values; None for other receivers.
        effect: How much worse the metric became when the edge was cut (for EAP, an estimate).
        share: If the search was repeated in other orders: the share of them that kept the edge.
    """

    src: Node
    dst: Node
    port: Port | None = None
    effect: float = field(default=0.0, compare=False)
    share: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.src}->{self.dst}" + (f"<{self.port}>" if self.port else "")

    __repr__ = __str__

    @staticmethod
    def parse(text: str, effect: float = 0.0, share: float | None = None) -> Edge:
        """The edge of a name, with an effect and a share.

        Args:
            text: A name such as m3->logits or a3.h7->a9.h6<q>.
            effect, share: See the attributes.

        Raises:
            ValueError: No edge has such a name.
        """
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


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """The metric on held-out examples.

    Attributes:
        metric: Its name.
        clean: Of the whole model.
        circuit: Of the circuit alone.
        corrupt: With every edge cut.
        random: The median over random circuits of as many edges, all on paths from the input to
            the logits; None: not measured.
    """

    metric: str
    clean: float
    circuit: float
    corrupt: float
    random: float | None = None

    @property
    def share(self) -> float | None:
        """(circuit - corrupt) / (clean - corrupt): 1 where the circuit does what the model does.

        None where clean and corrupted prompts give the same metric.
        """
        return self._share(self.circuit)

    @property
    def random_share(self) -> float | None:
        """The same share for the random circuits."""
        return None if self.random is None else self._share(self.random)

    def _share(self, metric: float) -> float | None:
        gap = self.clean - self.corrupt
        return (metric - self.corrupt) / gap if gap else None


@dataclass(frozen=True, slots=True, repr=False)
class Circuit:
    """The edges that a discoverer kept for a task and a model.

    Attributes:
        task_id: The task's id.
        model_id: The model's id.
        discoverer: The name of the discoverer.
        settings: Its settings.
        edges: The kept edges.
        n_edges_total: From how many edges it chose.
        n_edges_tested: How many it decided by measuring.
        faithfulness: The metric of the circuit, the model and the corrupted run.
        seconds: The time of the search.
        forward_seconds: The median time of one forward pass on the discovery prompts.
        alternatives: Edges that searches in other orders kept instead, with the share of orders.
        n_layers: Of the model; None: not known.
    """

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
    n_layers: int | None = None

    def __repr__(self) -> str:
        return f"circuit: {self.size_in_words}\n{self.faithfulness_in_words}"

    @property
    def size_in_words(self) -> str:
        """How many edges, tested edges and components there are."""
        return (
            f"{len(self.edges)} of {self.n_edges_total} edges "
            f"({self.n_edges_tested} tested by {self.discoverer} in {self.seconds:.1f} s), "
            f"{len(self.components)} components"
        )

    @property
    def faithfulness_in_words(self) -> str:
        """The metric of the model, the circuit and the corrupted run, and the faithfulness."""
        measured, ablation = self.faithfulness, self.settings.get("ablation", "corrupt")
        cut = "corrupted" if ablation == "corrupt" else f"ablated ({ablation})"
        share = "-" if measured.share is None else f"{measured.share:.0%}"
        random = measured.random_share
        return (
            f"{measured.metric} on held-out examples: whole model {measured.clean:.3f}, circuit "
            f"{measured.circuit:.3f}, everything {cut} {measured.corrupt:.3f}; "
            f"faithfulness {share}" + ("" if random is None else f" (random circuits {random:.0%})")
        )

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
        """Every node of an edge, in the order of the forward pass."""
        nodes = {node for edge in self.edges for node in (edge.src, edge.dst)}
        return tuple(sorted(nodes, key=depth))

    @property
    def components(self) -> tuple[Node, ...]:
        """The heads and MLPs, without their places: what evidence is collected for."""
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
    """The sort key for the order of the forward pass."""
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
