"""The engine against an independent transformer written from the weights alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from acdc_explain_plugins.acdc import acdc
from acdc_explain_plugins.eap import eap

from acdc_explain.circuit import Edge, prune
from acdc_explain.engine import ReferenceEngine, faithfulness, port_gradients
from acdc_explain.progress import silent
from acdc_explain.subject import Subject

from .conftest import FAMILIES, make_hf_model, word_task
from .oracle import Oracle, brute_force_acdc


def subject_of(model: Any, metric: str | None = None, **options: Any) -> Subject:
    task = word_task(**options)
    return Subject(model, task, task.discover, metric)


def at_end(subject: Subject, logits: torch.Tensor) -> torch.Tensor:
    return subject.clean.at_end(logits)


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
        subject = subject_of(small_model(family, "float64"))
        with torch.no_grad():
            expected, wrote = oracles(family).run(subject.clean.tokens, set(), {})
        # Hugging Face's Llama norm computes in float32 whatever the weights' type
        tolerance = 1e-5 if family == "llama" else 1e-10
        assert torch.allclose(subject.clean_run.logits, at_end(subject, expected), atol=tolerance)
        for node, index in subject.model.graph.writer_index.items():
            assert torch.allclose(
                subject.clean_run.writers[index], wrote[str(node)], atol=tolerance
            ), node

    @pytest.mark.parametrize("seed", range(3))
    def test_random_cuts(self, family, seed, small_model, oracles):
        subject = subject_of(small_model(family, "float64"), seed=seed)
        engine = ReferenceEngine(subject)
        edges = list(engine.graph.edges())
        kept = random.Random(seed).sample(edges, len(edges) // 2)
        oracle = oracles(family)
        with torch.no_grad():
            _, corrupted = oracle.run(subject.corrupt.tokens, set(), {})
            cut = {str(edge) for edge in set(edges) - set(kept)}
            expected, _ = oracle.run(subject.clean.tokens, cut, corrupted)
        found = engine.logits(engine.cut_except(kept))
        tolerance = 1e-5 if family == "llama" else 1e-10
        assert torch.allclose(found, at_end(subject, expected), atol=tolerance)

    @pytest.mark.parametrize(
        ("tau", "metric"), [(0.001, "logit_diff"), (0.01, "logit_diff"), (0.0002, "kl")]
    )
    def test_acdc_keeps_what_brute_force_keeps(self, family, tau, metric, small_model, oracles):
        subject = subject_of(small_model(family, "float64"), metric, n=2)
        found = acdc(subject, silent, tau=tau)

        def fall(logits: torch.Tensor) -> torch.Tensor:
            return subject.sign * subject.metric(at_end(subject, logits)).mean()

        with torch.no_grad():
            kept, final = brute_force_acdc(
                oracles(family), subject.clean.tokens, subject.corrupt.tokens, fall, tau
            )
        assert [str(edge) for edge in found.edges] == kept
        assert 0 < len(kept) < subject.model.graph.n_edges
        engine = ReferenceEngine(subject)
        circuit = subject.sign * engine.metric(engine.cut_except(found.edges))
        assert circuit == pytest.approx(final, abs=1e-5)

    def test_self_check_passes_in_float32(self, family, small_model):
        assert ReferenceEngine(subject_of(small_model(family))).self_check() is None

    def test_gradients_are_those_of_finite_differences(self, family, small_model):
        if family == "llama":
            pytest.skip("its norm computes in float32: too coarse for finite differences")
        subject = subject_of(small_model(family, "float64"), n=2)
        gradients = port_gradients(subject)
        engine = ReferenceEngine(subject)
        graph = engine.graph
        difference = subject.corrupt_run.writers - subject.clean_run.writers
        scores = torch.einsum("rbpd,wbpd->rw", gradients, difference) / len(subject)
        for edge in random.Random(0).sample(list(graph.edges()), 12):
            row, column = engine.index(edge)
            step = 1e-5
            logits = _nudged(subject, edge, step)
            slope = float((subject.metric(logits).mean() - subject.clean_metric) / step)
            assert float(scores[row, column]) == pytest.approx(slope, abs=1e-4), edge


def _nudged(subject: Subject, edge: Edge, step: float) -> torch.Tensor:
    """The logits with a small part of an edge's sender corrupted, at its receiver alone."""
    model = subject.model
    index = model.graph.writer_index[edge.src]
    change = step * (subject.corrupt_run.writers[index] - subject.clean_run.writers[index])

    def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
        if edge.port is None:
            return value + change
        changed = value.clone()
        changed[:, :, edge.dst.head] += change
        return changed

    name = (
        model.final_hook
        if edge.dst.kind == "logits"
        else model.port_hook(edge.dst.layer or 0, edge.port)
    )
    with torch.no_grad():
        return model.forward(subject.clean, [(name, hook)])


