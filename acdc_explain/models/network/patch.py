"""Patching by hand: what a kind of port makes of other prompts, put in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import PORTS, Port
from .hooks import Function, before
from .parts import Block, Network
from .precision import relative_error
from .watch import Call, probe_tokens

Calls: TypeAlias = Sequence[Mapping[Any, Call]]
"""What the modules of each layer read and wrote on a few tokens (`watch`)."""


class Prompts(Protocol):
    """Prompts padded on the right, and where each ends."""

    @property
    def tokens(self) -> Tensor: ...

    def at_end(self, values: Tensor) -> Tensor: ...


@torch.no_grad()
def patched_logits(
    network: Network, kind: str, clean: Prompts, corrupt: Prompts
) -> Float[Tensor, "batch vocab"]:
    """The clean prompts' last logits, with all queries (or keys, ...) of the corrupted prompts.

    It knows nothing of streams, norms and heads: the outputs of modules are kept in one forward
    pass and put in place in another. A check of what cuts edges by what ports read.

    Args:
        network: The model.
        kind: "q", "k", "v", or "mlp_in" for what MLPs write.
        clean: The prompts that are run.
        corrupt: Those that the queries are taken from, of the same size.
    """
    places = [_place(block, kind) for block in network.blocks]
    kept: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).clone())

    with ExitStack() as stack:
        for module, _ in places:
            stack.callback(module.register_forward_hook(keep).remove)
        network.body(corrupt.tokens, use_cache=False)
    with ExitStack() as stack:
        for (module, columns), value in zip(places, kept):
            stack.callback(module.register_forward_hook(_putter(value, columns)).remove)
        # the model's own head, on the tokens it needs
        logits = network.hf_model(clean.tokens, use_cache=False).logits
    return clean.at_end(logits)


def _place(block: Block, kind: str) -> tuple[Any, Tensor | None]:
    """The module that computes what a kind of port reads, and its columns of the output."""
    if kind == "mlp_in":
        assert block.mlp is not None
        return block.mlp.exit, None
    projection = block.attention.projections[kind]  # type: ignore[index]
    return projection.modules[-1], projection.columns.flatten()


def _putter(value: Tensor, columns: Tensor | None) -> Any:
    def put(module: Any, args: Any, output: Any) -> Any:
        if columns is not None:
            changed = output.clone()
            changed[..., columns] = value[..., columns]
            return changed
        return (value, *output[1:]) if isinstance(output, tuple) else value

    return put


@torch.no_grad()
def leak_between_heads(network: Network, calls: Calls) -> float:
    """How much a head's queries, keys or values change what other heads of its layer mix.

    In every layer the first head's queries (then keys, then values) are changed, while the layer
    reads what it always reads. What other heads mix, and how they attend, must stay the same.
    Relative to the largest entry.
    """
    blocks, worst = network.blocks, 0.0
    for port in PORTS:
        for block, seen, (attention, mixed) in zip(blocks, calls, _changed(network, calls, port)):
            call, before = seen[block.attention.module], seen[block.attention.out].input
            d_head = before.shape[-1] // network.n_heads
            assert call.weights is not None
            worst = max(
                worst,
                relative_error(attention[:, 1:], call.weights[:, 1:]),
                relative_error(mixed[..., d_head:], before[..., d_head:]),
            )
    return worst


@torch.no_grad()
def bypass_of_ports(network: Network, calls: Calls) -> float:
    """How much of what heads mix comes from the stream by another way than their ports.

    Every layer reads another stream while its queries, keys and values stay as they are. What
    heads mix must stay the same; it does not where they have a gate. Relative to the largest entry.
    """
    blocks = network.blocks
    mixed: list[Tensor] = []
    with ExitStack() as stack:
        for block, seen in zip(blocks, calls):
            parts = block.attention
            other = seen[parts.module].input.flip(0, 1) * -2
            handles = [before(parts.module, _always(other)), before(parts.out, mixed.append)]
            for last in {projection.modules[-1] for projection in parts.projections.values()}:
                put = _putter(seen[last].output, None)
                handles.append(last.register_forward_hook(put))
            for handle in handles:
                stack.callback(handle.remove)
        network.body(probe_tokens(network.hf_model), use_cache=False)
    return max(
        relative_error(changed, seen[block.attention.out].input)
        for block, seen, changed in zip(blocks, calls, mixed)
    )


@torch.no_grad()
def misplaced_ports(network: Network, calls: Calls) -> float:
    """How much attention depends on values, and at other tokens on the queries of one token.

    It does if queries, keys and values are not the columns that they are taken for. Relative to
    the largest entry.
    """
    token, worst = 2, 0.0
    for port, places in (("v", slice(None)), ("q", slice(token, token + 1))):
        changed = _changed(network, calls, port, places, slice(None))  # type: ignore[arg-type]
        for block, seen, (attention, _) in zip(network.blocks, calls, changed):
            before = seen[block.attention.module].weights
            assert before is not None
            if port == "q":
                attention = attention.clone()
                attention[:, :, places] = before[:, :, places]
            worst = max(worst, relative_error(attention, before))
    return worst


def _changed(
    network: Network,
    calls: Calls,
    port: Port,
    places: slice = slice(None),
    heads: slice = slice(1),
) -> list[tuple[Tensor, Tensor]]:
    """Attention and mixed values of each layer, with some heads' `port` changed (the first's)."""
    attention: list[Tensor] = []
    mixed: list[Tensor] = []
    with ExitStack() as stack:
        for block, seen in zip(network.blocks, calls):
            parts, read = block.attention, seen[block.attention.module].input
            columns = parts.projections[port].columns[heads].flatten()
            last = parts.projections[port].modules[-1]
            for handle in (
                before(parts.module, _always(read)),
                last.register_forward_hook(_turner(columns, places)),
                before(parts.out, mixed.append),
                parts.module.register_forward_hook(lambda m, a, out: attention.append(out[1])),
            ):
                stack.callback(handle.remove)
        network.body(probe_tokens(network.hf_model), use_cache=False)
    return list(zip(attention, mixed))


def _always(value: Tensor) -> Function:
    return lambda read: value


def _turner(columns: Tensor, places: slice) -> Any:
    def turn(module: Any, args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, places, columns] *= -2
        return changed

    return turn
