"""Real models from GGUF files: circuits are exact against hooks on the plain model.

The files are not in the repository; ACDC_EXPLAIN_GGUF names a folder with any of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import acdc_explain as ax
from acdc_explain.discovery.attribution import score_edges
from acdc_explain.discovery.engine.fast import Engine
from acdc_explain.discovery.engine.proof import fast_trouble
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.models.contrast import Contrast
from acdc_explain.pipeline.prepare import build_task
from acdc_explain.pipeline.settings import Settings
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Edge, Node

pytestmark = pytest.mark.slow
FILES = ("gemma-3-270m-it-Q4_K_M.gguf", "qwen2.5-coder-0.5b-q4.gguf")
NODES = 12  # of a search, which would take long


@pytest.fixture(scope="module", params=FILES)
def contrast(request: pytest.FixtureRequest) -> Any:
    folder = os.environ.get("ACDC_EXPLAIN_GGUF")
    if not folder or not (file := Path(folder) / request.param).is_file():
        pytest.skip(f"ACDC_EXPLAIN_GGUF names no folder with {request.param}")
    model = ax.load_model(str(file))
    task = build_task(load_plugins(), "ioi", model, Settings(examples=4))
    return Contrast(model, task, task.discover, "logit_diff")


def plain_logits(contrast: Contrast) -> torch.Tensor:
    """Of Hugging Face alone, read anew."""
    from transformers import AutoModelForCausalLM

    file = Path(contrast.model.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        return contrast.clean.at_end(model(contrast.clean.tokens).logits)


def test_it_does_the_task_with_its_own_logits(contrast):
    logits = contrast.clean_run.logits
    assert torch.allclose(logits, plain_logits(contrast), atol=1e-3)
    assert contrast.clean_metric - contrast.corrupt_metric > 2
    assert fast_trouble(contrast) is None


def test_circuits_are_exact(contrast):
    """Of EAP, against the reference engine."""
    gap = contrast.clean_metric - contrast.corrupt_metric
    fast, reference = Engine(contrast), ReferenceEngine(contrast)
    for n in (50, 400):
        edges = score_edges(contrast, silent).largest(n)
        assert abs(fast.measure(edges) - reference.measure(edges)) < 1e-3 * gap


def test_decisions_are_those_of_the_reference_engine(contrast):
    """The first nodes of an ACDC search, each from the state that the fast engine had reached."""
    gap = contrast.clean_metric - contrast.corrupt_metric
    fast, reference, tau = Engine(contrast), ReferenceEngine(contrast), 0.01 * gap
    decided, kept, read = [], [], {Node("logits")}
    fast.load((), ())
    for group in fast.search_graph.receiver_groups[:NODES]:
        node = group[0][0]
        if node not in read:
            continue
        (port, *_) = group
        senders = fast.search_graph.senders(node)
        reference.load(decided, kept)
        expected = [reference.test(Edge(sender, *port), tau) for sender in senders[:2]]
        decisions = fast.decide([(receiver, senders) for receiver in group], tau)
        for found, wanted in zip(decisions, expected):
            assert found.kept == wanted.kept
            assert found.edge.effect == pytest.approx(wanted.edge.effect, abs=1e-3 * gap)
        kept += [decision.edge for decision in decisions if decision.kept]
        read |= {edge.src for edge in kept}
        decided.append(node)
    assert kept
