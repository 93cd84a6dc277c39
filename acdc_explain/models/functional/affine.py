"""Products of normed streams with weights.

The weights are the model's own, not copies: a matrix is copied only where a product with it would
be slow, as for each head's W_O.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..network.norm import Norm
from ..network.precision import is_half

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Weight:
    """A matrix to multiply rows with.

    Where it has 16 bits, the product is one of 16 bits, and rows keep the type they have.
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
        if is_half(self.matrix.dtype):
            return torch.matmul(x.to(self.matrix.dtype), self.matrix).to(x.dtype)
        if self._transposed is None or torch.is_grad_enabled():
            return torch.matmul(x, self.matrix)
        flat = x.reshape(-1, x.shape[-1])
        assert _ONEDNN is not None
        product: Tensor = _ONEDNN(flat, self._transposed, None, "none", [], "")
        return product.view(*x.shape[:-1], self.matrix.shape[1])


@dataclass(frozen=True)
class Affine:
    """x -> norm(x) W + b, for a residual stream x. `bias` includes that of the norm."""

    norm: Norm
    weight: Weight
    bias: Float[Tensor, "out"] | None

    @staticmethod
    def of(norm: Norm, weight: Float[Tensor, "d_model out"], bias: Tensor | None) -> Affine:
        """The map after a norm."""
        if norm.bias is not None:
            shift = norm.bias @ weight
            bias = shift if bias is None else bias + shift
        return Affine(norm, Weight(weight), bias)

    def __call__(self, x: Tensor, inverse_scale: Tensor) -> Tensor:
        return self.of_shared(self.norm.share(x, inverse_scale))

    def of_shared(self, shared: Tensor) -> Tensor:
        """The same for rows to which the norm has been applied, but for its bias."""
        y = self.weight(shared)
        return y if self.bias is None else y + self.bias

    def heads(self, n: int) -> list[Affine]:
        """This map of all heads cut into the maps of each of `n` heads."""
        biases = [None] * n if self.bias is None else self.bias.chunk(n)
        weights = self.weight.columns(n)
        return [Affine(self.norm, weight, bias) for weight, bias in zip(weights, biases)]


def rotate(y: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotary positions on the first dimensions, as many as twice the width of `cos`.

    The pairs that are turned are neighbours (`interleaved`), or half of these dimensions apart.
    """
    n = cos.shape[-1]
    turned, rest = y[..., : 2 * n], y[..., 2 * n :]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
        both = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
    else:
        first, second = turned[..., :n], turned[..., n:]
        both = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([both, rest], -1)
