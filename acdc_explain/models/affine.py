"""Products with weights, and the norm before them folded in.

LayerNorm(x) W + b = (x W') / scale(x) + b', so that a port costs one product and one row norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class UnsupportedModel(Exception):
    """The model has a part that `layers` cannot compute; the text says which."""


_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Weight:
    """A matrix to multiply rows with.

    On a CPU in float32 the product is oneDNN's, which is a third faster than the one that
    `torch.matmul` picks (benchmarks/product.py); there is no public way to ask for it.
    """

    def __init__(self, matrix: Float[Tensor, "d_in out"]) -> None:
        fast = matrix.device.type == "cpu" and matrix.dtype == torch.float32
        self._transposed = matrix.T.contiguous() if fast and _ONEDNN is not None else None
        self.matrix = matrix if self._transposed is None else self._transposed.T

    def columns(self, n: int) -> list[Weight]:
        """The matrix cut into `n` blocks of columns."""
        return [Weight(block) for block in self.matrix.chunk(n, -1)]

    def __call__(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows out"]:
        if self._transposed is None or torch.is_grad_enabled():
            return torch.matmul(x, self.matrix)
        flat = x.reshape(-1, x.shape[-1])
        assert _ONEDNN is not None
        product: Tensor = _ONEDNN(flat, self._transposed, None, "none", [], "")
        return product.view(*x.shape[:-1], self.matrix.shape[1])


@dataclass(frozen=True)
class Norm:
    """LayerNorm (`centred`) or RMSNorm, without the weights that follow the scaling."""

    eps: float
    centred: bool
    weight: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"] | None

    @staticmethod
    def of(module: Any) -> Norm:
        """From the model's own module. Raises UnsupportedModel for any other norm."""
        kind = type(module).__name__
        weight = module.weight.detach()
        if isinstance(module, torch.nn.LayerNorm):
            bias = None if module.bias is None else module.bias.detach()
            return Norm(module.eps, True, weight, bias)
        if kind.endswith("RMSNorm") and not kind.startswith("Gemma"):
            return Norm(module.variance_epsilon, False, weight, None)
        raise UnsupportedModel(f"its norm is a {kind}")

    def inverse_scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """One over each row's standard deviation (LayerNorm) or root mean square (RMSNorm)."""
        if not x.numel():  # a place that no cut can change has no rows; torch would warn
            return x[..., :1]
        if self.centred:
            return (x.var(-1, correction=0, keepdim=True) + self.eps).rsqrt()
        squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()
        return (squares / x.shape[-1] + self.eps).rsqrt()

    def fold(self, weight: Float[Tensor, "d_model out"], bias: Tensor | None) -> Affine:
        """The affine map after the norm, with the norm's own weights and centring moved into it."""
        folded = self.weight[:, None] * weight
        if self.centred:
            folded = folded - folded.mean(0, keepdim=True)
        if self.bias is not None:
            shift = self.bias @ weight
            bias = shift if bias is None else bias + shift
        return Affine(Weight(folded), bias)


@dataclass(frozen=True)
class Affine:
    """x -> x W / scale(x) + b, for a residual stream x."""

    weight: Weight
    bias: Float[Tensor, "out"] | None

    def __call__(self, x: Tensor, inverse_scale: Tensor) -> Tensor:
        y = self.weight(x) * inverse_scale
        return y if self.bias is None else y + self.bias

    def heads(self, n: int) -> list[Affine]:
        """This map of all heads cut into the maps of each of `n` heads."""
        biases = [None] * n if self.bias is None else self.bias.chunk(n)
        return [Affine(weight, bias) for weight, bias in zip(self.weight.columns(n), biases)]

    def scaled(self, x: Tensor) -> Tensor:
        """The same for rows that have already been divided by their scale."""
        y = self.weight(x)
        return y if self.bias is None else y + self.bias


def rotate(y: Tensor, cos: Tensor, sin: Tensor, n: int) -> Tensor:
    """Rotary positions of the half-split form on the first `n` dimensions."""
    first, second, rest = y[..., : n // 2], y[..., n // 2 : n], y[..., n:]
    a, b = cos[..., : n // 2], sin[..., : n // 2]
    return torch.cat([first * a - second * b, second * a + first * b, rest], -1)


def detached(tensor: Tensor | None) -> Tensor | None:
    """The tensor without its gradient history, if there is one."""
    return None if tensor is None else tensor.detach()


def bias_of(module: Any) -> Tensor | None:
    """The bias of a linear layer, if it has one."""
    return detached(getattr(module, "bias", None))
