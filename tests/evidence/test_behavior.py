"""Whether a model does the task is measured, and what follows if it does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import acdc_explain as ax
from acdc_explain.errors import UserError
from acdc_explain.evidence.behavior import behavior_of
from acdc_explain.ids import plain
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.run.behavior import Behavior, doubt
from acdc_explain.records.task import Example, Task
from acdc_explain.store.document.read import from_document
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task

pytestmark = pytest.mark.usefixtures("shared_contrasts")
SURE = Behavior(32, 1.0, 1.0, 0.9, "logit_diff", 5.0, 0.5, 4.5, (4.0, 5.0))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "s.duckdb")


def task_of(mini, n: int = 8) -> Task:
    return load_plugins().tasks()["ioi"](mini, examples=n, seed=0)


def swapped(task: Task) -> Task:
    """The task with answers and foils exchanged: a behavior that the model does not have."""

    def other(examples: tuple[Example, ...]) -> tuple[Example, ...]:
        return tuple(replace(e, answers=e.foils, foils=e.answers) for e in examples)

    return replace(task, discover=other(task.discover), held_out=other(task.held_out))


class TestDoubt:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, None),
            ({"gap": -0.05, "interval": (-0.2, 0.1)}, "not surely positive"),
            ({"gap": 0.5, "interval": (0.0, 1.0)}, "not surely positive"),
            ({"prefers_answer": 0.5}, "prefers the answer to the foils on 16 of 32"),
            ({"prefers_answer": 0.625}, "on 20 of 32"),
            ({"prefers_answer": 0.75}, None),
            ({"prefers_answer": None}, None),
            ({"n": 2, "prefers_answer": 1.0}, None),
            ({"n": 2, "prefers_answer": 0.5}, "on 1 of 2"),
        ],
    )
    def test_of_one_split(self, changes, words):
        found = replace(SURE, **changes).doubt
        assert (found is None) is (words is None)
        assert words is None or words in found

    def test_of_both(self):
        coin = replace(SURE, prefers_answer=0.5)
        assert doubt({"discover": SURE, "held_out": SURE}) is None
        assert doubt({"discover": SURE, "held_out": coin}).startswith("on held-out prompts it")
        assert doubt({"discover": coin, "held_out": SURE}).startswith("on the discovery prompts")
        assert doubt({}) is None


@pytest.mark.parametrize(
    "change",
    [{"n": "8"}, {"n": 0}, {"gap": None}, {"interval": ["a", 1.0]}, {"interval": [1.0]},
     {"metric": 7}, {"accuracy": float("inf")}, {"more": 1}],
)  # fmt: skip
def test_what_is_no_behavior_is_not_imported(change):
    """What shows a behavior relies on these fields."""
    entry = {**json.loads(json.dumps(plain(SURE))), **change}
    with pytest.raises((ValueError, TypeError)):
        Behavior.parse(entry)


def test_the_numbers_are_those_of_plain_transformers(mini):
    """Top-1, preference, probability and gap, from the Hugging Face model's own logits."""
    task = task_of(mini)
    found = behavior_of(Contrast(mini, task, task.held_out))
    model, tokenizer = mini.hf_model, mini.tokenizer
    right, prefers, p_answer, gaps = [], [], [], []
    for example in task.held_out:
        logits = []
        for text in (example.clean, example.corrupt):
            ids = torch.tensor(
                [[*mini.prefix, *tokenizer(text, add_special_tokens=False).input_ids]]
            )
            with torch.no_grad():
                logits.append(model(ids).logits[0, -1])
        answer, foil = (mini.single(words[0]) for words in (example.answers, example.foils))
        p = logits[0].softmax(-1)
        right.append(float(int(logits[0].argmax()) == answer))
        prefers.append(float(p[answer] > p[foil]))
        p_answer.append(float(p[answer]))
        gaps.append(float((logits[0] - logits[1])[answer] - (logits[0] - logits[1])[foil]))
    mean = [sum(values) / len(values) for values in (right, prefers, p_answer, gaps)]
    assert [found.accuracy, found.prefers_answer] == pytest.approx(mean[:2])
    assert found.p_answer == pytest.approx(mean[2], abs=1e-4)
    assert found.gap == pytest.approx(mean[3], rel=1e-4)
    assert found.interval[0] < found.gap < found.interval[1]


def test_what_the_model_does_not_do_is_refused_before_the_search(mini, store):
    task = swapped(task_of(mini))
    with pytest.raises(UserError, match=r"does not surely do 'ioi': .*; choose .*`anyway=True`"):
        ax.explain(task, mini, store=store)
    with pytest.raises(UserError, match="`anyway=True`"):
        ax.sweep(task, mini, store=store)
    assert not store.path.exists() or not store.runs()


@pytest.mark.slow
def test_without_the_behavior_no_label_is_supported(mini, store):
    """Measured by divergence, a model that prefers the foil has as much of a circuit as another."""
    task = replace(task_of(mini), schemes={})
    way = {"metric": "kl", "anyway": True, "labeler": "rules"}
    right = ax.explain(task, mini, store=store, **way)
    assert "supported" in {verdict.outcome for verdict in right.verdicts}
    wrong = ax.explain(swapped(task), mini, store=store, **way)
    assert wrong.behavior["held_out"].prefers_answer == 0.0
    assert "supported" not in {verdict.outcome for verdict in wrong.verdicts}
    doubtful = [v for v in wrong.verdicts if v.reason.startswith("the model does not surely")]
    assert doubtful
    assert {verdict.outcome for verdict in doubtful} == {"inconclusive"}


def test_a_random_model_needs_anyway(small_model, store):
    with pytest.raises(UserError, match="does not surely do 'words'"):
        ax.explain(word_task(4), small_model("neox"), store=store)


@pytest.mark.slow
def test_it_is_kept_shown_and_exported(mini, store, capsys):
    run = ax.explain(task_of(mini, 4), mini, store=store, discoverer="eap", max_edges=60)
    assert set(run.behavior) == {"discover", "held_out"}
    assert store.get(run.id).behavior == run.behavior
    document = json.loads(json.dumps(to_document(run)))
    assert document["behavior"]["held_out"]["accuracy"] == 1.0
    assert from_document(document, "x").behavior == run.behavior
    from acdc_explain.report.html import page
    from acdc_explain.report.text.run import show_run
    from acdc_explain.report.text.tables import console

    show_run(run, console())
    line = "8 prompts held out: the answer comes first on 8, before the foils on 8"
    assert line in capsys.readouterr().out
    assert line in page(run)


@pytest.mark.slow
def test_a_label_of_another_labeler_keeps_the_doubt(mini, store):
    """`judge` and `label` use the stored behavior and do not measure it again."""
    from acdc_explain.pipeline.flow import judge
    from acdc_explain.pipeline.settings import Settings

    run = ax.explain(
        swapped(task_of(mini, 4)), mini, store=store, anyway=True, discoverer="eap", max_edges=60,
        judges=(),
    )  # fmt: skip
    judged = judge(run, store, Settings(judges=("role_card",)))
    assert judged.behavior == run.behavior
    assert "supported" not in {verdict.outcome for verdict in judged.verdicts}
