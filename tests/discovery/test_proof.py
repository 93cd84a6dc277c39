"""Each check of a model, by breaking what it guards: the model is refused or the engine changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acdc_explain import load_model
from acdc_explain.discovery.engine import proof
from acdc_explain.discovery.engine.choose import engine_for
from acdc_explain.discovery.engine.proof import Proof, prove
from acdc_explain.errors import UserError
from acdc_explain.evaluation.doctor import examine
from acdc_explain.experiments.patching import cut
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.functional import attention, layers, places
from acdc_explain.models.functional.attention import Attention
from acdc_explain.models.network import find, hooks, norm
from acdc_explain.models.network.norm import Norm
from acdc_explain.records.graph import SearchGraph

from ..conftest import word_task

LONG = 9  # more tokens than the models are watched on, and than windows are wide
SeeProof = Callable[[str], "tuple[Contrast, Proof]"]


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    """No model has been checked, before and after."""
    for known in (proof._FAST, proof._REFERENCE, layers._LAYERS):
        known.clear()
    yield
    for known in (proof._FAST, proof._REFERENCE, layers._LAYERS):
        known.clear()


@pytest.fixture
def broken(small_model: Callable[..., Any]) -> SeeProof:
    """The proof of a family that was loaded before it was broken."""

    def prove_it(family: str) -> tuple[Contrast, Proof]:
        task = word_task(length=LONG)
        contrast = Contrast(small_model(family), task, task.discover, "kl")
        return contrast, prove(contrast)

    return prove_it


def failed(proof: Proof, engine: str) -> set[str]:
    """What the failed checks of an engine compare."""
    return {check.what for check in proof.checks if check.of == engine and not check.passed}


def assert_falls_back(contrast: Contrast, reason: str) -> None:
    notes: list[str] = []
    engine = engine_for(
        contrast, SearchGraph(contrast.model.graph), lambda *args: notes.append(args[3])
    )
    assert engine.name == "reference"
    assert reason in notes[0]


# --- the reference engine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "word"), [("q", "queries"), ("k", "keys"), ("v", "values"), ("mlp_in", "MLPs")]
)
def test_a_port_that_does_not_listen(kind, word, broken, small_model, monkeypatch):
    small_model("gpt2")
    monkeypatch.setitem(hooks._INSTALL, kind, lambda network, point, run: [])
    contrast, found = broken("gpt2")
    assert f"the logits with all edges into {word} cut" in failed(found, "reference")
    others = {"queries", "keys", "values", "MLPs"} - {word}
    assert not {f"the logits with all edges into {w} cut" for w in others} & failed(
        found, "reference"
    )
    with pytest.raises(UserError, match="cutting edges is not exact"):
        engine_for(contrast, SearchGraph(contrast.model.graph), name="reference")
    with pytest.raises(UserError, match="cutting edges is not exact"):
        cut(contrast, "input->logits")
    assert examine(contrast.model)["self_check"].startswith("failed: ")


def test_a_head_that_writes_too_much(broken, small_model, monkeypatch):
    """What a node writes is watched, and removed where an edge from it is cut."""
    small_model("gpt2")
    written = hooks._written
    monkeypatch.setattr(hooks, "_written", lambda *args: 1.1 * written(*args))
    assert "the last streams with every edge into heads and MLPs cut" in failed(
        broken("gpt2")[1], "reference"
    )


def test_an_input_that_cannot_be_cut(broken, small_model, monkeypatch):
    small_model("gpt2")
    monkeypatch.setitem(hooks._INSTALL, "input", lambda network, point, run: [])
    assert "the last streams with every edge into heads and MLPs cut" in failed(
        broken("gpt2")[1], "reference"
    )


# --- the fast engine -------------------------------------------------------------------------------


def test_a_window_that_is_lost(broken, small_model, monkeypatch):
    small_model("mistral")
    monkeypatch.setattr(places, "_mask", _causal)
    contrast, found = broken("mistral")
    assert_falls_back(contrast, "its attention weights are those of no form")
    assert found.trouble("reference") is None


def test_a_window_that_is_lost_in_long_prompts_alone(broken, small_model, monkeypatch):
    mask = places._mask
    small_model("mistral")
    monkeypatch.setattr(places, "_mask", lambda *args: (mask if args[2] < LONG else _causal)(*args))
    contrast, found = broken("mistral")
    assert "the logits with nothing cut" in failed(found, "fast")
    assert_falls_back(contrast, "the logits with a random half of the edges cut are off")


def test_longer_prompts_are_checked_again(small_model, monkeypatch):
    """A window that is lost beyond the prompts of a first run is found by a later one."""
    mask, model = places._mask, small_model("mistral")
    monkeypatch.setattr(places, "_mask", lambda *args: (mask if args[2] < 18 else _causal)(*args))
    for length, trouble in ((6, False), (20, True), (6, True)):
        task = word_task(length=length)
        contrast = Contrast(model, task, task.discover, "kl")
        assert (proof.fast_trouble(contrast) is not None) == trouble


def _causal(attention: Any, given: Any, length: int, like: torch.Tensor) -> torch.Tensor:
    return torch.full((1, length, length), -torch.inf).triu(1)


def _turn_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions turn neighbouring dimensions, in every form that is tried."""
    forms = attention._forms
    monkeypatch.setattr(
        attention,
        "_forms",
        lambda *args: (replace(form, rotary="interleaved") for form in forms(*args)),
    )


