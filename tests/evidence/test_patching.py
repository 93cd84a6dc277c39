"""Interventions in batches, and edges at one place, against plain hooked runs of whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from acdc_explain.evidence.patching import ablations, edges, rerun
from acdc_explain.evidence.patching.ablations import lost_when_ablated
from acdc_explain.evidence.patching.direct import direct_of_heads, direct_of_mlps, logit_directions
from acdc_explain.evidence.patching.edges import (
    changes,
    kept_and_rest,
    kept_change,
    respond,
    tokens_at,
    unit,
)
from acdc_explain.evidence.patching.gradients import gradients_in, stream_gradients
from acdc_explain.evidence.patching.passes import LatestPasses, Pass, clean_pass, pass_of
from acdc_explain.evidence.patching.paths import PathPatching
from acdc_explain.evidence.patching.rerun import (
    Patch,
    Rerun,
    metric_with,
    outputs_by_hooks,
    outputs_of,
)
from acdc_explain.models.contrast import Contrast
from acdc_explain.records.circuit import INPUT, LOGITS, Node
from acdc_explain.records.task import Example, Task

from ..conftest import FAMILIES, MORE_FAMILIES

ALL_FAMILIES = (*FAMILIES, *(family for family in MORE_FAMILIES if family not in FAMILIES))
HEAD, LATER, MLP = Node("head", 0, 1), Node("head", 1, 2), Node("mlp", 0)


def prompts() -> Task:
    """Prompts of three lengths with a position SUBJECT."""
    texts = [
        ("the cat saw the dog", "the bird saw the fish", " red", " blue"),
        ("one dog ate two fish", "one cat ate two fish", " big", " small"),
        ("the red bird ate the blue fish", "the red cat ate the big dog", " one", " two"),
        ("three cat", "four cat", " six", " five"),
    ]
    examples = tuple(
        Example(clean, corrupt, (right,), (wrong,), {"SUBJECT": 1, "END": len(clean.split()) - 1})
        for clean, corrupt, right, wrong in texts
    )
    return Task("words", "words", "logit_diff", examples, ())


@pytest.fixture
def contrast_of(small_model: Any) -> Any:
    def make(family: str) -> Contrast:
        task = prompts()
        return Contrast(small_model(family), task, task.discover)

    return make


def kept_output(contrast: Contrast, node: Node, keys: torch.Tensor) -> torch.Tensor:
    """What a head writes from these keys when clean plus from all others when corrupted."""
    other = Contrast(contrast.model, contrast.task, contrast.examples)
    other.clean = contrast.corrupt
    runs = contrast.clean_run, contrast.corrupt_run
    kept, rest = kept_and_rest(*(run.patterns[node.layer, :, node.head] for run in runs), keys)
    return PathPatching(contrast).output_with(node, kept) + PathPatching(other).output_with(
        node, rest
    )


def hooked(contrast: Contrast, patch: Patch) -> torch.Tensor:
    """The metric by the model's own modules, from the first layer on."""
    hooks = [rerun._replacing(node, new, patch.at) for node, new in patch.outputs.items()]
    return contrast.metric(contrast.model.run_from(0, contrast.clean_inputs, hooks))


@pytest.mark.parametrize("family", ALL_FAMILIES)
class TestRerun:
    def test_many_interventions_at_once_are_what_hooks_make_of_each(self, family, contrast_of):
        contrast = contrast_of(family)
        nodes = [HEAD, LATER, MLP]
        outputs = outputs_by_hooks(contrast.model, contrast.corrupt, nodes)
        everywhere, end = contrast.clean.within, contrast.position_mask("END")
        patches = [Patch({node: outputs[node]}, at) for node in nodes for at in (everywhere, end)]
        patches.append(Patch({HEAD: outputs[HEAD], LATER: outputs[LATER]}, everywhere))
        patches.append(Patch({MLP: outputs[MLP]}, contrast.position_mask("SUBJECT")))
        expected = torch.stack([hooked(contrast, patch) for patch in patches])
        found = metric_with(contrast, patches)
        assert torch.allclose(found, expected, atol=1e-4)
        assert not torch.allclose(found[0], contrast.metric(contrast.clean_logits), atol=1e-3)

    def test_the_clean_run_is_the_model_s(self, family, contrast_of):
        contrast = contrast_of(family)
        clean, within = contrast.once_for_clean(clean_pass), contrast.clean.within
        final = contrast.clean.at_end(clean.streams[-1])
        assert torch.allclose(clean.runner.layers.logits(final), contrast.clean_logits, atol=1e-4)
        for node, output in outputs_by_hooks(contrast.model, contrast.clean, [HEAD, MLP]).items():
            assert torch.allclose(clean.written(node)[within], output[within], atol=1e-4)
        embedded = outputs_by_hooks(contrast.model, contrast.clean, [INPUT])[INPUT]
        assert torch.equal(clean.written(INPUT), embedded)

    def test_the_gradient_is_the_slope_of_the_metric(self, family, contrast_of):
        """Against interventions with a small change of each sign."""
        contrast = contrast_of(family)
        clean = contrast.once_for_clean(clean_pass)
        gradients, within = gradients_in(contrast, clean.streams), contrast.clean.within
        generator = torch.Generator().manual_seed(0)
        for node in (HEAD, MLP):
            output = clean.written(node)
            step = torch.randn(output.shape, generator=generator) * 0.002
            both = [Patch({node: output + sign * step}, within) for sign in (1, -1)]
            up, down = metric_with(contrast, both)
            along = (gradients.at_output(node) * step * within[..., None]).sum((1, 2))
            assert torch.allclose((up - down) / 2, along, atol=2e-4, rtol=2e-2)


