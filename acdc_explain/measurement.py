"""Samples of a measure for several nodes, with their error and their null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .circuit import Graph, Node

BOOTSTRAPS = 1000


class NotMeasurable(Exception):
    """The measure has no meaning for this task; the text says why."""


@dataclass(frozen=True)
class Measurement:
    """Samples of one measure for several nodes."""

    measure: str
    nodes: tuple[Node, ...]
    samples: Float[Tensor, "node sample"]

    def value(self, node: Node) -> float:
        return float(self.samples[self.nodes.index(node)].mean())

    @property
    def n(self) -> int:
        return self.samples.shape[1]

    def null(self, node: Node) -> Float[Tensor, "other"]:
        """The values of all other nodes of the same kind."""
        others = [i for i, o in enumerate(self.nodes) if o.kind == node.kind and o != node]
        return self.samples[others].mean(1)

    def percentile(self, node: Node) -> float:
        """The share of the null that lies below the node's value, 0 to 1; ties count half."""
        null, value = self.null(node), self.value(node)
        below = (null < value).double() + 0.5 * (null == value).double()
        return float(below.mean()) if len(null) else 0.5

    def chance(self, node: Node) -> float:
        """The median of the null: in a small model half of the others may share the role."""
        null = self.null(node)
        return float(null.median()) if len(null) else 0.0

    def interval(self, node: Node) -> tuple[float, float]:
        """A bootstrap 95 % interval of the value."""
        samples = self.samples[self.nodes.index(node)].double()
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(0, self.n, (BOOTSTRAPS, self.n), generator=generator)
        means = samples.cpu()[drawn].mean(1)
        low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.double))
        return float(low), float(high)

    def facts(self, node: Node) -> dict[str, Any]:
        """Value, percentile and the quartiles of the null, as collectors store them."""
        null = self.null(node).double()
        quartiles = torch.linspace(0, 1, 5, dtype=torch.double, device=null.device)
        found = torch.quantile(null, quartiles).tolist() if len(null) else []
        return {
            "value": round(self.value(node), 5),
            "percentile": round(self.percentile(node), 4),
            "null": [round(x, 4) for x in found],
        }


def per_head(measure: str, graph: Graph, samples: Float[Tensor, "layer head *n"]) -> Measurement:
    return Measurement(measure, graph.heads, samples.reshape(len(graph.heads), -1))
