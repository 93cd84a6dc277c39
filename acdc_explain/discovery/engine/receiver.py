"""The turn of one node: what must be computed to test the edges into its ports."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import Node, Port
from ...records.graph import Receiver
from .recompute import Input, Part, Program, Step, Written, step_of
from .rows import Mask
from .state import State

TESTED = -1  # the number under which steps know the change that is tested


class Turn:
    """A node (or all heads of a layer) whose incoming edges are decided, port by port."""

    def __init__(self, state: State, node: Node) -> None:
        self.state, self.layout = state, state.layout
        numbers = [self.layout.number(member) for member in state.view.members(node)]
        self.roots = [number for number in numbers if number in state.alive]
        self.streams: dict[Port | None, Float[Tensor, "row d_model"]] = {}  # what ports read now
        for root in self._heads:
            state.values[root] = state.clean_values(root)
        self.moved = {*self.roots} - {self.layout.logits}  # who writes something else afterwards
        self._programs: dict[bytes, Program] = {}

    @property
    def _heads(self) -> list[int]:
        return [n for n in self.roots if n != self.layout.logits and self._kind(n) == "head"]

    def _kind(self, number: int) -> str:
        return self.layout.node(number).kind

    def open(self, receiver: Receiver) -> None:
        """Make ready to test edges into a receiver; `rows` are those it must read."""
        (node, self.port), layout = receiver, self.layout
        if self.port not in self.streams:
            clean = layout.clean_streams[layout.stream(self.roots[0])]
            self.streams[self.port] = clean[layout.flat]
        place = layout.places[self.state.view.place(node)]
        needed = {
            root: layout.needed(self.port, self.state.alive[root]) & place for root in self.roots
        }
        mask = torch.stack([*needed.values()]).any(0)
        self.rows = mask.nonzero().flatten()
        reading = [root for root in self.roots if bool(needed[root].any())]
        self.steps = [self._step(root, needed[root], mask) for root in reading]
        self.program = None
        if self.steps and self.roots != [layout.logits]:
            self.program = self._compiled()

    def _step(self, root: int, needed: Mask, mask: Mask) -> Step:
        source = None if torch.equal(needed, mask) else needed[mask].nonzero().flatten()
        rows = needed.nonzero().flatten()
        tested = Input(needed, rows, self.streams[self.port][rows], [Part(TESTED, source, None)])
        if root == self.layout.logits:
            return Step(root, needed, {None: tested}, None, None, None)
        return step_of(self.state, root, {self.port: tested})

    def _compiled(self) -> Program:
        masks = {step.node: step.mask for step in self.steps}
        key = b"".join(mask.cpu().numpy().tobytes() for mask in masks.values())
        if key not in self._programs:
            program = Program(self.state, masks)
            self._programs[key] = program
            self.moved |= {step.node for step in program.steps} - {self.layout.logits}
        return self._programs[key]

    def run(
        self, changes: Float[Tensor, "candidate row d_model"]
    ) -> Float[Tensor, "candidate batch d_model"] | None:
        """The stream at the end of each prompt if the port read `changes` more; None: as it is."""
        written = Written({TESTED: changes})
        if self.program is None:
            return self.steps[0].inputs[None].read(written)
        if not self.program.moves_logits:
            return None
        for step in self.steps:
            step.run(self.state, written)
        return self.program.run(written)

    def accept(self, change: Float[Tensor, "row d_model"]) -> None:
        """From now on the port reads this change."""
        stream = self.streams[self.port]
        stream[self.rows] += change
        self.steps = [self._with_stream(step, stream) for step in self.steps]

    def _with_stream(self, step: Step, stream: Tensor) -> Step:
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
        if self.state.view.places:
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
        return max(len(self.rows), self.program.widest if self.program else 0)

    @property
    def n_rows(self) -> int:
        """The rows that nodes write for one candidate."""
        return self.program.n_rows if self.program else 0