@pytest.mark.parametrize("family", ALL_FAMILIES)
class TestEdges:
    @pytest.mark.parametrize("place", ["SUBJECT", "END", "rest"])
    def test_a_response_is_that_of_the_whole_head(self, family, place, contrast_of):
        """Against PathPatching, which runs the receiver at all tokens."""
        contrast = contrast_of(family)
        other = Pass(contrast.model, contrast.corrupt)
        paths, clean = PathPatching(contrast), contrast.once_for_clean(clean_pass)
        gradient = contrast.once(stream_gradients).at_output(LATER)
        names = contrast.place_names
        masks = contrast.place_masks(names)
        change = changes(contrast, other, [HEAD], place)
        at = (masks[names.index(place)] & contrast.clean.within)[..., None]
        whole = (other.written(HEAD) - clean.written(HEAD)) * at
        for port in "qkv":
            received = paths.receive(LATER, {port: whole[None]})
            moved = (received.written[0] - clean.written(LATER)) * gradient
            lost = -(moved.sum(-1) * contrast.clean.within).sum(1) / unit(contrast)
            response = respond(contrast, LATER, port, place, change)
            assert torch.allclose(response.share[0].sum(1), lost, atol=1e-4)
            if response.attention is not None:
                weights = (masks & contrast.clean.within).float()
                shift = received.pattern[0] - clean.pattern(LATER)
                between = torch.einsum("bqk,pbq,rbk->bpr", shift, weights, weights)
                between /= weights.sum(2).clamp_min(1).T[..., None]
                assert torch.allclose(response.attention[0], between, atol=1e-4)

    def test_an_mlp_and_the_logits_respond_at_the_place(self, family, contrast_of):
        contrast = contrast_of(family)
        other = Pass(contrast.model, contrast.corrupt)
        change = changes(contrast, other, [HEAD], "END")
        clean, end = contrast.once_for_clean(clean_pass), contrast.clean.end
        mlp, rows = clean.runner.layers.mlp[1], contrast.clean.rows
        stream = clean.mlp_stream(1)[rows, end]
        moved = mlp(stream + change[0, :, 0]) - mlp(stream)
        gradient = contrast.once(stream_gradients).at_output(Node("mlp", 1))[rows, end]
        response = respond(contrast, Node("mlp", 1), None, "END", change)
        expected = -(moved * gradient).sum(-1) / unit(contrast)
        assert torch.allclose(response.share[0].sum(1), expected, atol=1e-4)
        on_answers, _ = logit_directions(contrast, "answers")
        response = respond(contrast, LOGITS, "answers", "END", change)
        expected = -(change[0, :, 0] * on_answers).sum(-1) / unit(contrast)
        assert torch.allclose(response.share[0].sum(1), expected, atol=1e-5)

    def test_some_keys_read_clean_are_those_of_kept_output(self, family, contrast_of):
        contrast = contrast_of(family)
        other, clean = Pass(contrast.model, contrast.corrupt), contrast.once_for_clean(clean_pass)
        generator = torch.Generator().manual_seed(1)
        shape = clean.pattern(LATER).shape
        keys = torch.rand(shape, generator=generator) < 0.5
        tokens = contrast.once(tokens_at, "END")
        expected = tokens.of(kept_output(contrast, LATER, keys) - clean.written(LATER))
        found = kept_change(contrast, other, LATER, "END", tokens.of(keys))
        if not contrast.model.has_post_norms:  # there the scale is that of another run
            assert torch.allclose(found, expected, atol=1e-4)

    def test_direct_effects_by_source_add_up(self, family, contrast_of):
        contrast = contrast_of(family)
        clean = contrast.once_for_clean(clean_pass)
        direction, others = logit_directions(contrast, "answers")
        masks = contrast.place_masks(contrast.place_names)
        parts = torch.stack([direct_of_heads(contrast, direction, mask) for mask in masks])
        heads = contrast.model.graph.heads
        ends = torch.stack([contrast.clean.at_end(clean.written(head)) for head in heads])
        biases = [
            0.0
            if (bias := clean.runner.layers.attention[head.layer].head_bias) is None
            else clean.runner.layers.attention[head.layer].post.share(
                bias, contrast.clean.at_end(clean.scales[head.layer])
            )
            for head in heads
        ]
        without_bias = torch.stack([end - bias for end, bias in zip(ends, biases)])
        assert torch.allclose(parts.sum(0), (without_bias * direction).sum(-1), atol=1e-4)
        mlps = torch.stack([contrast.clean.at_end(output) for output in clean.mlps])
        assert torch.allclose(direct_of_mlps(contrast, others), (mlps * others).sum(-1), atol=1e-5)


