"""Faithfulness, and the random circuits with which it is compared."""

from __future__ import annotations

import pytest

from acdc_explain.discovery import faithfulness as module
from acdc_explain.discovery.faithfulness import faithfulness, random_circuit
from acdc_explain.models.contrast import Contrast
from acdc_explain.records.graph import Graph, SearchGraph, prune

from ..conftest import word_task

SEARCH_GRAPHS = [
    SearchGraph(Graph(3, 4)),
    SearchGraph(Graph(3, 4, parallel=True)),
    SearchGraph(Graph(2, 3, has_mlps=False)),
    SearchGraph(Graph(3, 4), "layer"),
    SearchGraph(Graph(3, 4), "head", ("rest", "S", "END")),
]


@pytest.mark.parametrize("search_graph", SEARCH_GRAPHS)
@pytest.mark.parametrize("n", [1, 2, 7, 25])
def test_random_circuits_are_of_the_graph_and_all_on_paths(search_graph, n):
    found = random_circuit(search_graph, n, "0")
    assert 0 < len(found) <= n
    assert set(found) <= set(search_graph.edges())
    assert len(set(found)) == len(found)
    assert prune(found) == found
    assert found == random_circuit(search_graph, n, "0")
    if n == 25:
        assert len(found) > 15
        assert found != random_circuit(search_graph, n, "1")


def test_no_circuit_is_random_of_no_size():
    assert random_circuit(SEARCH_GRAPHS[0], 0, "0") == []


@pytest.mark.parametrize("ablation", ["corrupt", "mean", "zero"])
def test_the_ends(ablation, small_model):
    task = word_task()
    contrast = Contrast(small_model("llama"), task, task.discover, "nll", ablation)
    everything = list(contrast.model.graph.edges())
    assert faithfulness(contrast, everything).share == pytest.approx(1.0, abs=1e-4)
    nothing = faithfulness(contrast, [])
    assert nothing.share == pytest.approx(0.0, abs=1e-4)
    assert nothing.random is None
    some = faithfulness(contrast, everything[:20])
    assert some.random is not None
    assert some.random == faithfulness(contrast, everything[:20]).random


def test_with_too_little_memory_the_reference_engine_measures(small_model):
    task = word_task()
    model = small_model("gpt2")
    kept = list(model.graph.edges())[::3]
    tight, roomy = (Contrast(model, task, task.discover, memory=gb) for gb in (1e-6, 1.0))
    assert faithfulness(tight, kept).circuit == pytest.approx(
        faithfulness(roomy, kept).circuit, abs=1e-5
    )


@pytest.mark.parametrize("ablation", ["corrupt", "mean", "zero"])
def test_in_parts_as_at_once(ablation, small_model, monkeypatch):
    """However few prompts the memory allows at a time; mean ablation is of all prompts at once."""
    contrast = Contrast(small_model("llama"), word_task(), word_task().discover, "kl", ablation)
    edges = random_circuit(SearchGraph(contrast.model.graph), 12, "0")
    whole = faithfulness(contrast, edges, draws=2)
    assert len(module._parts(contrast)) == 1
    monkeypatch.setattr(module, "PART", 1e-9)
    again = Contrast(contrast.model, contrast.task, contrast.examples, "kl", ablation)
    assert len(module._parts(again)) == (1 if ablation == "mean" else len(contrast))
    parts = faithfulness(again, edges, draws=2)
    for name in ("clean", "circuit", "corrupt", "random"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-5)
    assert whole.circuit != pytest.approx(whole.clean, abs=1e-3)
