"""The metric with a set of edges cut, by one hooked forward pass for each set.

Cutting the edge from a sender to a receiver replaces the sender's contribution to what the receiver
reads by its ablated one (Conmy et al. 2023). This engine is slow and simple: the model's own
modules do all the work. The fast engine is checked against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...models.activations import port_point, writer_hooks
from ...models.contrast import Contrast
from ...models.network.hooks import Function, Hook, Point
from ...records.circuit import PORTS, Edge, Node
from ...records.graph import Graph, Receiver, SearchGraph

Cut = Bool[Tensor, "place receiver writer"]
ReceiverGroup: TypeAlias = Sequence[tuple[Receiver, Sequence[Node]]]
"""The receivers of one node, each with the senders whose edges are tested."""


class Decision(NamedTuple):
    """An edge with its effect: how much worse the metric became when it was cut.

    `estimated`: the effect is an estimate, because the edge was cut in a group (see `groups`).
    """

    edge: Edge
    kept: bool
    estimated: bool = False


class ReferenceEngine:
    """Cuts edges and measures, with one hooked forward pass for each measurement."""

    name = "reference"

    def __init__(self, contrast: Contrast, search_graph: SearchGraph | None = None) -> None:
        self.contrast = contrast
        self.model = contrast.model
        self.graph = contrast.model.graph
        self.search_graph = search_graph or SearchGraph(self.graph)
        self.places = contrast.place_masks(self.search_graph.places)  # [place batch pos]
        self.cut = self.cut_none()
        self._metric: float | None = contrast.clean_metric

    # --- sets of edges -------------------------------------------------------------------------

    def cut_none(self) -> Cut:
        """No edge cut."""
        size = (len(self.places), len(self.graph.receivers), len(self.graph.writers))
        return torch.zeros(size, dtype=torch.bool)  # on the CPU: what is done depends on it

    def cut_all(self) -> Cut:
        """Every edge cut."""
        cut = self.cut_none()
        for row, (node, _) in enumerate(self.graph.receivers):
            cut[:, row, : self.graph.n_senders(node)] = True
        return cut

    def cut_except(self, kept: Iterable[Edge]) -> Cut:
        """Every edge cut except these."""
        cut = self.cut_all()
        for edge in kept:
            cut[self.index(edge)] = False
        return cut

    def kept(self, cut: Cut) -> list[Edge]:
        """The edges that `cut` leaves, where nodes are not split by place."""
        return [
            Edge(sender, node, port)
            for row, (node, port) in enumerate(self.graph.receivers)
            for column, sender in enumerate(self.graph.writers[: self.graph.n_senders(node)])
            if not cut[0, row, column]
        ]

    def index(self, edge: Edge) -> tuple[int, Tensor, Tensor]:
        """The place, rows and columns of an edge in a cut."""
        rows = torch.tensor(self.search_graph.rows(edge.dst, edge.port))
        columns = torch.tensor(self.search_graph.columns(edge.src))
        return self.search_graph.place(edge.dst), rows[:, None], columns[None, :]

    @property
    def metric(self) -> float:
        """The metric with the edges that are cut so far."""
        if self._metric is None:
            self._metric = self.metric_of(self.cut)
        return self._metric

    # --- measuring -----------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, cut: Cut) -> Float[Tensor, "batch vocab"]:
        """Logits at the last token of the clean prompts, with the edges of `cut` cut."""
        return self.model.forward(self.contrast.clean, self.hooks(cut))

    @torch.no_grad()
    def last_stream(self, cut: Cut) -> Float[Tensor, "batch pos d_model"]:
        """The stream before the final norm, with the edges of `cut` cut."""
        streams: list[Tensor] = []
        record: Hook = (Point("final"), streams.append)
        self.model.forward(self.contrast.clean, [*self.hooks(cut), record])
        return streams[0]

    def hooks(self, cut: Cut) -> list[Hook]:
        """Hooks that cut the edges of `cut` in the next forward pass on the clean prompts."""
        change = -self.contrast.ablated.to(
            self.model.device
        )  # becomes the present output minus the ablated one

        def record(writers: slice, value: Tensor) -> None:
            change[writers] += value

        hooks: list[Hook] = writer_hooks(self.graph, record)
        for rows, point, stacked in readers(self.graph):
            if bool(cut[:, rows].any()):
                hooks.append((point, self._remove(cut[:, rows], change, stacked)))
        return hooks

    def _remove(self, cut: Cut, change: Tensor, stacked: bool) -> Function:
        """A hook that removes the change of the cut senders from what some receivers read."""
        senders = cut.flatten(0, 1).any(0).nonzero().flatten()
        weights = cut[:, :, senders].to(change.device, change.dtype)
        senders = senders.to(change.device)
        places = self.places.to(change.dtype)

        def hook(value: Tensor) -> Tensor:
            changes, removed = change[senders], change.new_zeros(())
            for place, weight in zip(places, weights):
                part = torch.einsum("rw,wbpd->bprd", weight, changes)
                removed = removed + part * place[:, :, None, None]
            return value - (removed if stacked else removed[:, :, 0])

        return hook

    def metric_of(self, cut: Cut) -> float:
        """The mean metric over the examples, with the edges of `cut` cut."""
        return float(self.contrast.metric(self.logits(cut)).mean())

    def measure(self, kept: Iterable[Edge]) -> float:
        """The metric of a circuit: every edge cut except these."""
        return self.metric_of(self.cut_except(kept))

    # --- deciding ------------------------------------------------------------------------------

    def load(self, decided: Iterable[Node], kept: Iterable[Edge]) -> None:
        """Cut all edges into the `decided` nodes except the `kept` ones, and no others."""
        self.cut = self.cut_none()
        for row, (node, _) in enumerate(self.graph.receivers):
            if any(node in self.search_graph.members(receiver) for receiver in decided):
                self.cut[:, row, : self.graph.n_senders(node)] = True
        for edge in kept:
            self.cut[self.index(edge)] = False
        self._metric = None

    def decide(self, group: ReceiverGroup, tau: float) -> list[Decision]:
        """Decide the edges into one node one by one; cut those whose senders are not in `group`."""
        decisions: list[Decision] = []
        for (node, port), senders in group:
            others = [sender for sender in self.search_graph.senders(node) if sender not in senders]
            for sender in others:
                self.cut[self.index(Edge(sender, node, port))] = True
            self._metric = None if others else self._metric
            decisions += [self.test(Edge(sender, node, port), tau) for sender in senders]
        return decisions

    def test(self, edge: Edge, tau: float) -> Decision:
        """Cut one edge. It stays cut if the metric worsens by less than `tau`."""
        index, before = self.index(edge), self.metric
        self.cut[index] = True
        metric = self.metric_of(self.cut)
        effect = self.contrast.sign * (before - metric)
        kept = not effect < tau
        if kept:
            self.cut[index] = False
        else:
            self._metric = metric
        return Decision(replace(edge, effect=effect), kept)

    def drop(self, receivers: Sequence[Receiver]) -> None:
        """Cut all edges into the ports of a node that no kept edge leaves."""
        for node, port in receivers:
            for sender in self.search_graph.senders(node):
                self.cut[self.index(Edge(sender, node, port))] = True
        if self.model.has_post_norms:  # there the node still scales what others write
            self._metric = None


def readers(graph: Graph) -> Iterator[tuple[list[int], Point, bool]]:
    """Rows of receivers, the point where they read, and whether its value has a head dimension."""
    rows = graph.receiver_index
    for layer in range(graph.n_layers):
        for port in PORTS:
            heads = [rows[head, port] for head in graph.heads_of(layer)]
            yield heads, port_point(layer, port), True
        if graph.has_mlps:
            yield [rows[Node("mlp", layer), None]], port_point(layer, None), False
    yield [0], Point("final"), False