def test_models_without_layers_as_functions_are_run_by_their_modules(contrast_of, monkeypatch):
    contrast = contrast_of("llama")
    outputs = outputs_of(contrast, contrast.corrupt, [HEAD])
    patch = Patch(outputs, contrast.position_mask("SUBJECT"))
    expected = metric_with(contrast, [patch])
    monkeypatch.setattr(rerun, "fast_trouble", lambda contrast: "of a reason")
    monkeypatch.setattr(Rerun, "logits", None)
    monkeypatch.setattr(rerun, "pass_of", None)
    again = outputs_of(contrast, contrast.corrupt, [HEAD])[HEAD]
    assert torch.allclose(again, outputs[HEAD], atol=1e-5)
    assert torch.allclose(metric_with(contrast, [patch]), expected, atol=1e-5)


def test_a_wrong_key_cache_would_be_seen(contrast_of, monkeypatch):
    """The comparison with hooks fails if keys before the window are not the clean ones."""
    contrast = contrast_of("llama")
    outputs = outputs_of(contrast, contrast.corrupt, [HEAD])
    patch = Patch(outputs, contrast.position_mask("END"))
    expected = hooked(contrast, patch)
    once = Rerun(contrast)
    for number, attended in enumerate(once.clean.attended):
        once.clean.attended[number] = replace(attended, k=attended.k.roll(1, 3))
    monkeypatch.setitem(contrast._clean_results, Rerun, once)
    assert not torch.allclose(metric_with(contrast, [patch])[0], expected, atol=1e-3)


def test_tokens_of_a_place_are_all_of_them_and_no_padding(contrast_of):
    contrast = contrast_of("llama")
    rest = contrast.once(tokens_at, "rest")
    mask = contrast.place_masks(contrast.place_names)[0] & contrast.clean.within
    assert rest.valid.sum(1).tolist() == mask.sum(1).tolist()
    for row in range(len(contrast)):
        chosen = rest.index[row][rest.valid[row]].tolist()
        assert chosen == mask[row].nonzero().flatten().tolist()
    assert edges.tokens_at(contrast, "END").index[:, 0].tolist() == contrast.clean.end.tolist()


def test_the_latest_runs_are_kept_and_no_others(contrast_of):
    contrast = contrast_of("gpt2")
    model, texts = contrast.model, ["the cat saw the dog", "one cat ate", "two fish"]
    batches = [model.batch([text]) for text in texts]
    latest = contrast.once_for_clean(LatestPasses)
    first, second = (pass_of(contrast, batch) for batch in batches[:2])
    assert pass_of(contrast, batches[0]) is first  # the latest one now
    assert pass_of(contrast, batches[2]) is not second
    assert len(latest._runs) == LatestPasses.KEPT == 2
    assert pass_of(contrast, batches[0]) is first
    assert pass_of(contrast, batches[1]) is not second
    assert pass_of(contrast, contrast.clean) is contrast.once_for_clean(clean_pass)


def test_each_ablation_is_measured_once(contrast_of, monkeypatch):
    """By whomever it is asked for, but again for prompts with other answers."""
    contrast, run = contrast_of("llama"), []
    measured = ablations.metric_lost
    monkeypatch.setattr(
        ablations, "metric_lost", lambda *args: run.append(len(args[1])) or measured(*args)
    )
    lost = lost_when_ablated(contrast, [(HEAD, None), (HEAD, "SUBJECT")], contrast.corrupt)
    again = lost_when_ablated(contrast, [(HEAD, None), (MLP, None)], contrast.corrupt)
    assert run == [2, 1]
    assert again[HEAD, None] is lost[HEAD, None]
    outputs = outputs_by_hooks(contrast.model, contrast.corrupt, [HEAD])
    expected = contrast.metric(contrast.clean_logits) - hooked(
        contrast, Patch(outputs, contrast.clean.within)
    )
    assert torch.allclose(lost[HEAD, None], expected, atol=1e-4)
    swapped = [replace(x, answers=x.foils, foils=x.answers) for x in contrast.examples]
    other = contrast.of(swapped)
    other._clean_results = contrast._clean_results
    found = lost_when_ablated(other, [(HEAD, None)], other.corrupt)[HEAD, None]
    assert torch.allclose(found, -lost[HEAD, None], atol=1e-5)
