"""Recompute what changes when one node's output changes: the node's kept descendants alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.functional.mlp import FromHeads, Mlp
from ...records.circuit import PORTS, Port
from .post import Rescale
from .rows import Mask, Queries, Rows
from .state import SearchState


@dataclass
class Outputs:
    """What the changing nodes write, and `z` of the heads among them: their mixed values."""

    output: dict[int, Float[Tensor, "candidate row d_model"]]
    z: dict[int, Float[Tensor, "candidate row d_head"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Contribution:
    """Rows of what a writer writes, and the rows of a port's input to which they are added."""

    writer: int
    source_rows: Rows | None  # on the device; None: all that it writes
    target_rows: Rows | None  # on the device; None: all of the input

    def of(self, values: Mapping[int, Tensor]) -> Tensor:
        """These rows of the writer's value, for every candidate."""
        value = values[self.writer]
        return value if self.source_rows is None else value[:, self.source_rows]


@dataclass(frozen=True)
class PortInput:
    """What a port reads at the rows of `mask`: `fixed`, and what changing nodes contribute."""

    mask: Mask
    rows: Rows  # the same rows by number
    fixed: Float[Tensor, "row d_model"]
    contributions: Sequence[Contribution]

    def read(self, outputs: Outputs) -> Float[Tensor, "candidate row d_model"]:
        """The sum for every candidate."""
        total = None
        for contribution in self.contributions:
            value = contribution.of(outputs.output)
            if total is None and contribution.target_rows is None:
                total = self.fixed + value
                continue
            if total is None:
                total = self.fixed.repeat(len(value), 1, 1)
            if contribution.target_rows is None:
                total += value
            else:
                total[:, contribution.target_rows] += value
        assert total is not None
        return total


@dataclass(frozen=True)
class NodeUpdate:
    """How a node's output follows from the inputs that change, at the rows of `mask`."""

    node: int
    mask: Mask
    inputs: Mapping[Port | None, PortInput]
    queries: Queries | None  # of heads
    pattern: Tensor | None  # of heads of which only values change: their attention
    from_heads: FromHeads | None  # of MLPs whose input is changed by heads alone

    def run(self, state: SearchState, outputs: Outputs) -> None:
        """Add what the node writes to `outputs`. Ports without an input here do not change."""
        streams = {port: port_input.read(outputs) for port, port_input in self.inputs.items()}
        if self.queries is not None:
            z = outputs.z[self.node] = self._z(state, streams, self.queries)
            outputs.output[self.node] = state.stream_rows.write(self.node, z)
        elif self.from_heads is not None and not torch.is_grad_enabled():
            z_of_heads = [part.of(outputs.z) for part in self.inputs[None].contributions]
            output = self.from_heads(torch.cat(z_of_heads, -1), streams[None])
            outputs.output[self.node] = output
        else:
            outputs.output[self.node] = state.stream_rows.mlp(self.node)(streams[None])

    def _z(
        self, state: SearchState, streams: Mapping[Port | None, Tensor], queries: Queries
    ) -> Float[Tensor, "candidate row d_head"]:
        stream_rows = state.stream_rows
        values: dict[Port, Tensor] = dict(state.values[self.node])
        for port in PORTS:
            if port not in streams:
                continue
            rows = self.inputs[port].rows
            new = stream_rows.project(self.node, port, streams[port], stream_rows.token[rows])
            if port == "q" and queries.single and len(rows) == stream_rows.n_prompts:
                values[port] = new  # the rows of the queries alone
            else:
                whole = values[port].repeat(len(new), 1, 1)
                flat = stream_rows.on_device(stream_rows.flat[rows])
                values[port] = whole.index_copy_(1, flat, new)
        pattern = self.pattern
        if pattern is None:
            pattern = stream_rows.scores(self.node, values["q"], values["k"], queries)
        return stream_rows.mix(self.node, pattern, values["v"], queries)