def test_self_check_reports_a_wrong_split(small_model):
    subject = subject_of(small_model("gpt2"))
    engine = ReferenceEngine(subject)
    written = subject.corrupt_run.writers[1]
    written += torch.randn(written.shape)  # as if a head had written something else
    assert "with everything cut the logits are off" in (engine.self_check() or "")


def test_faithfulness_ends(small_model):
    subject = subject_of(small_model("gpt2"))
    everything = list(subject.model.graph.edges())
    assert faithfulness(subject, everything).share == pytest.approx(1.0, abs=1e-4)
    assert faithfulness(subject, []).share == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("n", [1, 20, 100, 10**6])
def test_eap_respects_the_number_of_edges(n, small_model):
    subject = subject_of(small_model("llama"))
    found = eap(subject, silent, max_edges=n)
    assert len(found.edges) <= min(n, subject.model.graph.n_edges)
    assert found.n_edges_tested == subject.model.graph.n_edges
    assert set(prune(found.edges)) == set(found.edges)


def test_eap_effect_is_the_first_order_change_of_the_metric(small_model):
    """Cutting one edge into the logits of a model with a frozen norm would be exact."""
    subject = subject_of(small_model("gpt2", "float64"), n=8)
    engine = ReferenceEngine(subject)
    found = eap(subject, silent, max_edges=engine.graph.n_edges)
    into_logits = [edge for edge in found.edges if edge.dst.kind == "logits"]
    estimate, truth = [], []
    for edge in into_logits:
        cut = engine.cut_none()
        cut[engine.index(edge)] = True
        truth.append(subject.clean_metric - engine.metric(cut))
        estimate.append(edge.effect)
    correlation = torch.corrcoef(torch.tensor([estimate, truth]))[0, 1]
    assert correlation > 0.9


def test_eap_refuses_a_gradient_that_is_zero(small_model):
    from acdc_explain.errors import UserError

    subject = subject_of(small_model("gpt2"), "kl")
    with pytest.raises(UserError, match="gradient of 'kl' is zero"):
        eap(subject, silent)
    assert eap(subject, silent, steps=3).edges


def test_eap_ig_differs_from_eap(small_model):
    subject = subject_of(small_model("neox"))
    one, five = (eap(subject, silent, max_edges=50, steps=steps) for steps in (1, 5))
    assert [e.effect for e in one.edges] != [e.effect for e in five.edges]


def test_eap_ig_adds_up_to_the_whole_effect(small_model):
    """Completeness: over many steps the input's outgoing effects sum to the change of the metric."""
    subject = subject_of(small_model("gpt2", "float64"), n=4)
    found = eap(subject, silent, max_edges=10**6, steps=64)
    engine = ReferenceEngine(subject)
    total = sum(edge.effect for edge in found.edges if edge.src.kind == "input")
    # cutting every edge out of the input corrupts the input, and with it everything else
    gap = subject.clean_metric - subject.corrupt_metric
    assert total == pytest.approx(gap, abs=0.05 * max(1.0, abs(gap)))
    assert engine.graph.n_edges == found.n_edges_tested


def test_eap_agrees_with_transformer_lens(small_model):
    """Its edges are per position and its gradients are those of the run called corrupt."""
    from transformer_lens.tools.analysis import attribution_patching as tl

    subject = subject_of(small_model("gpt2"), n=1)
    found = eap(subject, silent, max_edges=10**6)
    subject.model.bridge.requires_grad_(True)
    result = tl.attribution_patch(
        subject.model.bridge,
        clean=subject.corrupt.tokens,
        corrupt=subject.clean.tokens,
        metric_fn=lambda logits: subject.metric(logits[:, -1]).mean(),
        config=tl.EdgeAttributionConfig(granularity="edge"),
    )
    subject.model.bridge.requires_grad_(False)
    theirs: dict[str, float] = {}
    for (writer, reader), score in result.edge_scores.items():
        name = _edge_name(writer, reader)
        theirs[name] = theirs.get(name, 0.0) - score
    assert len(theirs) == subject.model.graph.n_edges
    for edge in found.edges:
        assert edge.effect == pytest.approx(theirs[str(edge)], abs=1e-5), edge


def _edge_name(writer: Any, reader: Any) -> str:
    source = {"attn_head_out": f"a{writer.layer}.h{writer.head}", "mlp_out": f"m{writer.layer}"}
    target = {"mlp_in": f"m{reader.layer}", "logits": "logits"}
    port = reader.kind.removesuffix("_input")
    to = target.get(reader.kind, f"a{reader.layer}.h{reader.head}<{port}>")
    return f"{source.get(writer.kind, 'input')}->{to}"
