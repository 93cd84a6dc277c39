"""The turn of one node: what must be computed to test the edges into its ports."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import Node, Port
from ...records.graph import Receiver
from .recompute import Input, NodeUpdate, Outputs, Part, Recomputation, step_of
from .rows import Mask
from .state import SearchState

TESTED = -1  # the number under which steps know the change that is tested


class ReceiverTest:
    """A node (or all heads of a layer) whose incoming edges are decided, port by port."""

    def __init__(self, state: SearchState, node: Node) -> None:
        self.state, self.stream_rows = state, state.stream_rows
        numbers = [self.stream_rows.number(member) for member in state.search_graph.members(node)]
        self.roots = [number for number in numbers if number in state.alive]
        self.streams: dict[Port | None, Float[Tensor, "row d_model"]] = {}  # what ports read now
        for root in self._heads:
            state.values[root] = state.clean_values(root)
        self.moved = {*self.roots} - {
            self.stream_rows.logits
        }  # who writes something else afterwards
        self._programs: dict[bytes, Recomputation] = {}

    @property
    def _heads(self) -> list[int]:
        return [n for n in self.roots if n != self.stream_rows.logits and self._kind(n) == "head"]

    def _kind(self, number: int) -> str:
        return self.stream_rows.node(number).kind

    def open(self, receiver: Receiver) -> None:
        """Make ready to test edges into a receiver; `rows` are those it must read."""
        (node, self.port), stream_rows = receiver, self.stream_rows
        if self.port not in self.streams:
            clean = stream_rows.clean_streams[stream_rows.stream(self.roots[0])]
            self.streams[self.port] = clean[stream_rows.flat]
        place = stream_rows.places[self.state.search_graph.place(node)]
        needed = {
            root: stream_rows.needed(self.port, self.state.alive[root]) & place
            for root in self.roots
        }
        mask = torch.stack([*needed.values()]).any(0)
        self.rows = mask.nonzero().flatten()
        reading = [root for root in self.roots if bool(needed[root].any())]
        self.steps = [self._step(root, needed[root], mask) for root in reading]
        self.recomputation = None
        if self.steps and self.roots != [stream_rows.logits]:
            self.recomputation = self._compiled()

    def _step(self, root: int, needed: Mask, mask: Mask) -> NodeUpdate:
        source = None if torch.equal(needed, mask) else needed[mask].nonzero().flatten()
        rows = needed.nonzero().flatten()
        tested = Input(needed, rows, self.streams[self.port][rows], [Part(TESTED, source, None)])
        if root == self.stream_rows.logits:
            return NodeUpdate(root, needed, {None: tested}, None, None, None)
        return step_of(self.state, root, {self.port: tested})

    def _compiled(self) -> Recomputation:
        masks = {step.node: step.mask for step in self.steps}
        key = b"".join(mask.cpu().numpy().tobytes() for mask in masks.values())
        if key not in self._programs:
            recomputation = Recomputation(self.state, masks)
            self._programs[key] = recomputation
            self.moved |= {step.node for step in recomputation.steps} - {self.stream_rows.logits}
        return self._programs[key]

    def run(
        self, changes: Float[Tensor, "candidate row d_model"]
    ) -> Float[Tensor, "candidate batch d_model"] | None:
        """The stream at the end of each prompt if the port read `changes` more; None: as it is."""
        written = Outputs({TESTED: changes})
        if self.recomputation is None:
            return self.steps[0].inputs[None].read(written)
        if not self.recomputation.moves_logits:
            return None
        for step in self.steps:
            step.run(self.state, written)
        return self.recomputation.run(written)

    def accept(self, change: Float[Tensor, "row d_model"]) -> None:
        """From now on the port reads this change."""
        stream = self.streams[self.port]
        stream[self.rows] += change
        self.steps = [self._with_stream(step, stream) for step in self.steps]

    def _with_stream(self, step: NodeUpdate, stream: Tensor) -> NodeUpdate:
        tested = step.inputs[self.port]
        return replace(step, inputs={self.port: replace(tested, fixed=stream[tested.rows])})

    def close(self) -> None:
        """The port is decided."""
        stream = self.streams[self.port]
        for step in self.steps:
            if step.queries is not None:
                assert self.port is not None
                rows = step.inputs[self.port].rows
                self.state.set_values(step.node, self.port, rows, stream[rows])
        if self.state.search_graph.places:
            self._settle(stream)

    def _settle(self, stream: Tensor) -> None:
        """Nodes that are split write something else at this place before the next one's turn."""
        for root in self.moved.intersection(self.roots):
            if self._kind(root) == "head":
                self.state.set_head(root)
            else:
                self.state.set_mlp(root, stream)
        self.state.refresh(sorted(self.moved.difference(self.roots)))
        self._programs.clear()

    @property
    def widest(self) -> int:
        """The most rows that a port reads for one candidate."""
        return max(len(self.rows), self.recomputation.widest if self.recomputation else 0)

    @property
    def n_rows(self) -> int:
        """The rows that nodes write for one candidate."""
        return self.recomputation.n_rows if self.recomputation else 0
