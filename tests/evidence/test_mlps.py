"""What an MLP writes when it keeps a part: against the model's own modules, and sums by hand."""

from __future__ import annotations

from pathlib import Path

import acdc_explain_plugins.mini_model as mini_model
import pytest
import torch
from transformers import AutoModelForCausalLM

import acdc_explain as ax
from acdc_explain.claims.paths import corrupted_pass
from acdc_explain.claims.testing import check_claims
from acdc_explain.evidence.measurement import NotMeasurable
from acdc_explain.evidence.mlps import (
    CONTEXTS,
    _words_and_others,
    likely_neurons,
    neuron_change,
    neurons_of,
    token_change,
)
from acdc_explain.evidence.patching.edges import changes
from acdc_explain.evidence.patching.gradients import stream_gradients
from acdc_explain.evidence.patching.passes import clean_pass
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node

M1, HEAD = Node.parse("m1"), Node.parse("a1.h0")


@pytest.fixture(scope="module")
def contrast(mini):
    return ax.contrast(load_plugins().tasks()["ioi"](mini, examples=8, seed=0), mini, "discover")


def test_all_neurons_make_up_what_an_mlp_changes(contrast):
    other, at, width = corrupted_pass(contrast), "END", neurons_of(contrast, M1)
    whole = changes(contrast, other, [M1], at)[0]
    assert float(whole.abs().max()) > 0.1
    halves = [
        neuron_change(contrast, other, M1, at, kept)
        for kept in (range(width // 2), range(width // 2, width))
    ]
    torch.testing.assert_close(halves[0] + halves[1], whole, atol=1e-4, rtol=1e-4)
    assert not neuron_change(contrast, other, M1, at, range(width)).any()


def test_the_likely_neurons_change_the_metric_most(contrast):
    """By one neuron at a time, and the gradient at what the MLP writes."""
    other, width = corrupted_pass(contrast), neurons_of(contrast, M1)
    few, share = likely_neurons(contrast, other, M1, "END")
    gradient = contrast.clean.at_end(contrast.once(stream_gradients).at_output(M1))
    lost = []
    for number in range(width):
        kept = [x for x in range(width) if x != number]
        change = neuron_change(contrast, other, M1, "END", kept)[:, 0]
        lost.append(float((change * gradient).sum(-1).mean()))
    assert few == sorted(sorted(range(width), key=lambda x: -abs(lost[x]))[:10])
    assert share == pytest.approx(sum(lost[x] for x in few) / sum(lost), rel=1e-3)


def test_the_mean_output_for_a_token_is_that_of_the_model(contrast, mini):
    """The mean over contexts of what the MLP module itself writes at the last token."""
    plain = AutoModelForCausalLM.from_pretrained(
        Path(mini_model.__file__).parent, dtype=torch.float32
    ).eval()
    written = contrast.clean.at_end(contrast.once_for_clean(clean_pass).mlps[1])
    change = token_change(contrast, M1, "END", None)[:, 0]
    words, ids = (
        _words_and_others(contrast),
        contrast.clean.at_end(contrast.clean.tokens[..., None]),
    )
    unique = sorted({int(x) for x in ids.flatten()})
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(0, len(words), (len(unique), CONTEXTS, 2), generator=generator)
    for row, token in enumerate(ids.flatten().tolist()):
        outputs = []
        for two in before[unique.index(token)].tolist():
            prompt = mini.batch_ids([[*(words[i] for i in two), token]])
            outputs.append(_module_output(plain, prompt.tokens[0].tolist()))
        mean = torch.stack(outputs).mean(0)
        torch.testing.assert_close(change[row] + written[row], mean, atol=1e-4, rtol=1e-4)
    shifted = token_change(contrast, M1, "END", 0)[:, 0] + written
    torch.testing.assert_close(shifted, (change + written).roll(1, 0), atol=1e-5, rtol=1e-5)


def _module_output(plain, tokens: list[int]) -> torch.Tensor:
    """What MLP 1 writes at the last token, by a hook on the Hugging Face module."""
    seen = []
    module = plain.gpt_neox.layers[1].mlp
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        plain(torch.tensor([tokens]))
    handle.remove()
    return seen[0][0, -1]


def test_what_has_no_such_part_is_refused(contrast):
    other = corrupted_pass(contrast)
    with pytest.raises(NotMeasurable, match="a1.h0 is no MLP"):
        token_change(contrast, HEAD, "END", None)
    with pytest.raises(NotMeasurable, match="a1.h0 has no hidden layer"):
        neuron_change(contrast, other, HEAD, "END", [0])


def test_claims_of_an_mlp(contrast):
    """m0 of mini acts on the keys of movers, but any other name's token would do as well."""
    kinds = load_plugins().claims()
    at_s1 = {"at": "S1", "through": "a1.h0<k>"}
    every = tuple(range(10))
    claims = [
        kinds["reads_token"].claim(Node.parse("m0"), "reads_token", at_s1),
        kinds["neurons"].claim(Node.parse("m0"), "neurons", {**at_s1, "neurons": every}),
        kinds["reads_token"].claim(HEAD, "reads_token", at_s1),
        kinds["neurons"].claim(Node.parse("m0"), "neurons", {**at_s1, "neurons": (9999,)}),
    ]
    token, neurons, head, unknown = check_claims(contrast, claims, kinds, other_corruptions=False)
    assert token.outcome in ("unclear", "fails")
    assert "R^2" in token.reason
    assert neurons.outcome in ("unclear", "fails")
    assert "share of its effect" in neurons.reason
    assert head.outcome == unknown.outcome == "untested"
    assert "no number 9999" in unknown.reason
