"""Edge attribution patching: what its numbers mean, and that others compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from acdc_explain_plugins.discoverers.eap import eap

from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.discovery.gradients import Backward, Hooked
from acdc_explain.models.contrast import Contrast
from acdc_explain.progress import silent
from acdc_explain.records.graph import prune

from ..conftest import FAMILIES, MORE_FAMILIES, word_task
from .test_reference import contrast_of

SEPARATE = [family for family in MORE_FAMILIES if family != "olmo2"]
"""Families in which no norm joins the queries of several heads."""


def gathered(passes: Backward | Hooked, kept: torch.Tensor, share: float) -> torch.Tensor:
    """The gradient at every receiver, at the tokens that are kept: [receiver row d_model]."""
    found = {}
    for rows, gradients in passes.gradients(share):
        at_kept = gradients.flatten(1, 2)[:, kept] if gradients.ndim == 4 else gradients.clone()
        found.update(zip(rows, at_kept))
    return torch.stack([found[row] for row in sorted(found)])


@pytest.mark.slow_after(4)
@pytest.mark.parametrize("metric", ["logit_diff", "nll", "prob_diff"])
@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("family", [*FAMILIES, *SEPARATE])
def test_gradients_without_hooks_are_those_with_hooks(family, share, metric, small_model):
    contrast = contrast_of(small_model(family, "float64"), metric, n=3)
    tolerance = 1e-10 if family in ("gpt2", "neox", "neox_parallel") else 1e-5
    fast, hooked = Backward(contrast), Hooked(contrast)
    gathered(fast, fast.kept, 1.0)  # the first pass is the clean one
    ours, theirs = gathered(fast, fast.kept, share), gathered(hooked, fast.kept, share)
    assert ours.shape == theirs.shape == (len(contrast.model.graph.receivers), *ours.shape[1:])
    assert torch.allclose(ours, theirs, atol=tolerance)


@pytest.mark.slow_after(12)
@pytest.mark.parametrize("ablation", ["corrupt", "mean", "zero"])
@pytest.mark.parametrize("family", [*FAMILIES, *SEPARATE])
def test_what_cuts_change_is_what_hooks_record(family, ablation, small_model):
    task = word_task(n=3)
    contrast = Contrast(small_model(family, "float64"), task, task.discover, "logit_diff", ablation)
    fast, hooked = Backward(contrast), Hooked(contrast)
    gathered(fast, fast.kept, 1.0)
    differences, elsewhere = (
        hooked.difference.flatten(1, 2),
        contrast.clean.within.flatten().clone(),
    )
    assert torch.allclose(fast.difference, differences[:, fast.kept], atol=1e-5)
    elsewhere[fast.kept] = False
    assert not (differences[:, elsewhere].abs() > 1e-12).any()


@pytest.mark.parametrize("n", [1, 20, 100, 10**6])
def test_eap_respects_the_number_of_edges(n, small_model):
    contrast = contrast_of(small_model("llama"))
    found = eap(contrast, silent, max_edges=n)
    assert len(found.edges) <= min(n, contrast.model.graph.n_edges)
    assert found.n_edges_tested == contrast.model.graph.n_edges
    assert set(prune(found.edges)) == set(found.edges)


def test_eap_effect_is_the_first_order_change_of_the_metric(small_model):
    """Cutting one edge into the logits of a model with a frozen norm would be exact."""
    contrast = contrast_of(small_model("gpt2", "float64"), n=8)
    engine = ReferenceEngine(contrast)
    found = eap(contrast, silent, max_edges=engine.graph.n_edges)
    into_logits = [edge for edge in found.edges if edge.dst.kind == "logits"]
    estimate, truth = [], []
    for edge in into_logits:
        cut = engine.cut_none()
        cut[engine.index(edge)] = True
        truth.append(contrast.clean_metric - engine.metric_of(cut))
        estimate.append(edge.effect)
    correlation = torch.corrcoef(torch.tensor([estimate, truth]))[0, 1]
    assert correlation > 0.9


def test_eap_refuses_a_gradient_that_is_zero(small_model):
    from acdc_explain.errors import UserError

    contrast = contrast_of(small_model("gpt2"), "kl")
    with pytest.raises(UserError, match="gradient of 'kl' is zero"):
        eap(contrast, silent)
    assert eap(contrast, silent, steps=3).edges


def test_eap_ig_differs_from_eap(small_model):
    contrast = contrast_of(small_model("neox"))
    one, five = (eap(contrast, silent, max_edges=50, steps=steps) for steps in (1, 5))
    assert [e.effect for e in one.edges] != [e.effect for e in five.edges]


def test_eap_ig_adds_up_to_the_whole_effect(small_model):
    """Completeness: over many steps the input's outgoing effects sum to the change of the metric."""
    contrast = contrast_of(small_model("gpt2", "float64"), n=4)
    found = eap(contrast, silent, max_edges=10**6, steps=64)
    engine = ReferenceEngine(contrast)
    total = sum(edge.effect for edge in found.edges if edge.src.kind == "input")
    # cutting every edge out of the input corrupts the input, and with it everything else
    gap = contrast.clean_metric - contrast.corrupt_metric
    assert total == pytest.approx(gap, abs=0.05 * max(1.0, abs(gap)))
    assert engine.graph.n_edges == found.n_edges_tested


def test_eap_agrees_with_transformer_lens(small_model):
    """Its edges are per position and its gradients are those of the run called corrupt."""
    from transformer_lens.tools.analysis import attribution_patching as tl

    contrast = contrast_of(small_model("gpt2"), n=1)
    found = eap(contrast, silent, max_edges=10**6)
    bridge = contrast.model.bridge
    for switch in ("set_use_attn_result", "set_use_split_qkv_input", "set_use_hook_mlp_in"):
        getattr(bridge, switch)(True)
    bridge.requires_grad_(True)
    result = tl.attribution_patch(
        bridge,
        clean=contrast.corrupt.tokens,
        corrupt=contrast.clean.tokens,
        metric_fn=lambda logits: contrast.metric(logits[:, -1]).mean(),
        config=tl.EdgeAttributionConfig(granularity="edge"),
    )
    bridge.requires_grad_(False)
    theirs: dict[str, float] = {}
    for (writer, reader), score in result.edge_scores.items():
        name = _edge_name(writer, reader)
        theirs[name] = theirs.get(name, 0.0) - score
    assert len(theirs) == contrast.model.graph.n_edges
    for edge in found.edges:
        assert edge.effect == pytest.approx(theirs[str(edge)], abs=1e-5), edge


def _edge_name(writer: Any, reader: Any) -> str:
    source = {"attn_head_out": f"a{writer.layer}.h{writer.head}", "mlp_out": f"m{writer.layer}"}
    target = {"mlp_in": f"m{reader.layer}", "logits": "logits"}
    port = reader.kind.removesuffix("_input")
    to = target.get(reader.kind, f"a{reader.layer}.h{reader.head}<{port}>")
    return f"{source.get(writer.kind, 'input')}->{to}"