class Recomputation:
    """The updates of all kept descendants of some nodes, in the order of the forward pass."""

    def __init__(self, state: SearchState, roots: Mapping[int, Mask]) -> None:
        """Find the descendants and what each of them reads.

        Args:
            state: The kept edges, and what decided nodes write.
            roots: The nodes, all of one layer, whose output changes, and the rows at which it does.
        """
        self.state, self.stream_rows = state, state.stream_rows
        self.changed: dict[int, Mask] = dict(roots)  # the rows at which each node's output changes
        self.updates: list[NodeUpdate | Rescale] = []
        mixing: dict[int, Mask] = {}  # heads of one layer that mix something else, before a norm
        for node in sorted(node for node in state.alive if node > max(roots)):
            if mixing and node not in state.post.siblings(next(iter(mixing))):
                self._rescale(mixing)
                mixing = {}
            inputs = {
                port: port_input
                for port in self._ports(node)
                if (port_input := self._input(node, port)) is not None
            }
            if inputs:
                update = self._update(node, inputs)
                self.updates.append(update)
                if state.post.has(node):
                    mixing[node] = update.mask

    def _rescale(self, mixing: Mapping[int, Mask]) -> None:
        """Let the norm after a layer follow what some of its heads mix."""
        rescale = rescale_of(self.state, mixing)
        assert rescale is not None
        self.updates.append(rescale)
        for head in mixing:
            del self.changed[head]
        self.changed |= dict.fromkeys(rescale.written, rescale.mask)

    def _ports(self, node: int) -> tuple[Port | None, ...]:
        is_head = node != self.stream_rows.logits and self.stream_rows.node(node).kind == "head"
        return PORTS if is_head else (None,)

    def _input(self, node: int, port: Port | None) -> PortInput | None:
        """What a port reads of the nodes that change; None if it reads nothing of them."""
        state, stream_rows = self.state, self.stream_rows
        kept = state.kept.get((node, port), [])
        needed = stream_rows.needed(port, state.alive[node])
        masks = {
            (writer, place): self.changed[writer] & stream_rows.places[place] & needed
            for writer, place in kept
            if writer in self.changed
        }
        changing = {key: mask for key, mask in masks.items() if bool(mask.any())}
        if not changing:
            return None
        mask = torch.stack(list(changing.values())).any(0)
        rows = mask.nonzero().flatten()
        fixed = state.read(node, port, rows)
        for (writer, _), read in changing.items():
            self._take_out(fixed, rows, writer, read[rows])
        contributions = [
            self._contribution(writer, read, mask) for (writer, _), read in changing.items()
        ]
        return PortInput(mask, rows, fixed, contributions)

    def _take_out(self, fixed: Tensor, rows: Rows, writer: int, read: Mask) -> None:
        """Take what a writer that changes writes now from what a port reads; `read`: of `rows`."""
        on_device, state = self.stream_rows.on_device, self.state
        some = rows if bool(read.all()) else rows[read]
        written = state.deviation[writer][on_device(some)] + self.stream_rows.ablated(writer, some)
        fixed.index_add_(0, on_device(read.nonzero().flatten()), written, alpha=-1)

    def _contribution(self, writer: int, read: Mask, mask: Mask) -> Contribution:
        """Of the rows `read` that change at the writer, to the rows `mask` of the input."""
        changed = self.changed[writer]
        on_device = self.stream_rows.on_device
        source_rows, target_rows = None, None
        if not torch.equal(read, changed):
            source_rows = on_device(read[changed].nonzero().flatten())
        if not torch.equal(read, mask):
            target_rows = on_device(read[mask].nonzero().flatten())
        return Contribution(writer, source_rows, target_rows)

    def _update(self, node: int, inputs: dict[Port | None, PortInput]) -> NodeUpdate:
        stream_rows, state = self.stream_rows, self.state
        if node == stream_rows.logits:
            return NodeUpdate(node, inputs[None].mask, inputs, None, None, None)
        update = update_of(state, node, inputs)
        self.changed[node] = update.mask
        return update

    @property
    def changes_logits(self) -> bool:
        """Whether the logits are among the descendants."""
        last = self.updates[-1] if self.updates else None
        return isinstance(last, NodeUpdate) and last.node == self.stream_rows.logits

    @property
    def nodes(self) -> set[int]:
        """The nodes that read something that changes."""
        return {update.node for update in self.updates if isinstance(update, NodeUpdate)}

    def run(self, outputs: Outputs) -> Float[Tensor, "candidate batch d_model"]:
        """The residual stream at the end of each prompt, given what the roots write."""
        *updates, logits = self.updates
        for update in updates:
            if isinstance(update, Rescale):
                update.run(outputs.output)
            else:
                update.run(self.state, outputs)
        assert isinstance(logits, NodeUpdate)
        final = logits.inputs[None]
        stream = final.read(outputs)
        if len(final.rows) == self.stream_rows.n_prompts:
            return stream
        whole = self.state.final.repeat(len(stream), 1, 1)
        prompts = self.stream_rows.on_device(self.stream_rows.prompt[final.rows])
        return whole.index_copy_(1, prompts, stream)

    @property
    def widest(self) -> int:
        """The most rows that a port reads for one candidate."""
        updates = [update for update in self.updates if isinstance(update, NodeUpdate)]
        inputs = [port_input for update in updates for port_input in update.inputs.values()]
        return max((len(port_input.rows) for port_input in inputs), default=0)

    @property
    def n_rows(self) -> int:
        """The rows that all nodes write for one candidate: what its memory depends on."""
        return sum(int(mask.sum()) for mask in self.changed.values())


