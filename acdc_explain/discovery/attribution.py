"""First-order estimates of the effect of cutting each edge (Syed et al. 2023; Hanna et al. 2024).

The gradients at every port come from `gradients`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.contrast import Contrast
from ..progress import Progress
from ..records.circuit import Edge
from ..records.graph import Graph
from .engine.proof import fast_trouble, require_exact_cuts
from .gradients import Backward, Hooked, can_differentiate


class Scores:
    """An estimate for every edge of how much worse the metric becomes without it."""

    def __init__(self, graph: Graph, effects: Float[Tensor, "receiver writer"]) -> None:
        self.graph, self.effects = graph, effects
        self.exists = torch.zeros_like(effects, dtype=torch.bool)
        for row, (node, _) in enumerate(graph.receivers):
            self.exists[row, : graph.n_senders(node)] = True

    def __len__(self) -> int:
        return self.graph.n_edges

    @cached_property
    def _order(self) -> Int[Tensor, "edge"]:
        """The edges by the size of their estimates, largest first; ties in the graph's order."""
        sizes = self.effects.abs().masked_fill(~self.exists, -1.0).flip(1).flatten()
        return sizes.argsort(descending=True, stable=True)[: len(self)]

    def largest(self, n: int) -> list[Edge]:
        """The `n` edges with the largest estimates by absolute value."""
        width = self.effects.shape[1]
        edges = []
        for index in self._order[:n].tolist():
            row, column = index // width, width - 1 - index % width
            node, port = self.graph.receivers[row]
            effect = float(self.effects[row, column])
            edges.append(Edge(self.graph.writers[column], node, port, effect))
        return edges


def _products(
    gradients: Float[Tensor, "receiver *row d_model"],
    difference: Float[Tensor, "writer *row d_model"],
) -> Float[Tensor, "receiver writer"]:
    """The estimates of edges; differences that the host's memory holds come one by one."""
    read = gradients.flatten(1)
    if difference.device == read.device:
        return read @ difference.flatten(1).T
    one_by_one = [read @ each.to(read.device).flatten() for each in difference]
    return torch.stack(one_by_one, 1)


def score_edges(contrast: Contrast, progress: Progress, steps: int = 1) -> Scores:
    """Estimate the effect of every edge.

    Args:
        contrast: The model, the prompts and the metric.
        progress: Receives the number of gradients taken.
        steps: With more than 1, the gradient is averaged over so many inputs between the ablated
            and the clean one (EAP-IG).

    Returns:
        The estimates.

    Raises:
        UserError: Neither the fast engine nor hooks on the model are exact.
    """
    graph = contrast.model.graph
    if fast_trouble(contrast) is not None:
        require_exact_cuts(contrast)
    passes = Backward(contrast) if can_differentiate(contrast) else Hooked(contrast)
    device = contrast.model.device
    double = torch.float32 if device.type == "mps" else torch.double  # mps has no float64
    effects = torch.zeros(len(graph.receivers), len(graph.writers), dtype=double, device=device)
    for step in range(steps, 0, -1):  # from the clean input on
        done = steps - step
        progress("discover", done, steps, f"gradient {done + 1} of {steps}")
        for rows, gradients in passes.gradients(step / steps):
            n = graph.n_senders(graph.receivers[rows[0]][0])
            estimates = _products(gradients, passes.difference[:n])
            effects[torch.tensor(rows, device=device), :n] += estimates
    effects = effects.cpu()
    effects *= -contrast.sign / (steps * len(contrast))
    progress("discover", steps, steps, f"{graph.n_edges} edges scored")
    return Scores(graph, effects)
