"""How well gradients predict ablations: on the clean prompts, and averaged toward the corrupted.

    python benchmarks/gradients.py ioi --model smollm2-135m --discoverer eap --max-edges 400

Prints the correlation of each component's effect by the gradient, to first order, with the share of
the gap that its ablation loses, over the components of a circuit.
"""

from __future__ import annotations

import argparse

import torch

import acdc_explain as ax
from acdc_explain.claims.effects import ablations
from acdc_explain.claims.paths import CORRUPT, corrupted_pass
from acdc_explain.evidence.patching.gradients import (
    ON_THE_WAY,
    StreamGradients,
    gradients_in,
    stream_gradients,
)
from acdc_explain.evidence.patching.passes import clean_pass
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node


def first_order(contrast: Contrast, node: Node, gradients: StreamGradients) -> float:
    """What a gradient says of the metric that a component's ablation loses; the mean of prompts."""
    clean, corrupt = contrast.once_for_clean(clean_pass), corrupted_pass(contrast)
    change = corrupt.written(node) - clean.written(node)
    return -float((change * gradients.at_output(node)).sum((1, 2)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--discoverer", default="acdc")
    parser.add_argument("--max-edges", type=int)
    parser.add_argument("--examples", type=int, default=16)
    options = parser.parse_args()

    model = ax.load_model(options.model)
    task = load_plugins().tasks()[options.task](model, examples=options.examples, seed=0)
    settings = {} if options.max_edges is None else {"max_edges": options.max_edges}
    circuit = ax.find_circuit(task, model, options.discoverer, **settings)
    contrast, nodes = ax.contrast(task, model, "discover"), circuit.components
    lost = ablations(contrast, [(node, None) for node in nodes], CORRUPT)
    true = [float(lost[node, None].mean()) for node in nodes]
    clean = gradients_in(contrast, contrast.once_for_clean(clean_pass).streams)
    for name, gradients in (
        ("on the clean prompts", clean),
        (f"averaged at {', '.join(map(str, ON_THE_WAY))}", contrast.once(stream_gradients)),
    ):
        found = [first_order(contrast, node, gradients) for node in nodes]
        correlation = float(torch.corrcoef(torch.tensor([found, true]))[0, 1])
        print(f"gradient {name}: correlation with ablation {correlation:.2f}, {len(nodes)} nodes")


if __name__ == "__main__":
    main()
