"""The gradients of a metric at everything that ports read.

One backward pass through the layers gives the gradient at every query, key, value and MLP input.
Between these and what a port reads there are only a norm and a linear map, so the gradient at each
port of each head follows without another pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.contrast import Contrast
from ..models.functional.attention import Attention
from ..models.functional.layers import Layers
from ..models.functional.places import Places
from ..models.network.hooks import Function, Hook, Point
from ..models.network.precision import is_half, precise
from ..records.circuit import PORTS, Node, Port
from .engine.proof import fast_trouble
from .engine.reference import readers
from .engine.rows import rows_that_change

Gradients: TypeAlias = tuple[list[int], Float[Tensor, "receiver *row d_model"]]


def can_differentiate(contrast: Contrast) -> bool:
    """Whether `Backward` is exact for a model: the fast engine is, and heads project alone."""
    return fast_trouble(contrast) is None and Layers.of(contrast.model).separate_ports


@dataclass
class _LayerPass:
    """One layer of a forward pass: what its nodes read and write, queries, keys and values."""

    attention_stream: Tensor
    mlp_stream: Tensor
    ports: dict[Port, Float[Tensor, "batch pos head d_head"]]
    z: Float[Tensor, "batch pos head*d_head"]
    post_scale: Tensor | None  # of a norm after the heads
    mlp_output: Tensor | None
    after: Float[Tensor, "batch pos d_model"]  # the stream that the next layer reads


class Backward:
    """Forward and backward passes through the layers, with the gradients at all ports.

    Of what nodes read and write, only the rows (tokens of prompts) that a cut can change are used.
    The backward pass runs one layer after the other again, so that only one is held in memory.
    """

    def __init__(self, contrast: Contrast) -> None:
        model, batch = contrast.model, contrast.clean
        self.contrast, self.graph = contrast, model.graph
        self.layers = Layers.of(model)
        self.kept: Int[Tensor, "row"] = rows_that_change(contrast).to(batch.end.device)
        self.clean = precise(model.embed(batch))
        self.places = self.layers.places(batch.tokens.shape[1])
        self.difference = self._ablated()
        self.input_difference = torch.zeros_like(self.clean)
        change = self.difference[0].to(self.clean.device) - self._rows(self.clean)
        self.input_difference.flatten(0, 1).index_copy_(0, self.kept, change)
        self._complete = False

    @torch.no_grad()
    def _ablated(self) -> Float[Tensor, "writer row d_model"]:
        """What every writer writes when ablated; in the host's memory if it takes too much."""
        size = len(self.graph.writers), len(self.kept), self.clean.shape[-1]
        too_large = math.prod(size) * self.clean.element_size() > self.contrast.memory * 1e9
        keep_on = torch.device("cpu") if too_large else self.clean.device
        ablated, ablation = self.clean.new_zeros(size, device=keep_on), self.contrast.ablation
        if ablation != "zero":
            corrupt = precise(self.contrast.model.embed(self.contrast.corrupt))
            for writers, output in self._outputs(corrupt, []):
                carried = output.mean(1, keepdim=True) if ablation == "mean" else output
                ablated[writers] = carried.to(keep_on)
        return ablated

    def _rows(self, value: Float[Tensor, "batch pos *d"]) -> Float[Tensor, "row *d"]:
        return value.flatten(0, 1)[self.kept]

    @torch.no_grad()
    def _outputs(
        self, x: Float[Tensor, "batch pos d_model"], streams: list[Tensor]
    ) -> Iterator[tuple[slice, Float[Tensor, "writer row d_model"]]]:
        """Slices of the writers and what they write, in the order of the forward pass.

        `streams`: receives what every layer reads, and the last stream.
        """
        yield slice(0, 1), self._rows(x)[None]
        n, start = self.graph.n_heads, 1
        for number, attention in enumerate(self.layers.attention):
            streams.append(x)
            layer = self._layer(number, x)
            z = self._rows(layer.z)
            heads = z.view(len(z), n, -1).transpose(0, 1)
            matrices = attention.output.matrix.view(n, -1, x.shape[-1])
            written = (heads.to(matrices.dtype) @ matrices).to(heads.dtype)
            if attention.head_bias is not None:
                written = written + attention.head_bias
            if layer.post_scale is not None:
                written = attention.post.share(written, self._rows(layer.post_scale))
            yield slice(start, start + n), written
            start += n
            if layer.mlp_output is not None:
                yield slice(start, start + 1), self._rows(layer.mlp_output)[None]
                start += 1
            x = layer.after
        streams.append(x)

    def gradients(self, share: float = 1.0) -> Iterator[Gradients]:
        """The gradients of the summed metric at every receiver, a few receivers at a time.

        The first pass must have `share` 1: `difference` takes the clean outputs from it.

        Args:
            share: The input is the clean one times `share` plus the ablated one times the rest.

        Yields:
            Rows of receivers and their gradients, in memory that the next ones overwrite.
        """
        streams: list[Tensor] = []
        for writers, output in self._outputs(
            self.clean + (1 - share) * self.input_difference, streams
        ):
            if not self._complete:
                assert share == 1
                self.difference[writers] -= output.to(self.difference.device)
        self._complete = True
        with torch.enable_grad():
            last = streams.pop().requires_grad_(True)
            final = self.contrast.clean.at_end(last)
            self.contrast.metric(self.layers.logits(final)).sum().backward()  # type: ignore[no-untyped-call]
        yield [0], self._gradient(last)[None]
        rows, after = self.graph.receiver_index, last.grad
        gradients = last.new_empty(len(PORTS), self.graph.n_heads, *self.difference.shape[1:])
        for number in reversed(range(self.graph.n_layers)):
            stream = streams.pop().clone().requires_grad_(True)
            with torch.enable_grad():
                layer = self._layer(number, stream)
                layer.after.backward(after)  # type: ignore[no-untyped-call]
            after = stream.grad
            for port, gradient in zip(PORTS, gradients):
                self._at_port(self.layers.attention[number], port, layer, gradient)
            heads = self.graph.heads_of(number)
            yield [rows[head, port] for port in PORTS for head in heads], gradients.flatten(0, 1)
            if self.graph.has_mlps:
                yield [rows[Node("mlp", number), None]], self._gradient(layer.mlp_stream)[None]

    def _gradient(self, value: Float[Tensor, "batch pos *d"]) -> Float[Tensor, "row *d"]:
        assert value.grad is not None
        return self._rows(value.grad)

    def _layer(self, number: int, x: Float[Tensor, "batch pos d_model"]) -> _LayerPass:
        attention, mlp = self.layers.attention[number], self.layers.mlp[number]
        shared = attention.norm.share(x, attention.norm.inverse_scale(x))
        ports: dict[Port, Tensor] = {port: self._project(attention, port, shared) for port in PORTS}
        z = self._z(attention, ports, self.places[number])
        attended = attention.output(z)
        post_scale, bias = None, attention.output_bias
        if attention.post.scaled:
            total_bias = attention.head_bias
            attended = (
                attended if total_bias is None else attended + self.graph.n_heads * total_bias
            )
            post_scale = attention.post.inverse_scale(attended)
            attended = attention.post(attended)
        elif bias is not None:
            attended = attended + bias
        after = x + attended
        mlp_stream = _with_gradient(x if self.graph.parallel else after)
        output = None if mlp is None else mlp(mlp_stream)
        after = after if output is None else after + output
        return _LayerPass(x.detach(), mlp_stream, ports, z, post_scale, output, after)

    def _project(self, attention: Attention, port: Port, shared: Tensor) -> Tensor:
        y = attention.ports[port].of_shared(shared)
        return _with_gradient(y.view(*y.shape[:-1], self.graph.n_heads, -1))

    def _z(
        self, attention: Attention, ports: dict[Port, Tensor], places: Places
    ) -> Float[Tensor, "batch pos head*d_head"]:
        tables = places.tables
        if tables is not None:
            tables = tables[0][:, None], tables[1][:, None]
        q, k, v = (attention.finish(p, ports[p], tables).transpose(1, 2) for p in PORTS)
        bias = places.bias(attention.form.distance_scaling)
        return (attention.pattern(q @ k.transpose(-1, -2), bias) @ v).transpose(1, 2).flatten(-2)

    @torch.no_grad()
    def _at_port(
        self,
        attention: Attention,
        port: Port,
        layer: _LayerPass,
        out: Float[Tensor, "head row d_model"],
    ) -> None:
        """Write to `out` the gradient at the stream x, read by the heads as y = x W / scale(x) + b.

        Reusing memory is faster here: new memory pages would cost more than the sums.
        """
        affine, x = attention.ports[port], self._rows(layer.attention_stream)
        inverse = attention.norm.inverse_scale(x)
        y, gradient = self._rows(layer.ports[port].detach()), self._gradient(layer.ports[port])
        if affine.bias is not None:
            y = y - affine.bias.view(self.graph.n_heads, -1)
        through_scale = (gradient * y).sum(-1) * inverse.square() / x.shape[-1]  # [row head]
        weight = affine.weight.matrix.view(len(affine.weight.matrix), self.graph.n_heads, -1)
        scaled = (gradient * inverse[..., None]).transpose(0, 1)
        if is_half(weight.dtype):
            out.copy_(torch.bmm(scaled.to(weight.dtype), weight.permute(1, 2, 0)))
        else:
            torch.bmm(scaled, weight.permute(1, 2, 0), out=out)
        norm = attention.norm
        if not norm.scaled:
            return
        out.mul_(norm.weight)
        direction = x
        if norm.centred:
            out.sub_(out.mean(-1, keepdim=True))
            direction = x - x.mean(-1, keepdim=True)
        out.addcmul_(through_scale.T[..., None], direction, value=-1)


