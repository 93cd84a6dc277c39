"""The prediction judges: a label's own words predict its head better than another label's."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from acdc_explain_plugins.judges.prediction import Game, prediction
from acdc_explain_plugins.judges.prediction_llm import prediction_llm

from acdc_explain.llm.batch import RecordingTransport
from acdc_explain.llm.client import Llm
from acdc_explain.llm.session import Session
from acdc_explain.llm.templates import Templates
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult
from acdc_explain.records.label import Label

from ..llm.scripted_server import completion, serve
from ..llm.test_client import PROMPTS, ReplyCache

ROLES = load_plugins().roles()


@pytest.fixture(scope="module")
def ioi(mini) -> Contrast:
    task = load_plugins().tasks()["ioi"](mini, examples=4, seed=0)
    return Contrast(mini, task, task.held_out)


def label(
    node: str, role: str, description: str = "x", *claims: Claim, at: tuple[str, ...] = ()
) -> Label:
    return Label("c", Node.parse(node), "llm", role, at, description, 0.5, (), None, claims)


def attends(node: str, at: str, to: str) -> Claim:
    return Claim(Node.parse(node), "attends", {"at": at, "to": to, "through": "metric"})


def lowers(node: str) -> Claim:
    return Claim(Node.parse(node), "lowers", {"what": "answers", "source": None, "by": None})


OTHERS = [
    label("a1.h0", "name_mover", "x", attends("a1.h0", "END", "IO")),
    label("a1.h0", "induction", "x", attends("a1.h0", "END", "S1+1")),
    label("a1.h0", "previous_token", "x", attends("a1.h0", "END", "previous")),
]


@pytest.mark.parametrize(
    ("role", "claims", "outcome"),
    [
        ("name_mover", [attends("a1.h1", "END", "IO")], "supported"),
        ("s_inhibition", [attends("a0.h1", "END", "S2")], "supported"),
        ("other", [attends("a1.h1", "END", "answer")], "supported"),
        ("previous_token", [attends("a1.h1", "END", "previous")], "causal_only"),
        ("s_inhibition", [attends("a1.h1", "END", "S2")], "causal_only"),
        # right attention, opposite effect
        ("negative_name_mover", [attends("a1.h1", "END", "IO"), lowers("a1.h1")], "pattern_only"),
    ],
)
def test_predictions_from_claims(role, claims, outcome, ioi):
    mine = label(str(claims[0].node), role, "x", *claims)
    verdicts = {v.label_id: v for v in prediction(ioi, [mine, *OTHERS], ROLES, {})}
    verdict = verdicts[mine.id]
    assert verdict.outcome == outcome, verdict.reason
    if outcome != "causal_only":
        assert verdict.chance < 0.7
        assert verdict.score > verdict.chance + 0.2


def test_a_label_without_claims_is_tested_by_those_of_its_role(ioi):
    result = ClaimResult(attends("a1.h1", "END", "IO"), "", "reads", "holds",
                         also={"to": ["answer"]})  # fmt: skip
    moves = Claim(Node.parse("a1.h1"), "raises", {"what": "answers", "source": "IO", "by": 1.0})
    does = ClaimResult(moves, "", "does", "holds", also={"source": ["answer"]})
    about = {Node.parse("a1.h1"): [result, does]}
    (verdict,) = prediction(ioi, [label("a1.h1", "name_mover", "")], ROLES, about)
    assert verdict.outcome == "supported", verdict.reason
    assert list(prediction(ioi, [label("a1.h1", "name_mover", "")], ROLES, {})) == []


def test_labels_that_say_nothing_of_attention_get_no_verdict(ioi):
    labels = [label("a1.h1", "other"), label("a1.h1", "other", "x", lowers("a1.h1")),
              label("m0", "logit_booster")]  # fmt: skip
    assert list(prediction(ioi, labels, ROLES, {})) == []


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


def test_what_waits_for_a_batch_file_has_no_verdict(ioi):
    recording = RecordingTransport()
    session = Session("x", Templates([PROMPTS]), recording, ReplyCache())
    labels = [
        label("a1.h1", "name_mover", "one", at=("END", "S2")),
        label("a1.h2", "other", "two", at=("END",)),
    ]
    assert list(prediction_llm(ioi, labels, ROLES, lambda: session, questions=4)) == []
    prompts = [request.prompt for request in recording.requests.values()]
    lengths = {prompt.split("<tokens>")[1].count("\n") for prompt in prompts}
    assert len(lengths) > 1  # at S2 the prompt ends there
    assert len(prompts) == 8  # the first label at two positions of two prompts, and four prompts
