"""Edges that are cut in groups: the same decisions as one by one, and the checks that see to it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acdc_explain import load_model
from acdc_explain.discovery.acdc import Search, SearchResult, Trace, best_of_size
from acdc_explain.discovery.attribution import score_edges
from acdc_explain.discovery.engine import fast, groups
from acdc_explain.discovery.engine.choose import engine_for
from acdc_explain.discovery.engine.fast import Engine
from acdc_explain.discovery.engine.groups import SMALL, UNKNOWN, Trial, trials_of
from acdc_explain.discovery.engine.receiver import ReceiverTest
from acdc_explain.discovery.engine.reference import Decision
from acdc_explain.errors import UserError
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.metrics import METRICS
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent
from acdc_explain.records.circuit import Edge
from acdc_explain.records.graph import SearchGraph

from ..conftest import FAMILIES, make_hf_model, make_tokenizer, word_task


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: Any) -> None:
    """Groups that small models have."""
    monkeypatch.setattr(fast, "FEWEST", 0)
    monkeypatch.setattr(groups, "MEMBERS", 4)
    monkeypatch.setattr(groups, "AUDIT", 7)


def contrast_of(model: Any, metric: str = "logit_diff") -> Contrast:
    task = word_task()
    return Contrast(model, task, task.discover, metric)


class Enough(Exception):
    """Ends a search."""


def decisions(engine: Engine, tau: float, most: float = math.inf) -> list[Decision]:
    """The decisions of a search, until more than `most` edges are decided."""
    found: list[Decision] = []

    def report(done: int, total: int, so_far: SearchResult) -> None:
        if done > most:
            raise Enough

    decide = engine.decide

    def record(group: Any, tau: float) -> list[Decision]:
        new = decide(group, tau)
        found.extend(new)
        return new

    engine.decide = record  # type: ignore[method-assign]
    with contextlib.suppress(Enough):
        Search(engine, report).run(tau)
    return found


def kept(found: list[Decision]) -> list[tuple[str, bool]]:
    return [(str(decision.edge), decision.kept) for decision in found]


@pytest.fixture(scope="module")
def lively(tmp_path_factory: Any) -> Callable[[str], Any]:
    """Models of three layers with larger weights, loaded once."""

    @cache
    def load(family: str) -> Any:
        folder = tmp_path_factory.mktemp(family)
        make_hf_model(family, layers=3, scale=4.0).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        return load_model(str(folder), dtype="float64")

    return load


def assert_same_decisions(contrast: Contrast, places: Any, share: float) -> int:
    """The number of edges that were cut in groups."""
    tau = share * abs(contrast.clean_metric - contrast.corrupt_metric)
    search_graph = SearchGraph(contrast.model.graph, "head", places)
    grouped = decisions(Engine(contrast, search_graph, in_groups=True), tau)
    alone = decisions(Engine(contrast, search_graph), tau)
    assert kept(grouped) == kept(alone)
    assert not any(decision.kept and decision.estimated for decision in grouped)
    assert not any(decision.estimated for decision in alone)
    for ours, theirs in zip(grouped, alone):
        if not ours.estimated:
            assert ours.edge.effect == pytest.approx(theirs.edge.effect, abs=1e-5)
    return sum(decision.estimated for decision in grouped)


@pytest.mark.slow_after(4)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("places", [(), ("rest", "END")])
@pytest.mark.parametrize("family", FAMILIES)
def test_same_decisions(family, places, metric, lively):
    contrast = contrast_of(lively(family), metric)
    shares = (0.01, 0.03, 0.1)
    assert sum(assert_same_decisions(contrast, places, share) for share in shares) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", ["gemma2", "mixtral", "qwen3", "bloom"])
def test_same_decisions_of_other_families(family, metric, small_model):
    contrast = contrast_of(small_model(family, "float64"), metric)
    for share in (0.01, 0.1):
        assert_same_decisions(contrast, (), share)


@pytest.mark.slow
def test_same_decisions_on_a_real_model(monkeypatch):
    """The edges into the upper layers of SmolLM2, with the groups of a real search."""
    monkeypatch.undo()
    try:
        model = load_model("smollm2-135m")
    except UserError as error:
        pytest.skip(str(error))
    task = load_plugins().tasks()["ioi"](model, examples=2, seed=3)
    contrast = Contrast(model, task, task.discover, "logit_diff")
    grouped = decisions(Engine(contrast, in_groups=True), 0.1, 50_000)
    alone = decisions(Engine(contrast), 0.1, 50_000)
    assert kept(grouped) == kept(alone)
    assert sum(decision.kept for decision in alone) > 20
    assert sum(decision.estimated for decision in grouped) > 0.5 * len(grouped)


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_estimates_are_derivatives(family, small_model):
    """Those of edges into the logits are EAP's; those into nodes before a cut are not."""
    contrast = contrast_of(small_model(family, "float64"))
    engine = Engine(contrast)
    first, second = engine.search_graph.receiver_groups[:2]
    scores = score_edges(contrast, silent)
    for receivers in (first, second):
        test = ReceiverTest(engine.state, receivers[0][0])
        test.open(receivers[0])
        senders = engine.search_graph.senders(receivers[0][0])
        changes = engine._changes([[sender] for sender in senders], test.rows)
        step, offset = 1e-5, changes[:3].sum(0)
        estimates = []
        for base in (torch.zeros_like(offset), offset):
            gradient = engine._gradient(test, base[None])
            slopes = -(changes.flatten(1) @ gradient.flatten())
            before, *after = engine._test(test, torch.cat([base[None], base + changes * step]))
            expected = [(before - metric) / step for metric in after]
            assert slopes.tolist() == pytest.approx(expected, abs=1e-3)
            estimates.append(slopes)
        assert (estimates[0] - estimates[1]).abs().max() > 1e-4 or receivers is first
        tau = 4 * float(estimates[0].abs().max()) + 1e-9  # all are small, so all are cut
        gradient = engine._gradient(test, changes.sum(0)[None])
        mean = (estimates[0] - (changes.flatten(1) @ gradient.flatten())) / 2
        assert engine._estimates(test, senders, 10 * tau) == pytest.approx(mean.tolist(), abs=1e-6)
        if receivers is first:
            row = contrast.model.graph.receiver_index[receivers[0]]
            eap = [scores.effects[row, contrast.model.graph.writer_index[s]] for s in senders]
            assert estimates[0].tolist() == pytest.approx([float(e) for e in eap], abs=1e-5)
        engine.decide([(receiver, senders) for receiver in receivers], -1.0)


