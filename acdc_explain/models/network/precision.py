"""How exactly numbers of a type can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TOLERANCE = 1e-4
"""Relative error up to which two ways to compute the same count as equal in float32."""

_HALF = {torch.bfloat16: 3e-2, torch.float16: 4e-3}


def noise(dtype: torch.dtype) -> float:
    """Relative error up to which two ways to compute the same count as equal.

    Float64 has the tolerance of float32, because many models normalise in float32 whatever their
    weights are.
    """
    return _HALF.get(dtype, TOLERANCE)


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
