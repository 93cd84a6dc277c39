"""Where a head attends on a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..models.activations import head_index
from ..models.model import Model
from ..records.circuit import Node
from ..report.notebook import heatmap
from .contrasts import node_named


@dataclass(frozen=True, repr=False)
class AttentionPattern:
    """A head's attention on one prompt.

    Attributes:
        head: The head.
        tokens: The tokens as text; special tokens that the model puts before a prompt first.
        weights: How much each token (row) attends to each (column); rows sum to 1.
    """

    head: Node
    tokens: tuple[str, ...]
    weights: Float[Tensor, "query key"]

    def top(self, query: int = -1, n: int = 5) -> list[tuple[str, int, float]]:
        """The tokens that one token attends to most.

        Args:
            query: The number of the token that attends, from 0; -1 is the last.
            n: How many.

        Returns:
            Text, number and attention of each, the most attended first.
        """
        best = self.weights[query].topk(min(n, len(self.tokens)))
        numbers, weights = best.indices.tolist(), best.values.tolist()
        return [(self.tokens[k], k, round(w, 4)) for k, w in zip(numbers, weights)]

    def to_pandas(self) -> Any:
        """A pandas.DataFrame: a row for each token that attends, a column for each attended."""
        import pandas

        names = [f"{number} {token}" for number, token in enumerate(self.tokens)]
        return pandas.DataFrame(self.weights.numpy(), index=names, columns=names)

    def __repr__(self) -> str:
        where = ", ".join(f"{token!r} ({number}) {w:.2f}" for token, number, w in self.top())
        return f"{self.head} attends from the last token {self.tokens[-1]!r} to {where}"

    def _repr_html_(self) -> str:
        """The pattern as a picture, in a notebook."""
        rows = [[round(float(w), 3) for w in row] for row in self.weights]
        return heatmap(list(self.tokens), rows)


@torch.no_grad()
def attention(model: Model, head: str | Node, prompt: str) -> AttentionPattern:
    """Where a head attends on a prompt.

    Args:
        model: A loaded model.
        head: A head, or its name: `a9.h6`.
        prompt: Any text.

    Returns:
        The pattern; a notebook draws it.

    Raises:
        UserError: for a head that is not there, or a prompt that is empty or too long.
    """
    node = node_named(head)
    if node not in model.graph.heads:
        raise UserError(f"{model.name} has no head {node}.")
    if not model.pieces(prompt):
        raise UserError("The prompt is empty; write at least one token.")
    batch, (layer, index) = model.batch([prompt]), head_index(node)
    special = [model.piece(token) for token in model.prefix]
    weights = model.patterns(batch)[layer, 0, index].float().cpu()
    return AttentionPattern(node, (*special, *model.pieces(prompt)), weights)