class TestWrongEstimates:
    """What happens where the gradient says nothing, as with saturated attention."""

    @pytest.fixture
    def contrast(self, small_model: Any, monkeypatch: Any) -> Contrast:
        monkeypatch.setattr(
            Engine, "_estimates", lambda self, test, senders, tau: [0.0] * len(senders)
        )
        return contrast_of(small_model("gpt2", "float64"))

    def test_the_sum_is_checked(self, contrast, monkeypatch):
        alone = kept(decisions(Engine(contrast), 0.01))
        monkeypatch.setattr(groups, "AUDIT", 10**6)
        assert kept(decisions(Engine(contrast, in_groups=True), 0.01)) == alone
        monkeypatch.setattr(Trial, "fits", lambda self, effect, tau: True)
        assert kept(decisions(Engine(contrast, in_groups=True), 0.01)) != alone

    def test_after_a_wrong_audit_edges_are_tested_alone(self, contrast, monkeypatch):
        monkeypatch.setattr(groups, "AUDIT", 2)
        monkeypatch.setattr(Trial, "fits", lambda self, effect, tau: not self.audit)
        found = decisions(Engine(contrast, in_groups=True), 0.01)
        assert len(found) == len({decision.edge for decision in found})
        by_port: dict[Any, list[bool]] = {}
        for decision in found:
            port = (decision.edge.dst, decision.edge.port)
            by_port.setdefault(port, []).append(decision.estimated)
        assert all(not any(estimated[8:]) for estimated in by_port.values())

    def test_a_group_that_fails_is_split_down_to_single_edges(self, contrast, monkeypatch):
        monkeypatch.setattr(Trial, "fits", lambda self, effect, tau: not self.is_group)
        found = decisions(Engine(contrast, in_groups=True), 0.01)
        assert not any(decision.estimated for decision in found)
        assert kept(found) == kept(decisions(Engine(contrast), 0.01))


estimates = st.one_of(st.just(UNKNOWN), st.floats(-0.3, 0.3), st.floats(0.5, 2.0))


@given(st.lists(estimates, max_size=60), st.integers(0, 1000))
def test_trials_cover_the_candidates_in_order(values, first):
    trials = list(trials_of(values, 1.0, first))
    assert [n for trial in trials for n in range(trial.start, trial.stop)] == list(
        range(first, first + len(values))
    )
    assert [e for trial in trials for e in trial.estimates] == values
    for trial in trials:
        assert len(trial.estimates) <= 4  # MEMBERS in this file
        small = all(abs(estimate) < SMALL for estimate in trial.estimates)
        assert small or len(trial.estimates) == 1
        assert trial.audit == (small and trial.start % 7 == 3)
        if trial.start % 7 == 3:
            assert len(trial.estimates) == 1
        assert trial.is_likely_kept(1.0) == (trial.estimates[0] >= 1.0)


def test_what_an_estimate_says_for_other_thresholds():
    """Nothing below a threshold of which it is no small part: there the edge must be tested."""
    edge = Edge.parse("a0.h0->logits")
    trace = Trace(1.0, [])
    trace.add([Decision(edge, False), Decision(edge, False, True)])
    trace.effects = [[0.5, 0.2]]
    assert trace.n_agreeing(1.0) == trace.n_agreeing(2.0) == trace.n_agreeing(0.81) == 1
    assert trace.n_agreeing(0.79) == 0  # 0.2 is more than SMALL of it
    trace.estimated = [[]]
    assert trace.n_agreeing(0.79) == 1
    old = Trace(1.0, [[0.2], [0.3]])  # as stored before there were groups
    old.add([Decision(edge, False, True)])
    assert old.estimated == [[], [], [0]]


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_of_edges_is_found_with_the_same_thresholds(family, small_model):
    contrast = contrast_of(small_model(family, "float64"))
    found = []
    for name in ("auto", "single"):
        search = Search(
            engine_for(contrast, SearchGraph(contrast.model.graph), silent, name), lambda *_: None
        )
        result = best_of_size(search, 20, 0.01, contrast.clean_metric)
        assert result is not None
        found.append((result.tau, [str(edge) for edge in result.kept]))
    assert found[0] == found[1]
