"""What larger models would take, from parts that were measured on a smaller one.

Three things are assumed: products run at the rate of the measured forward pass, the same share of
all edges is tested, and a decision costs the same share of a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acdc_explain.models.activations import search_bytes
from acdc_explain.records.graph import Graph

BFLOAT16 = 2  # bytes of a number


@dataclass(frozen=True)
class Shape:
    """A Llama-like model."""

    layers: int
    heads: int
    key_heads: int
    d_model: int
    d_mlp: int
    vocabulary: int

    @property
    def products(self) -> int:
        """Multiplications for each token: the weights of all products."""
        keys = 2 * self.key_heads * (self.d_model // self.heads)
        layer = self.d_model * (2 * self.d_model + keys + 3 * self.d_mlp)
        return self.layers * layer + self.d_model * self.vocabulary


SHAPES = {
    "1 B (Llama 3.2)": Shape(16, 32, 8, 2048, 8192, 128_256),
    "8 B (Llama 3.1)": Shape(32, 32, 8, 4096, 14_336, 128_256),
}


def estimates(measured: Mapping[str, Any], products: int, tokens: int) -> dict[str, str]:
    """For each shape, a line of what ACDC would take.

    Args:
        measured: The result of `measure`.
        products: Multiplications for each token of the measured model.
        tokens: Of the batch that was measured.
    """
    lines = {}
    for name, shape in SHAPES.items():
        graph = Graph(shape.layers, shape.heads, True, False)
        forward = measured["forward_seconds"] * shape.products / products
        tested = graph.n_edges * measured["tested"] / measured["edges"]
        hours = tested * measured["forwards_per_edge"] * forward / 3600
        search = search_bytes(graph, tokens * shape.d_model, BFLOAT16) / 1e9
        weights = BFLOAT16 * shape.products / 1e9
        lines[name] = (
            f"{graph.n_edges:,} edges, {tested:,.0f} tested; a forward pass {forward:.3g} s; ACDC "
            f"{hours:,.1f} h; memory: weights {weights:.1f} GB in bfloat16, "
            f"search {search:.1f} GB"
        )
    return lines
