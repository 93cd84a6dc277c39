"""Half precision: what is exact up to the model's own rounding, and what cannot be decided."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from acdc_explain_plugins.discoverers.acdc import acdc

from acdc_explain.discovery.acdc import Search, metric_noise
from acdc_explain.discovery.engine.fast import Engine
from acdc_explain.discovery.engine.proof import fast_trouble, reference_trouble
from acdc_explain.discovery.faithfulness import faithfulness
from acdc_explain.models import weights
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.loading import load_model
from acdc_explain.models.network import hooks
from acdc_explain.models.network.precision import FLOAT32_NOISE
from acdc_explain.progress import silent

from ..conftest import word_task

TYPES = ("bfloat16", "float16")


def contrast_of(model: Any) -> Contrast:
    task = word_task()
    return Contrast(model, task, task.discover, "logit_diff")


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "mixtral"])
@pytest.mark.parametrize("dtype", TYPES)
def test_both_engines_are_exact_up_to_rounding(dtype, family, small_model):
    half, whole = (contrast_of(small_model(family, each)) for each in (dtype, "float32"))
    assert half.model.dtype_name == dtype
    assert half.model.limit > whole.model.limit
    assert fast_trouble(half) is None
    assert reference_trouble(half) is None
    edges = Search(Engine(whole), lambda *_: None).run(0.01)
    assert edges is not None
    found, expected = (faithfulness(each, edges.circuit, draws=0) for each in (half, whole))
    gap = abs(whole.clean_metric - whole.corrupt_metric)
    assert found.circuit == pytest.approx(expected.circuit, abs=max(0.1 * gap, 0.1))


def test_a_model_that_rounding_moves_far_is_allowed_more(model_folder, monkeypatch):
    usual = load_model(str(model_folder("gpt2")), dtype="bfloat16", sources={}).limit
    monkeypatch.setattr(weights, "SPREAD", 1000.0)
    assert load_model(str(model_folder("gpt2")), dtype="bfloat16", sources={}).limit > 2 * usual


def test_a_wrong_split_is_found_beyond_rounding(model_folder, monkeypatch):
    written = hooks._written
    monkeypatch.setattr(hooks, "_written", lambda *args: 1.5 * written(*args))
    with pytest.raises(Exception, match="the summed outputs of heads and MLPs are off by"):
        load_model(str(model_folder("gpt2")), dtype="bfloat16", sources={})


def test_decisions_within_the_noise_are_counted(small_model):
    whole, half = (contrast_of(small_model("gpt2", each)) for each in ("float32", "bfloat16"))
    noise = metric_noise(half)
    assert metric_noise(whole) == FLOAT32_NOISE < noise
    engine, effects = Engine(half), []
    decide = engine.decide

    def record(group: Any, tau: float) -> Any:
        new = decide(group, tau)
        effects.extend(decision.edge.effect for decision in new)
        return new

    engine.decide = record  # type: ignore[method-assign]
    result = Search(engine, lambda *_: None, noise=noise).run(noise)
    assert result is not None
    assert result.n_close == sum(abs(effect - noise) < noise for effect in effects) > 0
    exact = Search(Engine(half), lambda *_: None).run(noise)
    assert exact is not None
    assert exact.n_close < result.n_close


def test_a_run_says_how_many(small_model):
    half = contrast_of(small_model("gpt2", "bfloat16"))
    notes: list[str] = []
    acdc(half, lambda *args: notes.append(args[-1]), tau=metric_noise(half))
    assert "within the noise of tau (undecidable)" in notes[-1]
    assert acdc(half, silent, tau=metric_noise(half)).edges
    assert torch.isfinite(half.clean_run.logits).all()
