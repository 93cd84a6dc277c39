"""The shipped model has the abilities and heads that docs/mini.md lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acdc_explain.discovery.engine.proof import fast_trouble
from acdc_explain.evidence.attention import named_attention
from acdc_explain.evidence.measures import measure
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.graph import SearchGraph

from ..discovery.test_engine import assert_same


def contrast_of(mini, name: str, *, examples: int = 100, seed: int = 7) -> Contrast:
    task = load_plugins().tasks()[name](mini, examples=examples, seed=seed)
    return Contrast(mini, task, task.held_out)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", ["induction", "ioi", "greater_than"])
def test_tasks_are_solved(mini, name):
    contrast = contrast_of(mini, name)
    best = contrast.model.forward(contrast.clean).argmax(-1)
    right = ((contrast.answers.ids == best[:, None]) & contrast.answers.present).any(1)
    assert right.double().mean() >= 0.99


def test_pronouns_are_right(mini):
    contrast = contrast_of(mini, "gendered_pronoun", examples=40)
    best = contrast.model.forward(contrast.clean).argmax(-1)
    assert (contrast.answers.ids[:, 0] == best).double().mean() >= 0.99


def best_head(measurement) -> tuple[Node, float]:
    node = max(measurement.nodes, key=measurement.value)
    return node, measurement.value(node)


def test_classic_heads_are_there(mini):
    """Thresholds of the literature where it has one; docs/mini.md has every head's scores."""
    contrast = contrast_of(mini, "ioi", examples=20)
    assert best_head(measure("previous_token_attention", contrast))[1] > 0.6
    assert best_head(measure("induction_attention", contrast))[1] > 0.4
    duplicate, value = best_head(measure("duplicate_token_attention", contrast))
    assert value > 0.5
    between = named_attention(contrast)
    assert between[duplicate]["S2 to S1"] > 0.5
    movers = [
        node
        for node in mini.graph.heads
        if between[node]["END to IO"] > 0.5
        and measure("copying", contrast).value(node) > 0.8
        and measure("direct_effect", contrast).interval(node)[0] > 0
    ]
    assert movers


def test_small_enough_to_ship(mini):
    from acdc_explain_plugins.models.small import mini as source

    assert sum(file.stat().st_size for file in source().iterdir() if file.is_file()) < 4 * 2**20


def test_exact(mini):
    assert fast_trouble(contrast_of(mini, "ioi", examples=4)) is None


def test_text_it_writes_is_its_language(mini):
    from acdc_explain.evidence.top_examples import generated_text

    batch = generated_text(mini)
    assert len(set(map(tuple, batch.tokens.tolist()))) == len(batch.tokens)
    unknown = mini.tokenizer.unk_token_id
    assert not bool((batch.tokens == unknown).any())
    assert torch.equal(generated_text(mini).tokens, batch.tokens)


@pytest.fixture(scope="module")
def mini64() -> Any:
    from acdc_explain import load_model

    return load_model("mini", dtype="float64")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric"),
    [("induction", "logit_diff"), ("ioi", "kl"), ("greater_than", "logit_diff")],
)
def test_the_fast_engine_decides_as_the_reference_engine(name, metric, mini64):
    """In full, at three thresholds, in float64: every decision in its order, and the metric."""
    task = load_plugins().tasks()[name](mini64, examples=3, seed=0)
    contrast = Contrast(mini64, task, task.discover, metric)
    gap = abs(contrast.clean_metric - contrast.corrupt_metric)
    for share in (0.003, 0.01, 0.1):
        assert_same(contrast, SearchGraph(mini64.graph), share * gap)
