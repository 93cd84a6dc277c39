"""The engine against an independent transformer written from the weights alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from acdc_explain_plugins.discoverers.acdc import acdc

from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.discovery.faithfulness import faithfulness
from acdc_explain.discovery.gradients import Backward
from acdc_explain.models.activations import port_point
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.network.hooks import Point
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Edge
from acdc_explain.records.graph import prune

from ..conftest import FAMILIES, make_hf_model, word_task
from ..oracle import Oracle, brute_force_acdc


def contrast_of(model: Any, metric: str | None = None, **options: Any) -> Contrast:
    task = word_task(**options)
    return Contrast(model, task, task.discover, metric)


def at_end(contrast: Contrast, logits: torch.Tensor) -> torch.Tensor:
    return contrast.clean.at_end(logits)


@pytest.fixture(scope="module")
def oracles() -> Callable[[str], Oracle]:
    made: dict[str, Oracle] = {}

    def oracle(family: str) -> Oracle:
        if family not in made:
            made[family] = Oracle(make_hf_model(family).double(), family)
        return made[family]

    return oracle


@pytest.mark.parametrize("family", FAMILIES)
class TestAgainstTheOracle:
    def test_same_logits(self, family, small_model, oracles):
        contrast = contrast_of(small_model(family, "float64"))
        with torch.no_grad():
            expected, wrote = oracles(family).run(contrast.clean.tokens, set(), {})
        # Hugging Face's Llama norm computes in float32 whatever the weights' type
        tolerance = 1e-5 if family == "llama" else 1e-10
        assert torch.allclose(contrast.clean_run.logits, at_end(contrast, expected), atol=tolerance)
        for node, index in contrast.model.graph.writer_index.items():
            assert torch.allclose(
                contrast.clean_run.writers[index], wrote[str(node)], atol=tolerance
            ), node

    @pytest.mark.parametrize("seed", range(3))
    def test_random_cuts(self, family, seed, small_model, oracles):
        contrast = contrast_of(small_model(family, "float64"), seed=seed)
        engine = ReferenceEngine(contrast)
        edges = list(engine.graph.edges())
        kept = random.Random(seed).sample(edges, len(edges) // 2)
        oracle = oracles(family)
        with torch.no_grad():
            _, corrupted = oracle.run(contrast.corrupt.tokens, set(), {})
            cut = {str(edge) for edge in set(edges) - set(kept)}
            expected, _ = oracle.run(contrast.clean.tokens, cut, corrupted)
        found = engine.logits(engine.cut_except(kept))
        tolerance = 1e-5 if family == "llama" else 1e-10
        assert torch.allclose(found, at_end(contrast, expected), atol=tolerance)

    @pytest.mark.slow_after(2)
    @pytest.mark.parametrize(
        ("tau", "metric"), [(0.001, "logit_diff"), (0.01, "logit_diff"), (0.0002, "kl")]
    )
    def test_acdc_keeps_what_brute_force_keeps(self, family, tau, metric, small_model, oracles):
        contrast = contrast_of(small_model(family, "float64"), metric, n=2)
        found = acdc(contrast, silent, tau=tau, engine="reference")

        def fall(logits: torch.Tensor) -> torch.Tensor:
            return contrast.sign * contrast.metric(at_end(contrast, logits)).mean()

        with torch.no_grad():
            kept, final = brute_force_acdc(
                oracles(family), contrast.clean.tokens, contrast.corrupt.tokens, fall, tau
            )
        on_paths = prune(map(Edge.parse, kept))
        assert [str(edge) for edge in found.edges] == [str(edge) for edge in on_paths]
        assert 0 < len(kept) < contrast.model.graph.n_edges
        engine = ReferenceEngine(contrast)
        circuit = contrast.sign * engine.measure(found.edges)
        assert circuit == pytest.approx(final, abs=1e-5)

    def test_gradients_are_those_of_finite_differences(self, family, small_model):
        if family == "llama":
            pytest.skip("its norm computes in float32: too coarse for finite differences")
        contrast = contrast_of(small_model(family, "float64"), n=2)
        engine = ReferenceEngine(contrast)
        graph = engine.graph
        passes = Backward(contrast)
        scores = torch.zeros(len(graph.receivers), len(graph.writers), dtype=torch.float64)
        for rows, gradients in passes.gradients():
            scores[rows] = torch.einsum("nrd,wrd->nw", gradients, passes.difference) / len(contrast)
        for edge in random.Random(0).sample(list(graph.edges()), 12):
            _, row, column = engine.index(edge)
            step = 1e-5
            logits = _nudged(contrast, edge, step)
            slope = float((contrast.metric(logits).mean() - contrast.clean_metric) / step)
            assert float(scores[row, column]) == pytest.approx(slope, abs=1e-4), edge


def _nudged(contrast: Contrast, edge: Edge, step: float) -> torch.Tensor:
    """The logits with a small part of an edge's sender corrupted, at its receiver alone."""
    model = contrast.model
    index = model.graph.writer_index[edge.src]
    change = step * (contrast.corrupt_run.writers[index] - contrast.clean_run.writers[index])

    def hook(value: torch.Tensor) -> torch.Tensor:
        if edge.port is None:
            return value + change
        changed = value.clone()
        changed[:, :, edge.dst.head] += change
        return changed

    to_logits = edge.dst.kind == "logits"
    point = Point("final") if to_logits else port_point(edge.dst.layer or 0, edge.port)
    with torch.no_grad():
        return model.forward(contrast.clean, [(point, hook)])


def test_faithfulness_ends(small_model):
    contrast = contrast_of(small_model("gpt2"))
    everything = list(contrast.model.graph.edges())
    assert faithfulness(contrast, everything).share == pytest.approx(1.0, abs=1e-4)
    assert faithfulness(contrast, []).share == pytest.approx(0.0, abs=1e-4)
