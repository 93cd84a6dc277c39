"""The fast engine decides what the reference engine decides, and an independent search too."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from acdc_explain_plugins.discoverers.acdc import acdc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acdc_explain.discovery.acdc import STEPS, Search, SearchResult, Trace, best_of_size
from acdc_explain.discovery.engine.choose import engine_for
from acdc_explain.discovery.engine.fast import Engine, TooLittleMemory
from acdc_explain.discovery.engine.proof import fast_trouble
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.discovery.engine.rows import StreamRows
from acdc_explain.discovery.faithfulness import random_circuit
from acdc_explain.errors import UserError
from acdc_explain.models.activations import search_bytes
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.metrics import METRICS
from acdc_explain.models.options import ABLATIONS
from acdc_explain.pipeline.prepare import build_task
from acdc_explain.pipeline.settings import Settings
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Edge
from acdc_explain.records.graph import SearchGraph, prune

from ..conftest import FAMILIES, MORE_FAMILIES, make_hf_model, make_tokenizer, word_task
from ..oracle import Oracle, brute_force_acdc


def contrast_of(model: Any, metric: str, ablation: Any = "corrupt", **options: Any) -> Contrast:
    task = word_task(**options)
    return Contrast(model, task, task.discover, metric, ablation)


def decisions(engine: Any, tau: float) -> tuple[list[tuple[str, bool]], list[float], Any]:
    """Every decision in order, every effect, and the result."""
    search = Search(engine, lambda *_: None)
    all_decisions: list[Any] = []
    decide = engine.decide

    def record(group: Any, tau: float) -> Any:
        new = list(decide(group, tau))
        all_decisions.extend(new)
        return new

    engine.decide = record
    result = search.run(tau)
    edges = [(str(decision.edge), decision.kept) for decision in all_decisions]
    return edges, [decision.edge.effect for decision in all_decisions], result


def assert_same(
    contrast: Contrast, search_graph: SearchGraph, tau: float, atol: float = 1e-9
) -> Any:
    fast, effects, result = decisions(Engine(contrast, search_graph), tau)
    slow, expected, reference = decisions(ReferenceEngine(contrast, search_graph), tau)
    assert fast == slow
    assert effects == pytest.approx(expected, abs=atol)
    assert result.metric == pytest.approx(reference.metric, abs=atol)
    # the metric that was tracked is that of one patched pass at the end
    measured = ReferenceEngine(contrast, search_graph).measure(result.kept)
    assert result.metric == pytest.approx(measured, abs=atol)
    return result


TAUS = {"logit_diff": 0.01, "kl": 0.0005, "nll": 0.005, "prob_diff": 0.0002}


def _each_pair() -> list[Any]:
    """Families, metrics and ablations: every two of them meet in the fast tests."""
    found = []
    for (f, family), (m, metric), (a, ablation) in product(
        *map(enumerate, (FAMILIES, METRICS, ABLATIONS))
    ):
        fast = m in ((f + a) % 4, (f + 3) % 4 if a == 0 else None)
        marks = () if fast else pytest.mark.slow
        found.append(pytest.param(family, metric, ablation, marks=marks))
    return found


@pytest.mark.slow_after(3)
@pytest.mark.parametrize(("family", "metric", "ablation"), _each_pair())
def test_same_decisions(family, metric, ablation, small_model):
    contrast = contrast_of(small_model(family, "float64"), metric, ablation)
    tolerance = 1e-5 if family == "llama" else 1e-9  # its norm computes in float32
    result = assert_same(contrast, SearchGraph(contrast.model.graph), TAUS[metric], tolerance)
    assert 0 < len(result.kept) < contrast.model.graph.n_edges


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("family", MORE_FAMILIES)
@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
def test_same_decisions_of_other_families(family, metric, small_model):
    contrast = contrast_of(small_model(family, "float64"), metric)
    assert fast_trouble(contrast) is None
    result = assert_same(contrast, SearchGraph(contrast.model.graph), TAUS[metric], 1e-5)
    assert 0 < len(result.kept) < contrast.model.graph.n_edges


@pytest.mark.slow_after(4)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("granularity", ["layer", "places", "both", "shuffled", "shuffled places"])
def test_same_decisions_at_every_granularity(family, granularity, small_model):
    contrast = contrast_of(small_model(family, "float64"), "logit_diff")
    places = ("rest", "END") if granularity in ("places", "both", "shuffled places") else ()
    search_graph = SearchGraph(
        contrast.model.graph, "layer" if granularity in ("layer", "both") else "head", places
    )
    search_graph = search_graph.shuffled(5) if "shuffled" in granularity else search_graph
    assert sorted(map(str, search_graph.edges())) == sorted(
        map(str, SearchGraph(search_graph.graph, search_graph.level, search_graph.places).edges())
    )
    assert_same(contrast, search_graph, 0.005, 1e-5 if family == "llama" else 1e-9)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kept_edges_are_those_of_brute_force(family, small_model):
    """Against a transformer and a search that share no code with ours."""
    contrast = contrast_of(small_model(family, "float64"), "logit_diff", n=2)
    oracle = Oracle(make_hf_model(family).double(), family)

    def fall(logits: torch.Tensor) -> torch.Tensor:
        return contrast.metric(contrast.clean.at_end(logits)).mean()

    with torch.no_grad():
        kept, final = brute_force_acdc(
            oracle, contrast.clean.tokens, contrast.corrupt.tokens, fall, 0.003
        )
    result = Search(Engine(contrast), lambda *_: None).run(0.003)
    assert result is not None
    assert [str(edge) for edge in result.kept] == kept
    assert result.metric == pytest.approx(final, abs=1e-5)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    family=st.sampled_from(FAMILIES),
    layers=st.integers(1, 3),
    seed=st.integers(0, 10**6),
    scale=st.floats(1.0, 8.0),
    metric=st.sampled_from(list(METRICS)),
    share=st.sampled_from([0.0, 0.001, 0.01, 0.1]),
    length=st.integers(2, 9),
    n=st.integers(1, 5),
)
def test_random_models_tasks_and_thresholds(
    family, layers, seed, scale, metric, share, length, n, tmp_path_factory
):
    from acdc_explain import load_model

    folder = tmp_path_factory.mktemp("random")
    make_hf_model(family, layers=layers, seed=seed, scale=scale).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    contrast = contrast_of(
        load_model(str(folder), dtype="float64"), metric, n=n, seed=seed, length=length
    )
    tau = share * abs(contrast.clean_metric - contrast.corrupt_metric) + 1e-7
    fast, effects, result = decisions(Engine(contrast), tau)
    slow, expected, _ = decisions(ReferenceEngine(contrast), tau)
    undecidable = any(abs(effect - tau) < 1e-6 for effect in expected)
    assert fast == slow or (undecidable and family == "llama")
    if fast == slow:
        assert effects == pytest.approx(expected, abs=1e-4 if family == "llama" else 1e-8)
        # bookkeeping: every edge is tested, or into a port that nothing kept reads
        free = contrast.model.graph.n_edges - result.n_tested
        read = {edge.src for edge in result.kept} | {contrast.model.graph.receivers[0][0]}
        unread = [node for node, _ in contrast.model.graph.receivers if node not in read]
        assert free == sum(contrast.model.graph.n_senders(node) for node in unread)


def test_only_rows_that_can_change_are_computed(small_model):
    contrast = contrast_of(small_model("gpt2"), "logit_diff", n=3)
    stream_rows = Engine(contrast).stream_rows
    differs = contrast.clean.tokens != contrast.corrupt.tokens
    for prompt in range(3):
        first = int(differs[prompt].nonzero()[0])
        rows = stream_rows.token[stream_rows.prompt == prompt].tolist()
        assert rows == list(range(first, int(contrast.clean.end[prompt]) + 1))


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_memory_is_within_the_formula(family, small_model):
    contrast = contrast_of(small_model(family), "kl", "mean")  # every token can change
    model, rows = contrast.model, contrast.clean.tokens.numel()
    most = search_bytes(
        model.graph, rows * model.d_model, model.dtype.itemsize, model.has_post_norms
    )
    assert 0.9 * most < Engine(contrast).stream_rows.bytes <= most


def test_batches_do_not_change_decisions(small_model, monkeypatch):
    from acdc_explain.discovery.engine import fast as engine

    contrast = contrast_of(small_model("llama", "float64"), "kl")
    found = []
    for rows, first in ((1, 1), (1024, 64)):
        monkeypatch.setattr(engine, "ROWS", rows)
        monkeypatch.setattr(engine, "FIRST_BATCH", first)
        found.append(decisions(Engine(contrast), 0.0005)[0])
    assert found[0] == found[1]


class TestTraces:
    def search(
        self, contrast: Contrast, traces: Any = (), search_graph: SearchGraph | None = None
    ) -> Search:
        return Search(Engine(contrast, search_graph), lambda *_: None, traces=traces)

    @pytest.mark.parametrize("places", [(), ("rest", "END")])
    def test_a_stopped_search_goes_on_as_if_it_had_not_stopped(self, places, small_model):
        contrast = contrast_of(small_model("neox", "float64"), "logit_diff")
        search_graph = SearchGraph(contrast.model.graph, "head", places)
        whole = self.search(contrast, search_graph=search_graph)
        expected = whole.run(0.002)
        effects = whole.traces[0].effects
        for n in range(0, len(effects), 3):
            again = self.search(contrast, [Trace(0.002, effects[:n])], search_graph)
            assert again.run(0.002) == expected
            assert again.traces[0].effects == effects

    def test_another_threshold_takes_over_what_agrees(self, small_model):
        contrast = contrast_of(small_model("gpt2", "float64"), "logit_diff")
        first = self.search(contrast)
        first.run(0.01)
        calls: list[int] = []
        decide = first.engine.decide
        first.engine.decide = lambda group, tau: calls.append(1) or decide(group, tau)  # type: ignore
        result = first.run(0.0101)
        fresh = self.search(contrast)
        assert result == fresh.run(0.0101)
        assert len(calls) < len(fresh.traces[0].effects)

    def test_an_interrupted_search_is_saved(self, small_model):
        contrast = contrast_of(small_model("gpt2", "float64"), "logit_diff")
        saved: list[Any] = []
        search = Search(Engine(contrast), lambda *_: None, save=lambda t: saved.append(list(t)))
        decide, calls = search.engine.decide, iter(range(100))

        def stopping(group: Any, tau: float) -> Any:
            if next(calls) == 3:
                raise KeyboardInterrupt
            return decide(group, tau)

        search.engine.decide = stopping  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            search.run(0.001)
        assert len(saved[-1][0].effects) == 3

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize("n", [1, 5, 12, 40, 1000])
    def test_best_of_size(self, n, small_model):
        contrast = contrast_of(small_model("gpt2", "float64"), "logit_diff")
        search = self.search(contrast)
        result = best_of_size(search, n, 0.05, contrast.clean_metric)
        assert result is not None
        assert 0 < len(result.circuit) <= n
        alone = self.search(contrast).run(result.tau)
        assert result == alone

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize("n", [1, 3, 5, 12])
    def test_the_largest_circuit_that_fits(self, n, mini):
        """What is on paths counts: at the first thresholds that keep an edge, none is on one."""
        task = build_task(load_plugins(), "ioi", mini, Settings(examples=6))
        contrast = Contrast(mini, task, task.discover)
        gap = abs(contrast.clean_metric - contrast.corrupt_metric)
        search = self.search(contrast)
        sizes = [len(search.run(gap * 0.25 * 0.93**step).circuit) for step in range(24)]
        assert sum(0 < size <= 12 for size in sizes) > 1
        fitting = max(size for size in sizes if size <= n)
        result = best_of_size(self.search(contrast), n, 0.01 * gap, contrast.clean_metric)
        assert (0 if result is None else len(result.circuit)) >= fitting
        assert result is None or 0 < len(result.circuit) <= n

    def test_searches_for_a_size_are_bounded(self):
        """An engine whose circuits are all too large, or all empty."""

        class Constant:
            def __init__(self, result: Any) -> None:
                self.result, self.n_runs, self.noise = result, 0, 1e-6

            def run(self, tau: float, at_most: int | None = None) -> Any:
                self.n_runs += 1
                return self.result

        for result in (None, SearchResult(0.1, (), 0, 0, 0.0, 0)):
            search = Constant(result)
            assert best_of_size(search, 5, 0.05, 1.0) is None  # type: ignore[arg-type]
            assert search.n_runs <= STEPS


class TestPlugin:
    def test_options(self, small_model):
        contrast = contrast_of(small_model("gpt2", "float64"), "logit_diff")
        by_head = acdc(contrast, silent, tau=0.005)
        slow = acdc(contrast, silent, tau=0.005, engine="reference")
        assert by_head == slow
        split = acdc(contrast, silent, tau=0.005, positions=True)
        assert {edge.src.place for edge in split.edges} <= {"rest", "END"}
        assert (
            split.n_edges_total
            == SearchGraph(contrast.model.graph, "head", ("rest", "END")).n_edges
        )
        layers = acdc(contrast, silent, tau=0.005, level="layer")
        assert {edge.src.kind for edge in layers.edges} <= {"input", "attn", "mlp"}
        small = acdc(contrast, silent, max_edges=6)
        assert 0 < len(small.edges) <= 6

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
    def test_a_named_token_before_the_first_that_differs(self, family, small_model):
        """No cut changes anything there: no edge is kept, and the engines agree."""
        task = word_task()
        examples = []
        for example in task.discover:
            first = " " + example.clean.split()[0]
            corrupt = "".join([first, *(f" {word}" for word in example.corrupt.split()[1:])])
            positions = {"START": 0, **example.positions}
            examples.append(replace(example, corrupt=corrupt, positions=positions))
        assert all(e.clean != e.corrupt for e in examples)
        model = small_model(family, "float64" if family == "gpt2" else "float32")
        contrast = Contrast(model, task, examples)
        fast, slow = (
            acdc(contrast, silent, tau=0.02, positions=True, engine=engine)
            for engine in ("fast", "reference")
        )
        assert fast.edges == slow.edges
        assert fast.n_edges_tested == slow.n_edges_tested
        assert {e.src.place for e in fast.edges} <= {"rest", "END"}
        search_graph = SearchGraph(model.graph, "head", contrast.place_names)
        engines = Engine(contrast, search_graph), ReferenceEngine(contrast, search_graph)
        for draw in range(5):
            circuit = random_circuit(search_graph, 40, str(draw))
            assert any(edge.dst.place == "START" for edge in circuit)
            fast, slow = (engine.measure(circuit) for engine in engines)
            assert fast == pytest.approx(slow, abs=1e-4)

    def test_orders_count_how_often_edges_are_kept(self, small_model):
        contrast = contrast_of(small_model("llama", "float64"), "logit_diff")
        found = acdc(contrast, silent, tau=0.005, orders=3)
        circuits = [acdc(contrast, silent, tau=0.005).edges]
        for seed in (1, 2, 3):
            search_graph = SearchGraph(contrast.model.graph).shuffled(seed)
            result = Search(Engine(contrast, search_graph), lambda *_: None).run(0.005)
            assert result is not None
            circuits.append(tuple(result.circuit))
        assert set(found.edges) == set(circuits[0])
        for edge in found.edges:
            assert edge.share == sum(edge in circuit for circuit in circuits) / 4
        others = set().union(*circuits) - set(circuits[0])
        assert set(found.alternatives) == others

    def test_screen(self, small_model):
        contrast = contrast_of(small_model("gpt2", "float64"), "logit_diff")
        graph = contrast.model.graph
        everything = acdc(contrast, silent, tau=0.005, screen=graph.n_edges)
        assert everything.edges == acdc(contrast, silent, tau=0.005).edges
        few = acdc(contrast, silent, tau=0.005, screen=40)
        assert few.n_edges_tested <= 40
        assert few == acdc(contrast, silent, tau=0.005, screen=40, engine="reference")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tau": -1}, "`tau=`"),
            ({"tau": float("nan")}, "`tau=`"),
            ({"tau": 1, "max_edges": 3}, "exclude each other"),
            ({"max_edges": 0}, "at least 1"),
            ({"orders": -1}, "negative"),
            ({"level": "neuron"}, "no level 'neuron'"),
            ({"engine": "quick"}, "no engine 'quick'"),
            ({"screen": 5, "positions": True}, "`screen=`"),
        ],
    )
    def test_wrong_options_are_one_sentence(self, options, message, small_model):
        contrast = contrast_of(small_model("gpt2"), "logit_diff")
        with pytest.raises(UserError, match=message):
            acdc(contrast, silent, **options)


@pytest.fixture
def unchecked() -> Any:
    """No model has been checked, before and after."""
    from acdc_explain.discovery.engine import proof
    from acdc_explain.models.functional import layers

    for known in (proof._FAST, proof._REFERENCE, layers._LAYERS):
        known.clear()
    yield
    for known in (proof._FAST, proof._REFERENCE, layers._LAYERS):
        known.clear()


@pytest.mark.usefixtures("unchecked")
class TestChoice:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_fast_where_it_is_exact(self, family, small_model):
        contrast = contrast_of(small_model(family), "kl")
        assert fast_trouble(contrast) is None
        assert engine_for(contrast, SearchGraph(contrast.model.graph)).name == "fast"

    def test_falls_back_and_says_so(self, small_model, monkeypatch):
        contrast = contrast_of(small_model("llama"), "kl")
        mix = StreamRows.mix
        monkeypatch.setattr(StreamRows, "mix", lambda *args: 1.01 * mix(*args))
        notes: list[str] = []
        engine = engine_for(
            contrast,
            SearchGraph(contrast.model.graph),
            lambda stage, done, total, note="": notes.append(note),
        )
        assert engine.name == "reference"
        assert "the logits with a random half of the edges cut are off" in notes[0]
        with pytest.raises(UserError, match="The fast engine cannot do"):
            engine_for(contrast, SearchGraph(contrast.model.graph), silent, "fast")

    def test_falls_back_for_parts_it_does_not_know(self, small_model, monkeypatch):
        from acdc_explain.models.functional import attention

        contrast = contrast_of(small_model("gpt2"), "kl")
        monkeypatch.setattr(attention, "_forms", lambda parts, places: iter(()))
        assert "of no form that is known here" in str(fast_trouble(contrast))
        assert engine_for(contrast, SearchGraph(contrast.model.graph)).name == "reference"

    def test_too_little_memory_is_an_error_before_the_search(self, small_model):
        task = word_task()
        contrast = Contrast(small_model("gpt2"), task, task.discover, memory=1e-6)
        with pytest.raises(TooLittleMemory, match="raise `memory=`"):
            Engine(contrast)


def test_measuring_a_circuit(small_model):
    contrast = contrast_of(small_model("gpt2", "float64"), "nll")
    engine, reference = Engine(contrast), ReferenceEngine(contrast)
    edges = list(engine.search_graph.edges())
    for seed in range(5):
        kept = random.Random(seed).sample(edges, len(edges) // 3)
        assert engine.measure(kept) == pytest.approx(reference.measure(kept), abs=1e-10)


def test_dropping_edges_off_the_paths_changes_nothing(small_model):
    contrast = contrast_of(small_model("gpt2", "float64"), "logit_diff")
    for places in ((), ("rest", "END")):
        search_graph = SearchGraph(contrast.model.graph, "head", places)
        result = Search(Engine(contrast, search_graph), lambda *_: None).run(0.001)
        assert result is not None
        engine = ReferenceEngine(contrast, search_graph)
        assert engine.measure(prune(result.kept)) == pytest.approx(result.metric, abs=1e-10)


def test_edges_at_places_are_parsed_as_they_print():
    for name in ("a3.h7@S2->a9.h6@S2<k>", "input@rest->m0@NAME+1", "a3->a9<q>", "m3@END->logits"):
        assert str(Edge.parse(name)) == name
