"""Circuits in the JSON form of EAP-IG and of the Mechanistic Interpretability Benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...records.circuit import LOGITS, Circuit, Edge
from ...records.graph import Graph


def to_eap_ig(circuit: Circuit, graph: Graph) -> dict[str, Any]:
    """The JSON form of a circuit.

    Args:
        circuit: Its edges are marked as in the graph, with their effects as scores.
        graph: The graph of the model, with all nodes and edges.

    Returns:
        The document.
    """
    kept = {str(edge): edge.effect for edge in circuit.edges}
    nodes = {str(node) for node in circuit.nodes}
    return {
        "cfg": {
            "n_layers": graph.n_layers,
            "n_heads": graph.n_heads,
            "parallel_attn_mlp": graph.parallel,
        },
        "nodes": {str(n): {"in_graph": str(n) in nodes} for n in (*graph.writers, LOGITS)},
        "edges": {
            str(edge): {"score": kept.get(str(edge), 0.0), "in_graph": str(edge) in kept}
            for edge in graph.edges()
        },
    }


def from_eap_ig(document: Mapping[str, Any]) -> list[Edge]:
    """The kept edges of a circuit from its JSON form.

    Args:
        document: What EAP-IG wrote.

    Returns:
        The edges that are in the graph, with their scores as effects.

    Raises:
        ValueError: An edge has an impossible name or score.
        KeyError: A field is missing.
    """
    return [
        Edge.parse(name, float(entry.get("score") or 0.0))
        for name, entry in document["edges"].items()
        if entry["in_graph"]
    ]
