"""Planted models solve their tasks, and their heads get the right labels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from acdc_explain_plugins.known_roles.planted import MODELS
from acdc_explain_plugins.known_roles.planted_weights import IDLE, SIZES, STAGES, jobs

import acdc_explain as ax
from acdc_explain.discovery.engine.proof import fast_trouble
from acdc_explain.evaluation.labels import score_labels
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent


@pytest.fixture(scope="module")
def planted():
    return ax.load_model("planted-small-0")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_every_job_is_done_once_and_in_order(size, seed):
    placed = jobs(size, seed)
    assert len(placed) == SIZES[size][0] * SIZES[size][1]
    layers = [{n.layer for n, job in placed.items() if job in stage} for stage in STAGES]
    assert all(len(of_stage) == 1 for of_stage in layers)
    assert [*map(max, layers)] == sorted(map(max, layers))
    assert set(IDLE) <= set(placed.values())


@pytest.mark.parametrize("task", ["planted_ioi", "planted_induction"])
def test_it_solves_its_tasks_and_both_engines_support_it(task, planted):
    built = load_plugins().tasks()[task](planted, examples=8, seed=3)
    contrast = Contrast(planted, built, built.held_out)
    assert (contrast.metric(contrast.clean_run.logits) > 5).all()
    assert abs(contrast.corrupt_metric) < 0.1
    assert fast_trouble(contrast) is None


def test_discovery_and_held_out_share_no_name_and_no_word(planted):
    task = load_plugins().tasks()["planted_ioi"](planted, examples=16, seed=0)
    discover, held_out = (
        {word for e in part for word in (*e.clean.split(), *e.answers)} - {"to"}
        for part in (task.discover, task.held_out)
    )
    assert not discover & held_out


def test_names_of_models_are_their_sizes_and_seeds():
    assert {model.name for model in MODELS} <= set(load_plugins().models())


@pytest.mark.slow
def test_labels_of_a_planted_model():
    """All labels are right, no decoy or shuffled label passes, and the baseline is far lower."""
    known = [MODELS[0].known(task) for task in ("planted_ioi", "planted_induction")]
    score = score_labels(load_plugins(), "planted", known, silent).as_dict()
    assert score["mistakes"] == []
    assert score["accuracy"] == 1.0 > 0.7 > score["majority_baseline"]
    assert score["decoys"] >= 8
    assert score["decoys_supported"] == 0
    assert score["shuffled"] >= 10
    assert score["shuffled_supported"] == 0
    assert {"s_inhibition", "backup_name_mover", "duplicate_token"} <= set(score["roles"])


def test_a_planted_model_leaves_nothing_behind(tmp_path):
    """It is written to a temporary folder, and many are made."""
    program = (
        "from acdc_explain_plugins.known_roles.planted_weights import folder;"
        "print(folder('small', 0))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, env=environment, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