def rescale_of(state: SearchState, changing: Mapping[int, Mask]) -> Rescale | None:
    """The norm after heads that mix something else at some rows; None if there is no such norm."""
    one = next(iter(changing))
    if not state.post.has(one):
        return None
    mask = torch.stack([*changing.values()]).any(0)
    read = [head for head in state.post.siblings(one) if head in state.read_from]
    return Rescale(state.post, dict(changing), mask, read)


def update_of(state: SearchState, node: int, inputs: dict[Port | None, PortInput]) -> NodeUpdate:
    """How the output of a head or an MLP follows from the inputs that change."""
    stream_rows, alive = state.stream_rows, state.alive[node]
    mask = torch.zeros_like(alive)
    for port, port_input in inputs.items():
        if port in ("k", "v"):
            mask |= stream_rows.attending_to(port_input.mask) & alive
        else:
            mask |= port_input.mask
    if stream_rows.node(node).kind == "mlp":
        return NodeUpdate(node, mask, inputs, None, None, _from_heads(state, node, inputs[None]))
    queries = stream_rows.queries(node, mask)
    pattern = None
    if set(inputs) == {"v"}:
        values = state.values[node]
        pattern = stream_rows.scores(node, values["q"], values["k"], queries)
    return NodeUpdate(node, mask, inputs, queries, pattern, None)


def _from_heads(state: SearchState, node: int, mlp_input: PortInput) -> FromHeads | None:
    """The MLP applied to z of heads without forming what they write; None if that is no faster."""
    stream_rows = state.stream_rows
    writers = [contribution.writer for contribution in mlp_input.contributions]
    whole = all(contribution.target_rows is None for contribution in mlp_input.contributions)
    if not whole or any(w < 0 or stream_rows.node(w).kind != "head" for w in writers):
        return None
    if any(state.post.has(writer) for writer in writers):
        return None
    mlp = stream_rows.mlp(node)
    if not isinstance(mlp, Mlp):
        return None
    outputs = [stream_rows.output_matrix(writer) for writer in writers]
    if sum(map(len, outputs)) > mlp_input.fixed.shape[-1] // 2:
        return None
    return FromHeads(mlp, mlp_input.fixed, outputs)
