"""Searches on a device keep the edges that they keep on the CPU, and wait once for each batch."""

from __future__ import annotations

from typing import Any

import pytest

from acdc_explain.discovery.acdc import Search
from acdc_explain.discovery.attribution import score_edges
from acdc_explain.discovery.engine.fast import Engine
from acdc_explain.discovery.engine.proof import fast_trouble, prove
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.loading import load_model
from acdc_explain.progress import silent
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
@pytest.mark.parametrize("places", [(), ("rest", "END")])
def test_the_same_edges_are_kept(places, family, model_folder):
    folder = str(model_folder(family))
    found = []
    for device in ("cpu", "cuda"):
        with simulated_device() as simulated:
            model = load_model(folder, device=device, sources={})
            contrast = contrast_of(model)
            search_graph = SearchGraph(model.graph, "head", places)
            assert fast_trouble(contrast) is None
            engine = Engine(contrast, search_graph)
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
