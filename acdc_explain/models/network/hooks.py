"""Hooks on what the nodes of a model read and write, made of hooks on its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .parts import AttentionParts, Block, MlpParts, Network

Kind = Literal["input", "heads", "mlp", "pattern", "value", "q", "k", "v", "mlp_in", "sum", "final"]


class Point(NamedTuple):
    """A place in the forward pass.

    input, final: the stream that the first layer reads; the one before the last norm.
    heads: what each head writes [batch pos head d_model]; mlp: what the MLP writes.
    q, k, v: the stream that each head reads there [batch pos head d_model]; mlp_in: the MLP.
    sum: what a norm after the heads reads, where there is one [batch pos d_model].
    pattern: the attention weights [batch head query key]; value: [batch pos head d_head].
    """

    kind: Kind
    layer: int = 0


Function = Callable[[Tensor], Tensor | None]
Hook = tuple[Point, Function]
"""A place and a function of the value there: it returns a new value, or None to look on."""


class StopForward(Exception):
    """A hook raises it to leave a forward pass with the stream it saw."""

    def __init__(self, stream: Tensor) -> None:
        self.stream = stream


@contextmanager
def hooked(network: Network, hooks: Sequence[Hook]) -> Iterator[None]:
    """Run the functions of hooks whenever the model is run. Those of one point run in order."""
    functions: dict[Point, list[Function]] = {}
    for point, function in hooks:
        functions.setdefault(point, []).append(function)
    with ExitStack() as stack:
        for point, several in functions.items():
            for handle in _INSTALL[point.kind](network, point, _chain(several)):
                stack.callback(handle.remove)
        yield


def _chain(functions: Sequence[Function]) -> Callable[[Tensor], Tensor]:
    def run(value: Tensor) -> Tensor:
        for function in functions:
            new = function(value)
            value = value if new is None else new
        return value

    return run


# --- streams -----------------------------------------------------------------------------------


def _input(network: Network, point: Point, run: Any) -> list[Any]:
    return [before(network.blocks[0].module, run)]


def _final(network: Network, point: Point, run: Any) -> list[Any]:
    ended: list[bool] = []  # since the same norm may be run before the first layer too (NanoChat)

    def at_the_end(value: Tensor) -> Any:
        return run(value) if ended and ended.pop() else None

    last = network.blocks[-1].module
    mark = last.register_forward_hook(lambda module, args, output: ended.append(True))
    return [mark, before(network.final_norm, at_the_end)]


def _sum(network: Network, point: Point, run: Any) -> list[Any]:
    return [before(network.blocks[point.layer].attention.post, run)]


def before(module: Any, run: Function) -> Any:
    """A hook that changes what a module reads, where `run` returns something."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        new = run(value)
        if new is None:
            return None
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": new}
        return (new, *args[1:]), kwargs

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _keep_input(module: Any, kept: list[Tensor]) -> Any:
    """Put what a module reads in `kept`, which then has one entry."""

    def keep(value: Tensor) -> None:
        kept[:] = [value]

    return before(module, keep)


# --- what nodes write --------------------------------------------------------------------------


def _heads(network: Network, point: Point, run: Any) -> list[Any]:
    block = network.blocks[point.layer]
    attention = block.attention
    mixed: list[Tensor] = []
    sums: list[Tensor] = []
    handles = [_keep_input(attention.out, mixed)]
    if attention.post is not None:
        handles.append(_keep_input(attention.post, sums))

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        written = _written(block, mixed[0], sums[0] if sums else None)
        new = run(written)
        if new is written:
            return output
        changed: Tensor = output + (new - written).sum(2) / block.multiplier
        return changed

    last = attention.out if attention.post is None else attention.post
    return [*handles, last.register_forward_hook(hook)]


def _written(block: Block, mixed: Tensor, total: Tensor | None) -> Tensor:
    """What each head adds to the stream, from the mixed values of all heads.

    A norm after the attention layer scales each head's share as it scales their sum in this run.
    """
    weight = block.attention.out_weight
    z = mixed.view(*mixed.shape[:-1], len(weight), -1)
    written = torch.einsum("bphe,hed->bphd", z, weight)
    if total is not None:
        post, bias = block.attention_post, block.attention.head_bias
        written = written if bias is None else written + bias
        written = post.share(written, post.inverse_scale(total)[:, :, None])
    return written if block.multiplier == 1 else written * block.multiplier


def _mlp(network: Network, point: Point, run: Any) -> list[Any]:
    block = network.blocks[point.layer]
    assert block.mlp is not None
    shapes: list[Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        written = value.view_as(shapes[0]) * block.multiplier
        new = run(written)
        if new is written:
            return output
        new = (new / block.multiplier).reshape(value.shape)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    last = block.mlp.exit if block.mlp.post is None else block.mlp.post
    return [_keep_input(block.module, shapes), last.register_forward_hook(hook)]


def _pattern(network: Network, point: Point, run: Any) -> list[Any]:
    def hook(module: Any, args: Any, output: Any) -> None:
        run(output[1])

    return [network.blocks[point.layer].attention.module.register_forward_hook(hook)]


def _value(network: Network, point: Point, run: Any) -> list[Any]:
    projection = network.blocks[point.layer].attention.projections["v"]

    def hook(module: Any, args: Any, output: Tensor) -> None:
        run(output[..., projection.columns])

    return [projection.modules[-1].register_forward_hook(hook)]


# --- what nodes read ---------------------------------------------------------------------------


def _port(network: Network, point: Point, run: Any) -> list[Any]:
    attention: AttentionParts = network.blocks[point.layer].attention
    projection = attention.projections[point.kind]  # type: ignore[index]
    n_heads = len(projection.columns)
    streams: list[Tensor] = []
    source = attention.module if attention.norm is None else attention.norm

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        stream = streams[0][:, :, None].expand(-1, -1, n_heads, -1)
        new = run(stream)
        if new is stream:
            return output
        normed = new if attention.norm is None else attention.norm.forward(new)
        changed = output.clone()
        changed[..., projection.columns.flatten()] = projection.of_heads(normed).flatten(2)
        return changed

    return [_keep_input(source, streams), projection.modules[-1].register_forward_hook(hook)]


def _mlp_in(network: Network, point: Point, run: Any) -> list[Any]:
    block = network.blocks[point.layer]
    mlp: MlpParts | None = block.mlp
    assert mlp is not None
    streams: list[Tensor] = []
    shapes: list[Tensor] = []

    def replace(value: Tensor) -> Tensor:
        stream = (streams[0] if mlp.norm is not None else value).view_as(shapes[0])
        new = run(stream)
        if new is stream:
            return value
        normed = new if mlp.norm is None else mlp.norm.forward(new)
        replaced: Tensor = normed.reshape(value.shape)
        return replaced

    handles = [] if mlp.norm is None else [_keep_input(mlp.norm, streams)]
    return [_keep_input(block.module, shapes), *handles, before(mlp.entry, replace)]


_INSTALL: dict[str, Callable[[Network, Point, Any], list[Any]]] = {
    "input": _input,
    "sum": _sum,
    "final": _final,
    "heads": _heads,
    "mlp": _mlp,
    "pattern": _pattern,
    "value": _value,
    "q": _port,
    "k": _port,
    "v": _port,
    "mlp_in": _mlp_in,
}
