"""Samples of a measure for several nodes, with their error and what chance would give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..records.circuit import Node
from ..records.graph import Graph

BOOTSTRAPS = 1000
MARGIN = 0.1  # of a value, by which it must be beyond chance
_TAILS = (0.025, 0.975)

Interval = tuple[float, float]


class NotMeasurable(Exception):
    """The measure has no meaning for this task or model; the text says why."""


@dataclass(frozen=True)
class Measurement:
    """Samples of one measure for several nodes, on the CPU wherever they were measured.

    Attributes:
        measure: Its name.
        nodes: The nodes, in the order of `samples`.
        samples: By node; a sample is a prompt, or whatever the measure averages over.
        control: The same measure where its claim would be wrong (another key, another word,
            another prompt's answer). Its mean is chance. Without it, chance is the median of the
            other nodes of the kind.
        gaps: Where samples are shares of a mean gap: each sample's gap over that mean, so that
            the error of the gap is counted as well.
    """

    measure: str
    nodes: tuple[Node, ...]
    samples: Float[Tensor, "node sample"]
    control: Float[Tensor, "node sample"] | None = None
    gaps: Float[Tensor, " sample"] | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "control", "gaps"):  # once, not number by number
            numbers = getattr(self, name)
            object.__setattr__(self, name, None if numbers is None else numbers.cpu())

    def value(self, node: Node) -> float:
        """The mean of a node's samples. Raises ValueError if the node is not in `nodes`."""
        return float(self.samples[self.nodes.index(node)].mean())

    @property
    def n(self) -> int:
        """The number of samples."""
        return self.samples.shape[1]

    def _others(self, node: Node) -> list[int]:
        return [i for i, o in enumerate(self.nodes) if o.kind == node.kind and o != node]

    def null(self, node: Node) -> Float[Tensor, "other"]:
        """The values of all other nodes of the same kind."""
        return self.samples[self._others(node)].mean(1)

    def percentile(self, node: Node) -> float:
        """The share of the null that lies below the node's value, 0 to 1; ties count half."""
        null, value = self.null(node), self.value(node)
        below = (null < value).double() + 0.5 * (null == value).double()
        return float(below.mean()) if len(null) else 0.5

    def chance(self, node: Node) -> float:
        """The mean of the control, or else the median of the other nodes of the kind."""
        if self.control is not None:
            return float(self.control[self.nodes.index(node)].mean())
        null = self.null(node)
        return float(null.median()) if len(null) else 0.0

    def interval(self, node: Node) -> Interval:
        """A bootstrap 95 % interval of the value."""
        return _tails(self._resampled(node)[0])

    def beyond_chance(self, node: Node) -> tuple[Interval, Interval]:
        """95 % intervals of how far the value is above chance and 0, and how far below them.

        A tenth of the value (MARGIN) is taken off first, so that a trifling difference does not
        count. Value and chance share each bootstrap draw of samples; where chance is the median
        of the other nodes, these are drawn as well.
        """
        values, chances = self._resampled(node)
        rest = values * (1 - MARGIN)
        return _tails(rest - chances.clamp_min(0)), _tails(chances.clamp_max(0) - rest)

    def _resampled(self, node: Node) -> tuple[Float[Tensor, " draw"], Float[Tensor, " draw"]]:
        """Value and chance in each bootstrap draw of the samples."""
        weights = _bootstrap(self.n)
        if self.gaps is not None:
            weights = weights / (weights @ self.gaps.double()).clamp_min(1e-3)[:, None]
        index, samples = self.nodes.index(node), self.samples.double()
        values = weights @ samples[index]
        if self.control is not None:
            return values, weights @ self.control[index].double()
        others = self._others(node)
        if not others:
            return values, torch.zeros_like(values)
        nulls = weights @ samples[others].T  # [draw other]
        _, generator = _draws(self.n)  # which goes on where the draws of samples ended
        drawn_others = torch.randint(0, len(others), nulls.shape, generator=generator)
        return values, nulls.gather(1, drawn_others).median(1).values

    def facts(self, node: Node) -> dict[str, Any]:
        """`value`, `percentile` and the five quartiles of the `null`, as collectors store them."""
        null = self.null(node).double()
        shares = torch.linspace(0, 1, 5, dtype=torch.double)
        quartiles = torch.quantile(null, shares).tolist() if len(null) else []
        return {
            "value": round(self.value(node), 5),
            "percentile": round(self.percentile(node), 4),
            "null": [round(x, 4) for x in quartiles],
        }


@lru_cache(maxsize=8)
def _bootstrap(n: int) -> Float[Tensor, "draw sample"]:
    """The weight of each of `n` samples in every bootstrap draw; always the same draws."""
    weights = torch.zeros(BOOTSTRAPS, n, dtype=torch.double)
    return weights.scatter_add_(1, _draws(n)[0], torch.ones_like(weights)) / n


def _draws(n: int) -> tuple[Int[Tensor, "draw sample"], torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, n, (BOOTSTRAPS, n), generator=generator), generator


def _tails(values: Float[Tensor, " draw"]) -> Interval:
    low, high = torch.quantile(values, torch.tensor(_TAILS, dtype=torch.double)).tolist()
    return low, high


def per_head(
    measure: str,
    graph: Graph,
    samples: Float[Tensor, "layer head *n"],
    control: Float[Tensor, "layer head *n"] | float | None = None,
) -> Measurement:
    """A measure of all heads.

    Args:
        measure: Its name.
        graph: Of the model.
        samples: Of every head; further dimensions are flattened.
        control: Of the same shape, or one number for all.
    """
    flat = samples.reshape(len(graph.heads), -1)
    if control is not None:
        control = (
            torch.full_like(flat, control)
            if isinstance(control, float)
            else control.reshape(len(graph.heads), -1)
        )
    return Measurement(measure, graph.heads, flat, control)