def _with_gradient(value: Tensor) -> Tensor:
    """A view of a value that keeps the gradient of its reader alone."""
    if not value.requires_grad:
        return value
    view = value.view_as(value)
    view.retain_grad()
    return view


class Hooked:
    """The same by hooks, for models whose layers `Backward` cannot compute."""

    def __init__(self, contrast: Contrast) -> None:
        self.contrast = contrast
        clean = contrast.clean_run.written(slice(None))
        self.difference = contrast.ablated.to(clean.device) - clean

    def gradients(self, share: float = 1.0) -> Iterator[Gradients]:
        """The gradients of the summed metric as in `Backward`, but at all tokens."""
        contrast, model = self.contrast, self.contrast.model
        offset = (1 - share) * self.difference[0]
        gradients: list[Gradients] = []

        def begin(value: Tensor) -> Tensor:
            return (value + offset).requires_grad_(True)

        def record(rows: list[int], stacked: bool) -> Function:
            def store(gradient: Tensor) -> None:
                by_receiver = gradient.permute(2, 0, 1, 3) if stacked else gradient[None]
                gradients.append((rows, by_receiver))

            def hook(value: Tensor) -> Tensor:
                read = value.clone()  # so that the gradient is that of this reader alone
                read.register_hook(store)  # type: ignore[no-untyped-call]
                return read

            return hook

        hooks: list[Hook] = [(Point("input"), begin)]
        for rows, point, stacked in readers(model.graph):
            hooks.append((point, record(rows, stacked)))
        with torch.enable_grad():
            contrast.metric(model.forward(contrast.clean, hooks)).sum().backward()  # type: ignore[no-untyped-call]
        yield from gradients
