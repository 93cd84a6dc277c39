"""Test the edges into one node: what must be recomputed for each candidate cut."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import Node, Port
from ...records.graph import Receiver
from .post import Rescale
from .recompute import (
    Contribution,
    NodeUpdate,
    Outputs,
    PortInput,
    Recomputation,
    rescale_of,
    update_of,
)
from .rows import Mask
from .state import SearchState

TESTED = -1  # stands for a writer: the change of a port's input that is tested


class ReceiverTest:
    """A node, or all heads of a layer, whose incoming edges are decided port by port."""

    def __init__(self, state: SearchState, node: Node) -> None:
        self.state, self.stream_rows = state, state.stream_rows
        numbers = [self.stream_rows.number(member) for member in state.search_graph.members(node)]
        self.roots = [number for number in numbers if number in state.alive]
        self.streams: dict[Port | None, Float[Tensor, "row d_model"]] = {}  # what ports read now
        for root in self._heads:
            state.values[root] = self.stream_rows.clean_values(root)
        # the nodes that write something else once this node is decided
        self.outdated = {*self.roots} - {self.stream_rows.logits}
        self._recomputations: dict[bytes, Recomputation] = {}
        self.rescale: Rescale | None = None  # of the roots, where a norm follows them

    @property
    def _heads(self) -> list[int]:
        return [n for n in self.roots if n != self.stream_rows.logits and self._kind(n) == "head"]

    def _kind(self, number: int) -> str:
        return self.stream_rows.node(number).kind

    def open(self, receiver: Receiver) -> None:
        """Prepare to test the edges into a receiver; `rows` are then the rows that it reads."""
        (node, self.port), stream_rows = receiver, self.stream_rows
        if self.port not in self.streams:
            clean = stream_rows.clean_streams[stream_rows.stream(self.roots[0])]
            self.streams[self.port] = clean[stream_rows.on_device(stream_rows.flat)]
        place = stream_rows.places[self.state.search_graph.place(node)]
        needed = {
            root: stream_rows.needed(self.port, self.state.alive[root]) & place
            for root in self.roots
        }
        mask = torch.stack([*needed.values()]).any(0)
        self.rows = mask.nonzero().flatten()
        reading = [root for root in self.roots if bool(needed[root].any())]
        self.updates = [self._update(root, needed[root], mask) for root in reading]
        self.recomputation = None
        if self.updates and self.roots != [stream_rows.logits]:
            self.recomputation = self._recomputation_of_roots()

    def _update(self, root: int, needed: Mask, mask: Mask) -> NodeUpdate:
        """How a root's output follows from the tested change, which has the rows of `mask`."""
        on_device, source_rows = self.stream_rows.on_device, None
        if not torch.equal(needed, mask):
            source_rows = on_device(needed[mask].nonzero().flatten())
        rows = needed.nonzero().flatten()
        change = Contribution(TESTED, source_rows, None)
        tested = PortInput(needed, rows, self.streams[self.port][on_device(rows)], [change])
        if root == self.stream_rows.logits:
            return NodeUpdate(root, needed, {None: tested}, None, None, None)
        return update_of(self.state, root, {self.port: tested})

    def _recomputation_of_roots(self) -> Recomputation:
        """What follows from the roots' outputs; the same for ports whose roots write one mask."""
        masks = {update.node: update.mask for update in self.updates}
        key = b"".join(mask.numpy().tobytes() for mask in masks.values())
        self.rescale = rescale_of(self.state, masks)
        if self.rescale is not None:
            masks = dict.fromkeys(self.rescale.written, self.rescale.mask)
        if key not in self._recomputations:
            recomputation = Recomputation(self.state, masks)
            self._recomputations[key] = recomputation
            self.outdated |= recomputation.nodes - {self.stream_rows.logits}
        return self._recomputations[key]

    def run(
        self, changes: Float[Tensor, "candidate row d_model"]
    ) -> Float[Tensor, "candidate batch d_model"] | None:
        """The stream at the end of each prompt if the port read `changes` in addition.

        None: it does not change.
        """
        outputs = Outputs({TESTED: changes})
        if self.recomputation is None:
            return self.updates[0].inputs[None].read(outputs)
        if not self.recomputation.changes_logits:
            return None
        for update in self.updates:
            update.run(self.state, outputs)
        if self.rescale is not None:
            self.rescale.run(outputs.output)
        return self.recomputation.run(outputs)

    def accept(self, change: Float[Tensor, "row d_model"]) -> None:
        """Add a change to what the port reads, for all tests that follow."""
        stream = self.streams[self.port]
        stream.index_add_(0, self.stream_rows.on_device(self.rows), change)
        self.updates = [self._with_stream(update, stream) for update in self.updates]

    def _with_stream(self, update: NodeUpdate, stream: Tensor) -> NodeUpdate:
        tested = update.inputs[self.port]
        fixed = stream[self.stream_rows.on_device(tested.rows)]
        return replace(update, inputs={self.port: replace(tested, fixed=fixed)})

    def close(self) -> None:
        """Note in the state what the port reads, now that all its edges are decided."""
        stream = self.streams[self.port]
        for update in self.updates:
            if update.queries is not None:
                assert self.port is not None
                rows = update.inputs[self.port].rows
                x = stream[self.stream_rows.on_device(rows)]
                self.state.set_values(update.node, self.port, rows, x)
        if self.state.search_graph.places:
            self._refresh(stream)

    def _refresh(self, stream: Tensor) -> None:
        """Where nodes are split by place, the next place is tested with the new outputs."""
        for root in self.outdated.intersection(self.roots):
            if self._kind(root) == "head":
                self.state.set_head(root)
            else:
                rows = self.state.alive[root].nonzero().flatten()
                self.state.set_mlp(root, stream[self.stream_rows.on_device(rows)])
        if self._heads and self.state.post.has(self.roots[0]):
            self.state.set_shares(self.roots[0])
        self.state.refresh(sorted(self.outdated.difference(self.roots)))
        self._recomputations.clear()

    @property
    def widest(self) -> int:
        """The most rows that a port reads for one candidate."""
        return max(len(self.rows), self.recomputation.widest if self.recomputation else 0)

    @property
    def n_rows(self) -> int:
        """The rows that nodes write for one candidate."""
        return self.recomputation.n_rows if self.recomputation else 0
