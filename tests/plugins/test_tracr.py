"""Tracr models answer as their programs do, and ACDC keeps the edges of the compiler."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("tracr", reason="the extra `tracr` is not installed")

from acdc_explain_plugins.discoverers.acdc import acdc
from acdc_explain_plugins.known_roles.rasp_programs import BY_NAME, LENGTH, PROGRAMS
from acdc_explain_plugins.known_roles.tracr_compile import wiring
from acdc_explain_plugins.known_roles.tracr_programs import any_prompts, task

import acdc_explain as ax
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent

pytestmark = pytest.mark.filterwarnings("ignore")  # by jax and haiku


@pytest.fixture(scope="module")
def models():
    loaded: dict[str, ax.Model] = {}

    def get(name: str) -> ax.Model:
        if name not in loaded:
            loaded[name] = ax.load_model(f"tracr-{name}", sources=load_plugins().models())
        return loaded[name]

    return get


def test_there_are_at_least_six_programs():
    assert len(PROGRAMS) >= 6


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("name", BY_NAME)
def test_models_answer_as_their_programs(name, models):
    program, model, rng = BY_NAME[name], models(name), random.Random(0)
    prompts = [rng.choices(program.letters, k=rng.randint(2, LENGTH)) for _ in range(40)]
    logits = model.forward(model.batch(["".join(prompt) for prompt in prompts]))
    answered = 0
    for prompt, row in zip(prompts, logits):
        answer = program.answer(prompt)
        if answer is not None:
            assert model.piece(int(row.argmax())) == answer, prompt
            answered += 1
    assert answered >= 10


@pytest.mark.parametrize("name", ["shift", "induction", "histogram", "repeated"])
def test_acdc_keeps_the_compilers_edges(name, models):
    program, model = BY_NAME[name], models(name)
    contrast = Contrast(model, task(program, model), any_prompts(program), "kl", "zero")
    circuit = acdc(contrast, silent, tau=0.001)
    assert set(circuit.edges) == set(wiring(name))
