"""What must be computed anew when one node's output changes: its kept descendants, no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .circuit import PORTS, Port
from .layout import Layout, Mask, Queries
from .state import State

Written = dict[int, Float[Tensor, "candidate row d_model"]]


@dataclass(frozen=True)
class Part:
    """Rows of what a node writes, and the rows of a port's input to which they are added."""

    writer: int
    source: Int[Tensor, "some"] | None  # None: all it writes
    target: Int[Tensor, "some"] | None  # None: all the input's rows


@dataclass(frozen=True)
class Input:
    """What a port reads: `fixed` plus what moving nodes write."""

    mask: Mask
    rows: Int[Tensor, "row"]
    fixed: Float[Tensor, "row d_model"]
    parts: Sequence[Part]

    def read(self, written: Written) -> Float[Tensor, "candidate row d_model"]:
        total = None
        for part in self.parts:
            value = written[part.writer]
            if part.source is not None:
                value = value[:, part.source]
            if total is None and part.target is None:
                total = self.fixed + value
                continue
            if total is None:
                total = self.fixed.repeat(len(value), 1, 1)
            if part.target is None:
                total += value
            else:
                total[:, part.target] += value
        assert total is not None
        return total


@dataclass(frozen=True)
class Step:
    """A node that moves, the inputs that move it, and the rows it then writes anew."""

    node: int
    mask: Mask
    inputs: Mapping[Port | None, Input]
    queries: Queries | None  # of heads
    pattern: Tensor | None  # attention, where only values move

    def run(self, layout: Layout, state: State, written: Written) -> Tensor:
        read = {port: part.read(written) for port, part in self.inputs.items()}
        return write(layout, state, self, read)


def write(
    layout: Layout, state: State, step: Step, read: Mapping[Port | None, Tensor]
) -> Float[Tensor, "candidate row d_model"]:
    """What a node writes, given what its moving ports read; the others are as they are."""
    if step.queries is None:
        return layout.mlp(step.node, read[None])
    values: dict[str, Tensor] = dict(state.values[step.node])
    for port in PORTS:
        if port not in read:
            continue
        rows = step.inputs[port].rows
        new = layout.project(step.node, port, read[port], layout.token[rows])
        if port == "q" and step.queries.single and len(rows) == layout.n_prompts:
            values[port] = new  # the rows that ask, and no other
        else:
            whole = values[port].repeat(len(new), 1, 1)
            values[port] = whole.index_copy_(1, layout.flat[rows], new)
    pattern = step.pattern
    if pattern is None:
        pattern = layout.scores(step.node, values["q"], values["k"], step.queries)
    return layout.mix(step.node, pattern, values["v"], step.queries)


class Program:
    """The kept descendants of some nodes of one layer, in the order of the forward pass."""

    def __init__(self, state: State, roots: Mapping[int, Mask]) -> None:
        """`roots`: the nodes that move by themselves, and the rows they then write."""
        self.state, self.layout = state, state.layout
        self.changed: dict[int, Mask] = dict(roots)
        self._constants: dict[int, Tensor] = {}
        self.steps: list[Step] = []
        for node in sorted(node for node in state.alive if node > max(roots)):
            inputs = {
                port: found
                for port in self._ports(node)
                if (found := self._input(node, port)) is not None
            }
            if inputs:
                self.steps.append(self._step(node, inputs))

    def _ports(self, node: int) -> tuple[Port | None, ...]:
        is_head = node != self.layout.logits and self.layout.node(node).kind == "head"
        return PORTS if is_head else (None,)

    def _input(self, node: int, port: Port | None) -> Input | None:
        """What a port reads of the nodes that move; None if nothing."""
        state, layout = self.state, self.layout
        kept = state.kept.get((node, port), [])
        needed = layout.needed(port, state.alive[node])
        masks = {
            (writer, place): self.changed[writer] & layout.places[place] & needed
            for writer, place in kept
            if writer in self.changed
        }
        moving = {key: mask for key, mask in masks.items() if bool(mask.any())}
        if not moving:
            return None
        mask = torch.stack(list(moving.values())).any(0)
        fixed = layout.cut_streams[layout.stream(node)].clone()
        for writer, place in kept:
            state.add(fixed, self._constant(writer), place)
        rows = mask.nonzero().flatten()
        parts = [self._part(writer, filled, mask) for (writer, _), filled in moving.items()]
        return Input(mask, rows, fixed[rows], parts)

    def _constant(self, writer: int) -> Float[Tensor, "row d_model"]:
        """A kept sender's part of `fixed`: where it moves, only that it is not ablated."""
        present = self.state.contribution(writer)
        if writer not in self.changed:
            return present
        if writer not in self._constants:
            changed = self.changed[writer][:, None]
            constant = torch.where(changed, -self.layout.ablated[writer], present)
            self._constants[writer] = constant
        return self._constants[writer]

    def _part(self, writer: int, filled: Mask, mask: Mask) -> Part:
        changed = self.changed[writer]
        source = None if torch.equal(filled, changed) else filled[changed].nonzero().flatten()
        target = None if torch.equal(filled, mask) else filled[mask].nonzero().flatten()
        return Part(writer, source, target)

    def _step(self, node: int, inputs: dict[Port | None, Input]) -> Step:
        layout, state = self.layout, self.state
        if node == layout.logits:
            return Step(node, inputs[None].mask, inputs, None, None)
        step = step_of(state, node, inputs)
        self.changed[node] = step.mask
        return step

    @property
    def moves_logits(self) -> bool:
        return bool(self.steps) and self.steps[-1].node == self.layout.logits

    def run(self, written: Written) -> Float[Tensor, "candidate batch d_model"]:
        """The residual stream at the end of each prompt, given what the roots write."""
        for step in self.steps[:-1]:
            written[step.node] = step.run(self.layout, self.state, written)
        final = self.steps[-1].inputs[None]
        read = final.read(written)
        if len(final.rows) == self.layout.n_prompts:
            return read
        whole = self.state.read(self.layout.logits, None)[self.layout.end_rows]
        whole = whole.repeat(len(read), 1, 1)
        whole[:, self.layout.prompt[final.rows]] = read
        return whole

    @property
    def widest(self) -> int:
        """The most rows that a port reads for one candidate."""
        inputs = [part for step in self.steps for part in step.inputs.values()]
        return max((len(part.rows) for part in inputs), default=0)

    @property
    def n_rows(self) -> int:
        """The rows that all nodes write for one candidate: what its memory depends on."""
        return sum(int(mask.sum()) for mask in self.changed.values())


def step_of(state: State, node: int, inputs: dict[Port | None, Input]) -> Step:
    """How a head or MLP moves with its inputs."""
    layout, alive = state.layout, state.alive[node]
    mask = torch.zeros_like(alive)
    for port, part in inputs.items():
        mask |= layout.seeing(part.mask) & alive if port in ("k", "v") else part.mask
    if layout.node(node).kind == "mlp":
        return Step(node, mask, inputs, None, None)
    queries = layout.queries(node, mask)
    pattern = None
    if set(inputs) == {"v"}:
        values = state.values[node]
        pattern = layout.scores(node, values["q"], values["k"], queries)
    return Step(node, mask, inputs, queries, pattern)
