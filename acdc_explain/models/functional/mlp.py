"""The MLP of a layer, as a function of the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..network.norm import Norm, UnsupportedModel
from ..network.parts import Block, MlpParts, bias_of, weight_of
from ..network.precision import noise, relative_error
from ..network.watch import Call
from .affine import Affine, Weight

ACTIVATIONS = ("act", "act_fn", "activation_fn", "activation", "gelu_impl")


@dataclass(frozen=True)
class Mlp:
    """An MLP with one hidden layer, gated or not."""

    norm: Norm
    up: Affine  # into the hidden layer
    gate: Affine | None
    activation: Callable[[Tensor], Tensor]
    out: Weight
    out_bias: Float[Tensor, "d_model"] | None
    post: Norm  # over what it writes; no norm in most models

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        return self.finish(self.mapped(x))

    def mapped(self, x: Float[Tensor, "*rows d_model"]) -> list[Float[Tensor, "*rows d_mlp"]]:
        """What `maps` make of a stream."""
        shared = self.norm.share(x, self.norm.inverse_scale(x))
        return [affine.of_shared(shared) for affine in self.maps]

    @property
    def maps(self) -> list[Affine]:
        """The maps that read the normed stream: into the hidden layer, and the gate's if any."""
        return [self.up] if self.gate is None else [self.up, self.gate]

    def neurons(self, mapped: list[Float[Tensor, "*rows d_mlp"]]) -> Float[Tensor, "*rows d_mlp"]:
        """The hidden layer, from the outputs of `maps`."""
        hidden = self.activation(mapped[-1])
        return hidden if self.gate is None else hidden * mapped[0]

    def finish(self, mapped: list[Float[Tensor, "*rows d_mlp"]]) -> Float[Tensor, "*rows d_model"]:
        """The output, from the outputs of `maps`."""
        output = self.out(self.neurons(mapped))
        if self.out_bias is not None:
            output = output + self.out_bias
        return self.post(output) if self.post.scaled else output


@dataclass(frozen=True)
class MlpModule:
    """An MLP of another kind, such as a mixture of experts: the model's own modules, row by row."""

    parts: MlpParts
    multiplier: float
    dtype: torch.dtype  # of its weights

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        if not x.numel():
            return x
        rows = x.reshape(1, -1, x.shape[-1]).to(self.dtype)
        if self.parts.norm is not None:
            rows = self.parts.norm(rows)
        output = self.parts.module(rows)
        output = output[0] if isinstance(output, tuple) else output
        if self.parts.post is not None:
            output = self.parts.post(output)
        written: Tensor = output.reshape(x.shape).to(x.dtype) * self.multiplier
        return written


@torch.no_grad()
def read_mlp(block: Block, seen: Mapping[Any, Call]) -> Mlp | MlpModule | None:
    """The MLP of a layer, checked on what its modules read and wrote on a few tokens.

    Raises:
        UnsupportedModel: It is of no known kind, and its own modules do not compute it either.
    """
    parts = block.mlp
    if parts is None:
        return None
    written = seen[parts.exit if parts.post is None else parts.post].output * block.multiplier
    stream = seen[parts.entry if parts.norm is None else parts.norm].input
    rows, written = (x.reshape(-1, x.shape[-1]) for x in (stream, written))
    norm, limit = Norm.of(parts.norm, rows[0]), noise(rows.dtype)
    for mlp in _readings(block, parts, norm):
        if relative_error(mlp(rows), written) <= limit:
            return mlp
    if parts.module is not None:
        own = MlpModule(parts, block.multiplier, rows.dtype)
        if relative_error(own(rows), written) <= limit:
            return own
    raise UnsupportedModel("its MLPs are not functions of single rows of the stream")


def _readings(block: Block, parts: MlpParts, norm: Norm) -> list[Mlp]:
    """The MLP with each activation function that it could have; none if it has other parts."""
    owner = block.module if parts.module is None else parts.module
    up, gate, out = (
        getattr(owner, parts.names.get(name, ""), None) for name in ("in", "gate", "out")
    )
    fused = getattr(owner, "gate_up_proj", None)
    if not _is_linear(out) or not (_is_linear(up) or _is_linear(fused)):
        return []
    if _is_linear(up):
        maps = [_map(norm, up, slice(None))]
        maps += [_map(norm, gate, slice(None))] if _is_linear(gate) else []
    else:  # the first half of the outputs is the gate's
        half = weight_of(fused).shape[1] // 2
        maps = [_map(norm, fused, slice(half, None)), _map(norm, fused, slice(half))]
    bias, output = bias_of(out), weight_of(out)
    output = output if block.multiplier == 1 else output * block.multiplier
    functions = [getattr(owner, name) for name in ACTIVATIONS if hasattr(owner, name)]
    return [
        Mlp(
            norm,
            maps[0],
            maps[1] if len(maps) > 1 else None,
            function,
            Weight(output),
            None if bias is None else bias * block.multiplier,
            block.mlp_post,
        )
        for function in functions
        if callable(function)
    ]


def _map(norm: Norm, linear: Any, rows: slice) -> Affine:
    """A map that reads the normed stream."""
    bias = bias_of(linear)
    return Affine.of(norm, weight_of(linear)[:, rows], None if bias is None else bias[rows])


def _is_linear(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


class FromHeads:
    """An MLP that reads a fixed stream plus what some heads write.

    Heads write in few dimensions, so W_O and the MLP's maps are multiplied beforehand into one
    product from d_head. For one head, that saves half of the MLP's work.
    """

    def __init__(
        self,
        mlp: Mlp,
        fixed: Float[Tensor, "row d_model"],
        outputs: list[Float[Tensor, "d_head d_model"]],
    ) -> None:
        self.mlp = mlp
        together, fixed = mlp.norm.linear(torch.cat(outputs)), mlp.norm.linear(fixed)
        self._fixed = [affine.weight(fixed) for affine in mlp.maps]
        self._weights = [Weight(together @ affine.weight.matrix) for affine in mlp.maps]

    def __call__(
        self,
        z: Float[Tensor, "candidate row heads*d_head"],
        x: Float[Tensor, "candidate row d_model"],
    ) -> Float[Tensor, "candidate row d_model"]:
        """`z`: what the heads mix from their values, before W_O; `x`: what the MLP reads."""
        scale = self.mlp.norm.inverse_scale(x)
        mapped = []
        for affine, weight, fixed in zip(self.mlp.maps, self._weights, self._fixed):
            y = weight(z).add_(fixed).mul_(scale)
            mapped.append(y if affine.bias is None else y.add_(affine.bias))
        return self.mlp.finish(mapped)
