"""How exactly numbers of a type can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TOLERANCE = 1e-4
"""Relative error up to which two ways to compute the same count as equal in float32."""

FLOAT32_NOISE = 1e-6
"""Of a metric in float32."""
_PART = {torch.bfloat16: 5e-2, torch.float16: 1e-2}


def noise(dtype: torch.dtype) -> float:
    """Relative error up to which two ways to compute one part of a model count as equal.

    Float64 has the tolerance of float32, because many models normalise in float32 whatever their
    weights are. Of a whole model in half precision, see `Model.limit`.
    """
    return _PART.get(dtype, TOLERANCE)


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers of a type have 16 bits."""
    return dtype in _PART


def precise(value: torch.Tensor) -> torch.Tensor:
    """The same in float32 if it has 16 bits."""
    return value.float() if is_half(value.dtype) else value


def relative_error(value: torch.Tensor, reference: torch.Tensor, least: float = 1e-30) -> float:
    """Largest difference, in units of the reference's largest entry; infinity for NaN.

    `least`: the smallest unit, for values that may all be zero but for noise.
    """
    if not reference.numel():
        return 0.0
    scale = reference.abs().max().clamp_min(least)
    error = float((value - reference).abs().max() / scale)
    return error if error == error else float("inf")


@dataclass(frozen=True)
class Check:
    """Two ways to compute the same: how far they are apart, and how far they may be.

    `of`: "model", or the name of an engine. `what` is a plural, such as "the logits".
    """

    of: str
    what: str
    error: float  # relative to the largest entry
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; NaN is not."""
        return self.error <= self.limit


ROUNDINGS = range(3)
"""Seeds of the roundings that are tried, to measure what rounding does."""


def rounded(value: torch.Tensor, seed: int) -> torch.Tensor:
    """The same values, each changed by one unit of its type's precision, up or down at random."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
    return value * (1 + torch.finfo(value.dtype).eps * signs)
