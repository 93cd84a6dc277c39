"""What a cut edge carries, where the named places are, and what is computed once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from acdc_explain.discovery.engine.readout import Readout
from acdc_explain.errors import UserError
from acdc_explain.models.activations import written_everywhere
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.functional.layers import Layers
from acdc_explain.models.metrics import METRICS

from ..conftest import FAMILIES, word_task


def test_ablated_values(small_model):
    task = word_task()
    model = small_model("gpt2")
    corrupt, mean, zero = (
        Contrast(model, task, task.discover, None, ablation).ablated
        for ablation in ("corrupt", "mean", "zero")
    )
    contrast = Contrast(model, task, task.discover)
    assert torch.equal(corrupt, contrast.corrupt_run.writers)
    assert not zero.any()
    rows = [corrupt[:, n, : end + 1] for n, end in enumerate(contrast.clean.end)]
    expected = torch.cat(rows, 1).mean(1)
    assert torch.allclose(mean[:, 0, 0], expected, atol=1e-6)
    assert torch.equal(mean[:, 0, 0], mean[:, 1, 3])


def test_every_token_has_one_place(small_model):
    task = word_task()
    examples = [
        replace(example, positions={"B": 3, "A": 1, "same": 1, "END": example.positions["END"]})
        for example in task.discover
    ]
    contrast = Contrast(small_model("gpt2"), task, examples)
    assert contrast.place_names == ("rest", "A", "same", "B", "END")
    masks = contrast.place_masks(contrast.place_names)
    assert bool((masks.sum(0) == 1).all())
    assert masks[1, 0].nonzero().flatten().tolist() == [2]  # after <bos>
    assert not masks[2].any()  # A was named first
    assert torch.equal(masks[4].int().argmax(1), contrast.clean.end)


def test_a_name_that_cannot_be_in_a_node(small_model):
    task = word_task()
    examples = [replace(example, positions={"first name": 1}) for example in task.discover]
    with pytest.raises(UserError, match="'first name', which cannot be part of a node's name"):
        _ = Contrast(small_model("gpt2"), task, examples).place_names


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_readout_is_the_metric(family, metric, small_model):
    task = word_task()
    wide = replace(task.discover[0], answers=(" cat", " dog"), foils=(" bird", " fish", " saw"))
    contrast = Contrast(small_model(family), task, (wide, *task.discover[1:]), metric)
    readout = Readout(contrast, Layers.of(contrast.model))
    final = torch.stack([contrast.clean_run.final, contrast.corrupt_run.final])
    expected = [contrast.metric(run.logits) for run in (contrast.clean_run, contrast.corrupt_run)]
    found = readout(final).double()  # float64 where the metric has a linear part
    assert torch.allclose(found, torch.stack(expected).double(), atol=2e-6)


def test_an_experiment_is_run_once_for_each_of_its_arguments(small_model):
    """Told apart by the function itself: two of the same name have results of their own."""
    contrast = Contrast(small_model("gpt2"), word_task(), word_task().discover)
    runs: list[int] = []

    def experiment_times(factor: int):
        def experiment(contrast: Contrast, n: int = 1) -> int:
            runs.append(n)
            return factor * n

        return experiment

    single, double = experiment_times(1), experiment_times(2)
    assert [contrast.once(f, n) for f in (single, double, single) for n in (3, 4)] == [
        3, 4, 6, 8, 3, 4,
    ]  # fmt: skip
    assert runs == [3, 4, 3, 4]
    assert contrast.once(single) == 1


def test_an_experiment_that_fails_is_run_again(small_model):
    contrast = Contrast(small_model("gpt2"), word_task(), word_task().discover)
    results = iter([KeyError, 7])

    def experiment(contrast: Contrast) -> int:
        result = next(results)
        if result is KeyError:
            raise KeyError
        return result

    with pytest.raises(KeyError):
        contrast.once(experiment)
    assert contrast.once(experiment) == contrast.once(experiment) == 7


def test_what_all_nodes_write_is_computed_when_it_is_asked_for(small_model, monkeypatch):
    task, model = word_task(), small_model("gpt2")
    contrast, asked = Contrast(model, task, task.discover), []
    monkeypatch.setattr(
        "acdc_explain.models.model.written_everywhere",
        lambda *args: asked.append(args) or written_everywhere(*args),
    )
    run = contrast.clean_run
    assert not asked
    at_end = torch.stack([contrast.clean.at_end(one) for one in run.writers])
    assert torch.equal(run.at_end, at_end)
    assert run.writers is run.writers
    assert len(asked) == 1


def test_what_is_forgotten_is_computed_again(small_model):
    task = word_task()
    contrast, times = Contrast(small_model("gpt2"), task, task.discover), []

    def experiment(contrast: Contrast) -> int:
        times.append(contrast)
        return len(times)

    def other(contrast: Contrast) -> int:
        return experiment(contrast)

    assert contrast.once(experiment) == contrast.once(experiment) == 1
    assert contrast.once_for_clean(other) == 2
    contrast.forget(experiment)
    assert (contrast.once(experiment), contrast.once_for_clean(other)) == (3, 2)
    clean, ablated = contrast.clean_run, contrast.ablated
    contrast.forget()
    assert (contrast.once(experiment), contrast.once_for_clean(other)) == (4, 5)
    assert contrast.clean_run is not clean
    assert contrast.ablated is not ablated
    assert torch.equal(contrast.ablated, ablated)