def test_rotary_positions_of_the_other_form(broken, small_model, monkeypatch):
    small_model("llama")
    _turn_neighbours(monkeypatch)
    assert_falls_back(broken("llama")[0], "its attention weights are those of no form")


def test_rotary_positions_of_the_other_form_that_are_not_seen_at_first(
    broken, small_model, monkeypatch
):
    small_model("llama")
    _turn_neighbours(monkeypatch)
    monkeypatch.setattr(Attention, "gives", lambda *args: True)
    contrast, found = broken("llama")
    assert "a random half of the edges into queries" in " ".join(failed(found, "fast"))
    assert_falls_back(contrast, "the logits with a random half of the edges cut are off")


# --- loading ---------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(folder))
    return str(caught.value)


def test_a_head_that_is_not_written(model_folder, monkeypatch):
    written = hooks._written

    def without_first(*args: Any) -> Any:
        value = written(*args).clone()
        value[:, :, 0] = 0
        return value

    monkeypatch.setattr(hooks, "_written", without_first)
    assert "the summed outputs of heads and MLPs are off" in refusal(model_folder("gpt2"))


def test_a_scale_of_the_logits_that_is_lost(model_folder, monkeypatch):
    monkeypatch.setattr(find, "_with_logits", lambda network, tokens, logits: network)
    assert "the logits from the last stream are off" in refusal(model_folder("cohere"))


def test_a_norm_without_its_offset(model_folder, monkeypatch):
    candidates = norm._candidates
    monkeypatch.setattr(norm, "_candidates", lambda *args: list(candidates(*args))[::2])
    assert "its GemmaRMSNorm is no known norm" in refusal(model_folder("gemma"))


def test_a_norm_with_other_weights_than_its_module(model_folder, monkeypatch):
    of = Norm.of

    def wrong(module: Any, like: torch.Tensor) -> Norm:
        found = of(module, like)
        return replace(found, weight=found.weight - 1)

    monkeypatch.setattr(find.Norm, "of", wrong)
    assert "the summed direct effects are off" in refusal(model_folder("gemma"))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("afmoe", "its heads read the stream beside their queries, keys and values"),
        ("bitnet", "its heads are not separate"),
        ("bloom-post-residual", "layer 0 does not just add to the residual stream"),
    ],
)
def test_models_with_more_than_heads_and_mlps(family, reason, model_folder):
    assert reason in refusal(model_folder(family))


def test_columns_of_another_head(model_folder, monkeypatch):
    columns_of = find.columns_of

    def wrong(*args: Any) -> Any:
        found = columns_of(*args)
        return {**found, "q": found["q"].roll(1, 0)}

    monkeypatch.setattr(find, "columns_of", wrong)
    assert "its heads are not separate" in refusal(model_folder("gpt2"))


@pytest.mark.parametrize("ports", ["kqv", "vkq", "qvk", "kvq", "vqk"])
def test_columns_of_another_port(ports, model_folder, monkeypatch):
    columns_of = find.columns_of
    monkeypatch.setattr(
        find, "columns_of", lambda *args: {p: columns_of(*args)[q] for p, q in zip("qkv", ports)}
    )
    assert "are not where they are looked for" in refusal(model_folder("gpt2"))
