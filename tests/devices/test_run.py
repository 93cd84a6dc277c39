"""Whole runs on a device: the same circuit, evidence and verdicts as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import acdc_explain as ax
from acdc_explain.ids import plain
from acdc_explain.records.run.run import Run
from acdc_explain.records.verdict import Verdict

from ..conftest import word_task
from ..pipeline.test_results import same
from .placed import JUDGES, most, on_device
from .simulated import SimulatedDevice

QUICK: dict[str, Any] = {
    "discoverer": "eap", "labeler": "rules", "judges": JUDGES, "anyway": True,
}  # fmt: skip


def check_same(here: Run, there: Run) -> None:
    assert (there.header.status, there.set_aside) == ("done", ())  # no collector or judge failed
    assert there.behavior == here.behavior
    check_evidence(here, there)
    assert _roles(there) == _roles(here)
    check_verdicts(here, there)
    assert here.circuit is not None
    assert there.circuit is not None
    assert there.circuit.edges == here.circuit.edges
    found, expected = there.circuit.faithfulness, here.circuit.faithfulness
    assert found.share == pytest.approx(expected.share, abs=1e-4)  # edges are cut in other batches
    assert found.random_share == pytest.approx(expected.random_share, abs=1e-4)


def check_evidence(here: Run, there: Run) -> None:
    """The same but for the last digits, as the interventions may run in other batches."""
    one, other = ({(x.node, x.collector): x.facts for x in run.evidence} for run in (here, there))
    assert one.keys() == other.keys()
    for key, facts in one.items():
        assert same(plain(facts), plain(other[key])), key


def _roles(run: Run) -> set[tuple[str, str]]:
    return {(str(label.node), label.role) for label in run.labels}


def check_verdicts(here: Run, there: Run) -> None:
    """The same but for the last digits."""
    one, other = ({_key(run, x): x for x in run.verdicts} for run in (here, there))
    assert one.keys() == other.keys()
    for key, verdict in one.items():
        numbers = [
            [x.outcome, x.n, x.score, x.low, x.high, x.chance] for x in (verdict, other[key])
        ]
        assert same(*numbers), key


def _key(run: Run, verdict: Verdict) -> tuple[str, str, str]:
    label = next(label for label in run.labels if label.id == verdict.label_id)
    return str(label.node), label.role, verdict.judge


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom", "mixtral"])
def test_all_but_discovery(
    simulated: SimulatedDevice, small_model: Any, model_folder: Any, tmp_path: Path, family: str
) -> None:
    """The circuit is in the store already."""
    here, there = small_model(family), on_device(str(model_folder(family)))
    options = {**QUICK, "max_edges": 6, "judges": ("role_card", "transfer")}
    expected = ax.explain(word_task(2), here, store=tmp_path / "here.duckdb", **options)
    store = ax.Store(tmp_path / "there.duckdb")
    store.add_circuit(expected.circuit)
    simulated.clear()
    check_same(expected, ax.explain(word_task(2), there, store=store, **options))
    assert simulated.waits
    searching = [place for place in simulated.waits if "/discovery/" in place]
    assert all("/engine/" in place for place in searching)  # claims need an exact fast engine


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ioi", "induction"])
def test_mini(simulated: SimulatedDevice, mini: Any, tmp_path: Path, task: str) -> None:
    options = {**QUICK, "max_edges": 20, "examples": 6}
    here = ax.explain(task, mini, store=tmp_path / "here.duckdb", **options)
    simulated.clear()
    there = ax.explain(task, on_device("mini"), store=tmp_path / "there.duckdb", **options)
    check_same(here, there)
    assert {verdict.judge for verdict in there.verdicts} >= {"role_card", "prediction"}
    measures = 30 + 4 * len(there.labels)  # of all nodes; and for the tests of a label
    assert most(simulated.waits) <= 3 * measures
