"""The prediction judges: a label's own words predict its head better than another label's."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from acdc_explain_plugins.judges.prediction import Game, prediction, prediction_llm

from acdc_explain.llm.client import Llm
from acdc_explain.llm.session import Session
from acdc_explain.llm.templates import Templates
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.label import Label

from ..llm.scripted_server import completion, serve
from ..llm.test_client import PROMPTS, ReplyCache

ROLES = load_plugins().roles()


@pytest.fixture(scope="module")
def ioi(mini) -> Contrast:
    task = load_plugins().tasks()["ioi"](mini, examples=4, seed=0)
    return Contrast(mini, task, task.held_out)


def label(node: str, role: str, description: str = "x") -> Label:
    return Label("c", Node.parse(node), "llm", role, (), description, 0.5, ())


@pytest.mark.parametrize(
    ("node", "role", "outcome"),
    [
        ("a1.h1", "name_mover", "supported"),
        ("a0.h1", "s_inhibition", "supported"),
        ("a0.h0", "duplicate_token", "supported"),
        ("a0.h0", "previous_token", "causal_only"),
        ("a1.h1", "previous_token", "causal_only"),
        ("a1.h1", "s_inhibition", "causal_only"),
        ("a1.h1", "negative_name_mover", "pattern_only"),  # right attention, opposite effect
    ],
)
def test_predictions_from_the_role(node, role, outcome, ioi):
    (verdict,) = prediction(ioi, [label(node, role)], ROLES)
    assert verdict.outcome == outcome, verdict.reason
    assert verdict.chance < 0.6
    if outcome != "causal_only":
        assert verdict.score > verdict.chance + 0.2


def test_roles_without_a_place_get_no_verdict(ioi):
    labels = [label("a1.h1", "other"), label("a1.h1", "successor"), label("m0", "logit_booster")]
    assert list(prediction(ioi, labels, ROLES)) == []


def test_auc_is_the_share_of_pairs_won(ioi):
    """As scikit-learn defines it, computed by hand: the top key of each row against the others."""
    node = label("a1.h1", "x")
    rows = torch.arange(len(ioi))
    ends = ioi.clean.end
    score = torch.rand(len(ioi), ioi.clean.tokens.shape[1], dtype=torch.double)
    auc, (low, high) = Game(rows, ends, score).auc(ioi, node)
    first, wins, aucs = max(1, len(ioi.model.prefix)), 0.0, []
    for row in range(len(ioi)):
        end = int(ends[row])
        keys = range(first, end + 1)
        best = max(keys, key=lambda k: float(ioi.clean_run.patterns[1, row, 1, end, k]))
        others = [k for k in keys if k != best]
        wins = sum(float(score[row, best] > score[row, k]) for k in others)
        aucs.append(wins / len(others))
    assert auc == pytest.approx(sum(aucs) / len(aucs))
    assert low <= auc <= high


# --- by an LLM -------------------------------------------------------------------------------------


def guesser(number: int, body: dict[str, Any]):
    """Believes the label: predicts the unrepeated name if the label has "the name", else token 0."""
    prompt = body["messages"][0]["content"]
    label_text = prompt.split("<label>")[1].split("</label>")[0]
    tokens = re.findall(r'^(\d+) "(.*)"$', prompt.split("<tokens>")[1], re.M)
    words = [token.strip() for _, token in tokens]
    name = next(int(n) for n, t in tokens if words.count(t.strip()) == 1 and t.strip().istitle()
                and int(n) > 0)  # fmt: skip
    guess = {"tokens": [name] if "the name" in label_text else [0], "cutting": "lowers"}
    return completion(json.dumps(guess))


@pytest.fixture
def session(monkeypatch):
    with serve(guesser) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        session = Session("x", Templates([PROMPTS]), Llm(), ReplyCache())
        yield session, server


def test_predictions_from_the_labels_own_words(ioi, session):
    labels = [
        label("a1.h1", "name_mover", "a0.h1 makes it look at the name said once."),
        label("a1.h2", "other", "It looks at the first token."),
    ]
    llm_session, server = session
    verdicts = {
        v.label_id: v for v in prediction_llm(ioi, labels, ROLES, lambda: llm_session, questions=3)
    }
    good, bad = (verdicts[x.id] for x in labels)
    assert good.score > good.chance
    assert bad.score < bad.chance
    assert good.n == 3
    prompts = [body["messages"][0]["content"] for body in server.requests]
    assert not any(re.search(r"a\d+\.h\d+", prompt) for prompt in prompts)  # no component names
    assert len(prompts) == 6  # each label is asked about once: the cache answers the second time


def test_a_useless_predictor_decides_nothing(ioi, monkeypatch):
    with serve(
        lambda number, body: completion('{"tokens": [9999], "cutting": "lowers"}')
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        session = Session("x", Templates([PROMPTS]), Llm(), ReplyCache())
        labels = [label("a1.h1", "name_mover", "one"), label("a1.h2", "other", "two")]
        verdicts = list(prediction_llm(ioi, labels, ROLES, lambda: session))
    assert [(v.outcome, v.n) for v in verdicts] == [("inconclusive", 0)] * 2
