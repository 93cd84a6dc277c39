"""Experiments of a notebook and of an LLM on a device: the CPU's numbers, which come to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import acdc_explain as ax
from acdc_explain.labeling.experiments import EXPERIMENTS, ComponentExperiments
from acdc_explain.models.contrast import Contrast
from acdc_explain.records.circuit import Node
from acdc_explain.records.question import Question

from ..labeling.asking import Asker
from .placed import on_device, prompts
from .simulated import SimulatedDevice, simulated_device

NOTEBOOK: dict[str, Callable[[Contrast], Any]] = {
    "cut": lambda contrast: ax.cut(contrast, "a0.h1->a1.h1<q>"),
    "cut at a position": lambda contrast: ax.cut(contrast, "a0.h1@END->a1.h1@END<q>"),
    "ablate": lambda contrast: ax.ablate(contrast, "a1.h1"),
    "ablate at a position": lambda contrast: ax.ablate(contrast, "m0", "END", how="mean"),
    "path_patch": lambda contrast: ax.path_patch(contrast, "a0.h1", "a1.h1", "q"),
    "attention": lambda contrast: ax.attention(contrast.model, "a1.h1", "When Tom and Ann left"),
}
REQUESTED: dict[str, dict[str, Any]] = {
    "measure": {"measure": "copying"},
    "attention": {"text": "When Tom and Ann left", "query": -1},
    "attention_here": {"at": "END"},
    "ablate": {"positions": ["END"], "how": "mean", "prompts": "", "others": []},
    "cut_input": {"sender": "A", "port": "q", "at": "END"},
    "without": {"others": ["A"]},
    "test": {"made": {"claim": "raises", "what": "answers", "source": None, "by": None}},
    "stand_in": {"other": "A"},
}


@pytest.fixture(scope="module")
def contrasts(mini: Any) -> Iterator[tuple[Contrast, Contrast, SimulatedDevice]]:
    """Prompts on the CPU and on a simulated device."""
    with simulated_device() as simulated:
        yield prompts(mini), prompts(on_device("mini")), simulated


@pytest.mark.parametrize("name", NOTEBOOK)
def test_in_a_notebook(contrasts: Any, name: str) -> None:
    here, there = (NOTEBOOK[name](contrast) for contrast in contrasts[:2])
    contrasts[2].clear()
    assert repr(there) == repr(here)
    numbers = {key: x for key, x in vars(there).items() if isinstance(x, torch.Tensor)}
    assert numbers
    for key, x in numbers.items():
        torch.testing.assert_close(x, getattr(here, key), rtol=1e-4, atol=1e-5)
    assert not contrasts[2].waits  # nothing of it is on the device


@pytest.fixture(scope="module")
def questions(contrasts: Any) -> list[Question]:
    """About one head, on the CPU and on the device."""
    shown = {Node.parse("a0.h1"): "A", Node.parse("a1.h1"): "B"}
    about = [Asker(x).about("a1.h1", evidence=False) for x in contrasts[:2]]
    return [replace(question, shown=shown) for question in about]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_requested_by_an_llm(contrasts: Any, questions: list[Question], name: str) -> None:
    def found(contrast: Contrast, question: Question) -> dict[str, Any]:
        of_b = ComponentExperiments(question, contrast.task, lambda: contrast)
        return of_b._run_alone(
            EXPERIMENTS[name], EXPERIMENTS[name].arguments.model_validate(REQUESTED[name])
        )  # in this thread: a simulated device has one

    here, there, simulated = contrasts
    expected = found(here, questions[0])
    found(there, questions[1])
    simulated.clear()
    assert found(there, questions[1]) == expected
    assert max(simulated.waits.values(), default=0) <= 4
