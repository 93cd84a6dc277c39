"""The state of a search: the kept edges, the rows they read, and what decided nodes write."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import PORTS, Edge, Port
from ...records.graph import SearchGraph
from .post import PostNorms
from .rows import Mask, Rows, StreamRows

KeptSender = tuple[int, int]  # a writer's number and a place's


class SearchState:
    """Edges are decided from the output back; nodes that are not decided yet are clean.

    Attributes:
        kept: The kept senders of each receiver, a node's number and a port.
        alive: By node, the rows at which something kept reads what it writes.
        deviation: What each writer writes now, or on clean prompts where it is not decided or not
            alive, minus what it writes when ablated.
        values: By decided head, its queries, keys and values now, at all tokens.
        read_from: The writers from which an edge is kept.
        post: What heads before a norm mix now.
    """

    def __init__(self, stream_rows: StreamRows, search_graph: SearchGraph) -> None:
        self.stream_rows, self.search_graph = stream_rows, search_graph
        self.kept: dict[tuple[int, str | None], list[KeptSender]] = {}
        self.alive: dict[int, Mask] = {stream_rows.logits: stream_rows.end_mask}
        self.deviation = stream_rows.deviation()
        self.values: dict[int, dict[Port, Float[Tensor, "token d_head"]]] = {}
        self.read_from: set[int] = set()
        self.post = PostNorms(stream_rows)

    def keep(self, edge: Edge) -> None:
        """Keep an edge. All edges from its receiver must have been decided before."""
        stream_rows, place = self.stream_rows, self.search_graph.place(edge.dst)
        for node in map(stream_rows.number, self.search_graph.members(edge.dst)):
            if node not in self.alive:
                continue
            rows = stream_rows.needed(edge.port, self.alive[node]) & stream_rows.places[place]
            for writer in self.search_graph.columns(edge.src):
                self.kept.setdefault((node, edge.port), []).append((writer, place))
                self.read_from.add(writer)
                for node_alive in self.post.siblings(writer):
                    before = self.alive.get(node_alive)
                    self.alive[node_alive] = rows if before is None else before | rows

    def read(self, node: int, port: str | None, rows: Rows) -> Float[Tensor, "some d_model"]:
        """What a decided port reads now, at some rows."""
        stream_rows = self.stream_rows
        index = stream_rows.on_device(rows)
        total = stream_rows.cut_streams[stream_rows.stream(node)][index]
        for place, writers in self._by_place(node, port).items():
            part = self.deviation[writers[:, None], index].sum(0)
            if len(stream_rows.places) > 1:
                part = part * stream_rows.on_device(stream_rows.places[place][rows])[:, None]
            total += part
        return total

    def _by_place(self, node: int, port: str | None) -> dict[int, Rows]:
        """The kept senders of a port, by the place where it reads them; on the device."""
        senders: dict[int, list[int]] = {}
        for writer, place in self.kept.get((node, port), ()):
            senders.setdefault(place, []).append(writer)
        on_device = self.stream_rows.on_device
        return {place: on_device(torch.tensor(some)) for place, some in senders.items()}

    @property
    def final(self) -> Float[Tensor, "batch d_model"]:
        """The stream at the end of each prompt now."""
        return self.read(self.stream_rows.logits, None, self.stream_rows.end_rows)

    # --- what nodes write ----------------------------------------------------------------------

    def refresh(self, nodes: Iterable[int]) -> None:
        """Recompute what decided nodes write, in the order of the forward pass."""
        rescale: int | None = None  # a head of a layer whose shares are outdated
        for node in nodes:
            if rescale is not None and node not in self.post.siblings(rescale):
                self.set_shares(rescale)
                rescale = None
            if self.stream_rows.node(node).kind == "head":
                self._refresh_values(node)
                self.set_head(node)
                rescale = node if self.post.has(node) else None
            else:
                rows = self.alive[node].nonzero().flatten()
                self.set_mlp(node, self.read(node, None, rows))
        if rescale is not None:
            self.set_shares(rescale)

    def set_head(self, node: int) -> None:
        """Recompute what a head writes from its queries, keys and values."""
        stream_rows, values = self.stream_rows, self.values[node]
        queries = stream_rows.queries(node, self.alive[node])
        pattern = stream_rows.scores(node, values["q"], values["k"], queries)
        output = stream_rows.write(node, stream_rows.mix(node, pattern, values["v"], queries))
        if self.post.has(node):
            self.post.set(node, self.alive[node], output)  # `set_shares` follows
        else:
            self._set(node, output)

    def set_shares(self, node: int) -> None:
        """Recompute what the heads of a head's layer write, after the norm that follows them."""
        read = [head for head in self.post.siblings(node) if head in self.read_from]
        for head, share in self.post.shares(node, self.alive[node], read).items():
            self._set(head, share)

    def set_mlp(self, node: int, stream: Float[Tensor, "alive d_model"]) -> None:
        """Recompute what an MLP writes from the stream it reads, at the rows where it is alive."""
        self._set(node, self.stream_rows.mlp(node)(stream))

    def _set(self, node: int, output: Float[Tensor, "alive d_model"]) -> None:
        rows = self.alive[node].nonzero().flatten()
        deviation = output - self.stream_rows.ablated(node, rows)
        self.deviation[node].index_copy_(0, self.stream_rows.on_device(rows), deviation)

    def _refresh_values(self, node: int) -> None:
        if node not in self.values:
            self.values[node] = self.stream_rows.clean_values(node)
        for port in PORTS:
            rows = self.stream_rows.needed(port, self.alive[node]).nonzero().flatten()
            self.set_values(node, port, rows, self.read(node, port, rows))

    def set_values(
        self, node: int, port: Port, rows: Rows, x: Float[Tensor, "some d_model"]
    ) -> None:
        """Set a head's queries, keys or values at some rows, from what the port reads there."""
        stream_rows = self.stream_rows
        new = stream_rows.project(node, port, x, stream_rows.token[rows])
        values = self.values[node]
        values[port] = values[port].index_copy(
            0, stream_rows.on_device(stream_rows.flat[rows]), new
        )
