"""Searches on a device keep the edges that they keep on the CPU, and wait once for each batch.

What does not fit into the device's memory is kept in the host's, with the same results.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acdc_explain.discovery.acdc import Search
from acdc_explain.discovery.attribution import score_edges
from acdc_explain.discovery.engine import fast
from acdc_explain.discovery.engine.choose import engine_for
from acdc_explain.discovery.engine.fast import Engine, TooLittleMemory
from acdc_explain.discovery.engine.proof import fast_trouble, prove
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.discovery.gradients import Backward, Hooked
from acdc_explain.evidence.effects import ablated_output, direct_effect
from acdc_explain.evidence.patching.paths import PathPatching
from acdc_explain.models.activations import search_bytes
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.loading import load_model
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Node
from acdc_explain.records.graph import SearchGraph

from ..conftest import word_task
from .simulated import simulated_device

FAMILIES = ("gpt2", "llama", "gemma2", "bloom", "mixtral")
TAU = 0.01


def contrast_of(model: Any) -> Contrast:
    task = word_task()
    return Contrast(model, task, task.discover, "logit_diff")


def kept(engine: Any) -> list[str]:
    result = Search(engine, lambda *_: None).run(TAU)
    assert result is not None
    return [str(edge) for edge in result.kept]


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("places", "in_groups"), [((), True), (("rest", "END"), False)])
def test_the_same_edges_are_kept(places, in_groups, family, model_folder, monkeypatch):
    monkeypatch.setattr(fast, "FEWEST", 0)
    folder = str(model_folder(family))
    found = []
    for device in ("cpu", "cuda"):
        with simulated_device() as simulated:
            model = load_model(folder, device=device, sources={})
            contrast = contrast_of(model)
            search_graph = SearchGraph(model.graph, "head", places)
            assert fast_trouble(contrast) is None
            engine = Engine(contrast, search_graph, in_groups=in_groups)
            simulated.clear()
            found.append(kept(engine))
            if device == "cuda":
                assert not simulated.mixed
                files = {place.rpartition("/")[2].partition(":")[0] for place in simulated.waits}
                routers = {"mlp.py"} if family == "mixtral" else set()  # they choose on the CPU
                assert files <= {"fast.py", *routers}
    assert found[0] == found[1] != []


def test_the_reference_engine_and_gradients(model_folder):
    folder = str(model_folder("llama"))
    edges, orders = [], []
    for device in ("cpu", "cuda"):
        with simulated_device() as simulated:
            contrast = contrast_of(load_model(folder, device=device, sources={}))
            edges.append(kept(ReferenceEngine(contrast)))
            orders.append([str(edge) for edge in score_edges(contrast, silent).largest(20)])
            assert prove(contrast).is_fast
            assert not simulated.mixed
    assert edges[0] == edges[1] != []
    assert orders[0] == orders[1]


# --- the host's memory ---------------------------------------------------------------------------

WITHOUT_RUNS = 0.8  # share of the memory that a search takes
NODES = tuple(map(Node.parse, ("a0.h1", "m1")))


def limited(model: Any, share: float, ablation: Any = "corrupt") -> Contrast:
    """Prompts with a share of the memory that they would take."""
    task = word_task(12)
    stream = Contrast(model, task, task.discover).clean.tokens.numel() * model.d_model
    most = search_bytes(model.graph, stream, model.dtype.itemsize, model.has_post_norms)
    return Contrast(model, task, task.discover, "logit_diff", ablation, memory=share * most / 1e9)


def edges_of(contrast: Contrast) -> list[str]:
    result = Search(engine_for(contrast, SearchGraph(contrast.model.graph)), lambda *_: None).run(
        0.01
    )
    return [f"{edge} {edge.effect:.5f}" for edge in result.kept]


def evidence_of(contrast: Contrast) -> list[torch.Tensor]:
    paths = PathPatching(contrast)
    outputs = [
        ablated_output(contrast, node, how) for node in NODES for how in ("mean", "resample")
    ]
    cut = paths.cut(paths.senders(Node.parse("a1.h0")))
    return [direct_effect(contrast).samples, *outputs, cut]


@pytest.mark.parametrize("family", ["gpt2", pytest.param("gemma2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("ablation", ["corrupt", "mean", "zero"])
def test_runs_in_the_memory_of_the_host(family, ablation, model_folder):
    folder = str(model_folder(family))
    kept, evidence = [], []
    for device in ("cpu", "cuda"):
        with simulated_device() as simulated:
            model = load_model(folder, device=device, sources={})
            share = WITHOUT_RUNS if device == "cuda" else 2.0
            contrast = limited(model, share, ablation)
            kept.append(edges_of(contrast))
            evidence.append([value.cpu() for value in evidence_of(contrast)])
            assert contrast.clean_run.writers.device.type == "cpu"
            assert contrast.clean_run.logits.device.type == device
            assert not simulated.mixed
    assert kept[0] == kept[1] != []
    for there, here in zip(*evidence, strict=True):
        torch.testing.assert_close(there, here)


def test_where_they_fit_they_stay_on_the_device(model_folder):
    with simulated_device():
        contrast = limited(load_model(str(model_folder("gpt2")), device="cuda", sources={}), 1.1)
        assert contrast.clean_run.writers.device.type == "cuda"
        everything = Engine(contrast).stream_rows.bytes
        contrast = limited(contrast.model, WITHOUT_RUNS)
        assert Engine(contrast).stream_rows.bytes < 0.5 * everything
        with pytest.raises(TooLittleMemory):
            Engine(limited(contrast.model, 0.1))


def test_differences_in_the_memory_of_the_host(model_folder):
    folder = str(model_folder("llama"))
    scores = []
    for device in ("cpu", "cuda"):
        with simulated_device() as simulated:
            contrast = contrast_of(load_model(folder, device=device, sources={}))
            assert Backward(contrast).difference.device.type == device
            assert fast_trouble(contrast) is None  # proven once, with enough memory
            contrast.memory = 0.9 * Backward(contrast).difference.nbytes / 1e9
            assert Backward(contrast).difference.device.type == "cpu"
            assert Hooked(contrast).difference.device.type == device
            scores.append(score_edges(contrast, silent, steps=2).effects)
            assert not simulated.mixed
    torch.testing.assert_close(*scores)
    assert scores[0].abs().max() > 0.1


def test_the_reference_engine(model_folder):
    folder = str(model_folder("gpt2"))
    with simulated_device() as simulated:
        contrast = limited(load_model(folder, device="cuda", sources={}), WITHOUT_RUNS)
        result = Search(ReferenceEngine(contrast), lambda *_: None).run(0.01)
        assert [f"{edge} {edge.effect:.5f}" for edge in result.kept] == edges_of(contrast)
        assert not simulated.mixed
