"""What must be computed anew when one node's output changes: its kept descendants, no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.layers import FromHeads
from ...records.circuit import PORTS, Port
from .rows import Mask, Queries
from .state import SearchState


@dataclass
class Outputs:
    """What the moving nodes write, and what the heads among them mixed before their output."""

    output: dict[int, Float[Tensor, "candidate row d_model"]]
    z: dict[int, Float[Tensor, "candidate row d_head"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Rows of what a node writes, and the rows of a port's input to which they are added."""

    writer: int
    source: Int[Tensor, "some"] | None  # None: all it writes
    target: Int[Tensor, "some"] | None  # None: all the input's rows

    def of(self, written: Mapping[int, Tensor]) -> Tensor:
        value = written[self.writer]
        return value if self.source is None else value[:, self.source]


@dataclass(frozen=True)
class Input:
    """What a port reads: `fixed` plus what moving nodes write."""

    mask: Mask
    rows: Int[Tensor, "row"]
    fixed: Float[Tensor, "row d_model"]
    parts: Sequence[Part]

    def read(self, written: Outputs) -> Float[Tensor, "candidate row d_model"]:
        total = None
        for part in self.parts:
            value = part.of(written.output)
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
class NodeUpdate:
    """A node that moves, the inputs that move it, and the rows it then writes anew."""

    node: int
    mask: Mask
    inputs: Mapping[Port | None, Input]
    queries: Queries | None  # of heads
    pattern: Tensor | None  # attention, where only values move
    from_heads: FromHeads | None  # of MLPs, where nothing but heads moves what they read

    def run(self, state: SearchState, written: Outputs) -> None:
        """Add what the node writes; its ports that do not move are as they are."""
        read = {port: part.read(written) for port, part in self.inputs.items()}
        if self.queries is not None:
            z = written.z[self.node] = self._mix(state, read, self.queries)
            written.output[self.node] = state.stream_rows.output(self.node)(z)
        elif self.from_heads is not None:
            parts = [part.of(written.z) for part in self.inputs[None].parts]
            output = self.from_heads(torch.cat(parts, -1), read[None])
            written.output[self.node] = output
        else:
            written.output[self.node] = state.stream_rows.mlp(self.node)(read[None])

    def _mix(
        self, state: SearchState, read: Mapping[Port | None, Tensor], queries: Queries
    ) -> Tensor:
        stream_rows = state.stream_rows
        values: dict[str, Tensor] = dict(state.values[self.node])
        for port in PORTS:
            if port not in read:
                continue
            rows = self.inputs[port].rows
            new = stream_rows.project(self.node, port, read[port], stream_rows.token[rows])
            if port == "q" and queries.single and len(rows) == stream_rows.n_prompts:
                values[port] = new  # the rows that ask, and no other
            else:
                whole = values[port].repeat(len(new), 1, 1)
                values[port] = whole.index_copy_(1, stream_rows.flat[rows], new)
        pattern = self.pattern
        if pattern is None:
            pattern = stream_rows.scores(self.node, values["q"], values["k"], queries)
        return stream_rows.mix(self.node, pattern, values["v"], queries)


class Recomputation:
    """The kept descendants of some nodes of one layer, in the order of the forward pass."""

    def __init__(self, state: SearchState, roots: Mapping[int, Mask]) -> None:
        """`roots`: the nodes that move by themselves, and the rows they then write."""
        self.state, self.stream_rows = state, state.stream_rows
        self.changed: dict[int, Mask] = dict(roots)
        self._constants: dict[int, Tensor] = {}
        self.steps: list[NodeUpdate] = []
        for node in sorted(node for node in state.alive if node > max(roots)):
            inputs = {
                port: found
                for port in self._ports(node)
                if (found := self._input(node, port)) is not None
            }
            if inputs:
                self.steps.append(self._step(node, inputs))

    def _ports(self, node: int) -> tuple[Port | None, ...]:
        is_head = node != self.stream_rows.logits and self.stream_rows.node(node).kind == "head"
        return PORTS if is_head else (None,)

    def _input(self, node: int, port: Port | None) -> Input | None:
        """What a port reads of the nodes that move; None if nothing."""
        state, stream_rows = self.state, self.stream_rows
        kept = state.kept.get((node, port), [])
        needed = stream_rows.needed(port, state.alive[node])
        masks = {
            (writer, place): self.changed[writer] & stream_rows.places[place] & needed
            for writer, place in kept
            if writer in self.changed
        }
        moving = {key: mask for key, mask in masks.items() if bool(mask.any())}
        if not moving:
            return None
        mask = torch.stack(list(moving.values())).any(0)
        fixed = stream_rows.cut_streams[stream_rows.stream(node)].clone()
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
            constant = torch.where(changed, -self.stream_rows.ablated[writer], present)
            self._constants[writer] = constant
        return self._constants[writer]

    def _part(self, writer: int, filled: Mask, mask: Mask) -> Part:
        changed = self.changed[writer]
        source = None if torch.equal(filled, changed) else filled[changed].nonzero().flatten()
        target = None if torch.equal(filled, mask) else filled[mask].nonzero().flatten()
        return Part(writer, source, target)

    def _step(self, node: int, inputs: dict[Port | None, Input]) -> NodeUpdate:
        stream_rows, state = self.stream_rows, self.state
        if node == stream_rows.logits:
            return NodeUpdate(node, inputs[None].mask, inputs, None, None, None)
        step = step_of(state, node, inputs)
        self.changed[node] = step.mask
        return step

    @property
    def moves_logits(self) -> bool:
        return bool(self.steps) and self.steps[-1].node == self.stream_rows.logits

    def run(self, written: Outputs) -> Float[Tensor, "candidate batch d_model"]:
        """The residual stream at the end of each prompt, given what the roots write."""
        for step in self.steps[:-1]:
            step.run(self.state, written)
        final = self.steps[-1].inputs[None]
        read = final.read(written)
        if len(final.rows) == self.stream_rows.n_prompts:
            return read
        whole = self.state.final.repeat(len(read), 1, 1)
        whole[:, self.stream_rows.prompt[final.rows]] = read
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


def step_of(state: SearchState, node: int, inputs: dict[Port | None, Input]) -> NodeUpdate:
    """How a head or MLP moves with its inputs."""
    stream_rows, alive = state.stream_rows, state.alive[node]
    mask = torch.zeros_like(alive)
    for port, part in inputs.items():
        mask |= stream_rows.seeing(part.mask) & alive if port in ("k", "v") else part.mask
    if stream_rows.node(node).kind == "mlp":
        return NodeUpdate(node, mask, inputs, None, None, _from_heads(state, node, inputs[None]))
    queries = stream_rows.queries(node, mask)
    pattern = None
    if set(inputs) == {"v"}:
        values = state.values[node]
        pattern = stream_rows.scores(node, values["q"], values["k"], queries)
    return NodeUpdate(node, mask, inputs, queries, pattern, None)


def _from_heads(state: SearchState, node: int, read: Input) -> FromHeads | None:
    """The shorter way into an MLP, where it is one."""
    stream_rows = state.stream_rows
    writers = [part.writer for part in read.parts]
    whole = all(part.target is None for part in read.parts)
    if not whole or any(w < 0 or stream_rows.node(w).kind != "head" for w in writers):
        return None
    outputs = [stream_rows.output(writer).matrix for writer in writers]
    if sum(map(len, outputs)) > read.fixed.shape[-1] // 2:
        return None
    return FromHeads(stream_rows.mlp(node), read.fixed, outputs)
