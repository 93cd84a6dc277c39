"""The norms of transformers, and which of them a module is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .precision import noise, precise, relative_error


class UnsupportedModel(Exception):
    """The model has a part that is not known here; the text says which, as a clause."""


@dataclass(frozen=True)
class Norm:
    """LayerNorm (`centred`), RMSNorm, or no norm at all (`scaled` is False).

    `weight` is what a row is multiplied by, with the 1 that Gemma adds to it.
    """

    eps: float
    centred: bool
    weight: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"] | None
    scaled: bool = True

    @staticmethod
    def of(module: Any, like: Float[Tensor, "d_model"]) -> Norm:
        """The norm that computes what a module does; no norm for None.

        Args:
            module: The model's own module.
            like: A vector of the width, type and device that the module reads.

        Raises:
            UnsupportedModel: On random rows, none of the known norms gives what the module gives.
        """
        if module is None:
            return Norm(0.0, False, torch.ones_like(like), None, scaled=False)
        random = torch.randn(4, len(like), generator=torch.Generator().manual_seed(0))
        rows = (random * 3 + 1).to(like)
        with torch.no_grad():
            expected = module(rows[None])[0]
            for norm in _candidates(module, like):
                if relative_error(norm(rows), expected) <= noise(like.dtype):
                    return norm
        raise UnsupportedModel(f"its {type(module).__name__} is no known norm")

    def inverse_scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """One over each row's standard deviation (LayerNorm) or root mean square (RMSNorm)."""
        if not x.numel():  # a place that no cut can change has no rows; torch would warn
            return x[..., :1]
        if not self.scaled:
            return torch.ones_like(x[..., :1])
        row = precise(x)
        if self.centred:
            squares = row.var(-1, correction=0, keepdim=True)
        else:
            squares = torch.linalg.vector_norm(row, dim=-1, keepdim=True).square() / x.shape[-1]
        return (squares + self.eps).rsqrt().to(x.dtype)

    def share(
        self, part: Float[Tensor, "*rows d_model"], inverse_scale: Float[Tensor, "*rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """What a part of a row becomes, given the scale of the whole row; linear in the part."""
        if not self.scaled:
            return part
        return self.linear(part) * inverse_scale

    def pull_back(
        self, gradient: Float[Tensor, "*rows d_model"], inverse_scale: Float[Tensor, "*rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The gradient at a part, from the gradient at its `share`."""
        if not self.scaled:
            return gradient
        gradient = gradient * self.weight * inverse_scale
        return gradient - gradient.mean(-1, keepdim=True) if self.centred else gradient

    def linear(self, part: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The same without the scale: centred, and times the weight."""
        if self.centred:
            part = part - part.mean(-1, keepdim=True)
        return part * self.weight if self.scaled else part

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        y = self.share(x, self.inverse_scale(x))
        return y if self.bias is None else y + self.bias


def _candidates(module: Any, like: Tensor) -> Iterator[Norm]:
    """Every known norm with the weights of a module."""
    weight, bias = (_vector(getattr(module, name, None), like) for name in ("weight", "bias"))
    names = ("variance_epsilon", "eps", "epsilon", "_eps")
    eps = next((float(getattr(module, n)) for n in names if hasattr(module, n)), 1e-5)
    weights = [torch.ones_like(like)] if weight is None else [weight, 1 + weight]
    for centred in (
        isinstance(module, torch.nn.LayerNorm),
        not isinstance(module, torch.nn.LayerNorm),
    ):
        for one in weights:
            yield Norm(eps, centred, one, bias)


def _vector(value: Any, like: Tensor) -> Tensor | None:
    return value.detach() if isinstance(value, Tensor) and value.shape == like.shape else None
