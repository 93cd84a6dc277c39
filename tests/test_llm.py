"""The LLM labeler against a scripted server: good replies become labels, bad ones exchanges."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from acdc_explain_plugins.describe import Describe

from acdc_explain.circuit import Node
from acdc_explain.errors import UserError
from acdc_explain.evidence import Evidence
from acdc_explain.exchange import UnusableReply
from acdc_explain.llm import Llm
from acdc_explain.plugins import load_plugins
from acdc_explain.question import Question
from acdc_explain.rendering import Templates

from .samples import make_run
from .scripted_server import completion, failure, serve

SECRET = "sk-very-secret-1234567890"
PROMPTS = Path(__file__).parent.parent / "prompts"

GOOD = {
    "role": "induction",
    "description": "It copies.",
    "positions": ["END"],
    "confidence": 0.7,
    "evidence": ["E1"],
}


def question() -> Question:
    run = make_run()
    assert run.circuit is not None
    node = Node.parse("a1.h0")
    measures = {"copying": {"value": 0.5, "percentile": 0.9}}
    attention = {"measures": {"induction_attention": {"value": 0.8, "percentile": 1.0}},
                 "between_positions": {"END to S1": 0.7}}  # fmt: skip
    top = [{"text": "a </evidence> b", "token": " b", "attends_to": " a", "distance": 1, "size": 1}]
    facts = {
        "weights": {"measures": measures},
        "attention": attention,
        "direct_logits": {"measures": {"direct_effect": {"value": 1.5, "percentile": 0.9}},
                          "promoted": [" Mary"], "suppressed": [" John"]},
        "patching": {"measures": {"ablation_effect": {"value": 0.3}}},
        "top_examples": {"corpus": "own", "top": top},
        "empty": {},
    }  # fmt: skip
    evidence = [Evidence(run.circuit.id, node, name, {}, f) for name, f in sorted(facts.items())]
    return Question(node, run.circuit, evidence, load_plugins().roles(), "Names.", ("S1", "END"))


@pytest.fixture
def ask(monkeypatch):
    """An LLM behind a scripted server; returns what to call with the script."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("acdc_explain.llm.RETRIES", 2)

    def make(url: str) -> Llm:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        return Llm("scripted", Templates([PROMPTS]))

    return make


def test_without_a_key_it_says_what_to_do():
    with pytest.raises(UserError, match="set OPENAI_API_KEY, or OPENAI_BASE_URL"):
        Llm("x", Templates([PROMPTS]))


class TestPrompt:
    def prompt(self) -> str:
        class Renderer:
            llm = "none"
            render = Templates([PROMPTS]).render

        return Describe().prompt(question(), Renderer())

    def test_every_piece_of_evidence_is_in_it(self):
        prompt = self.prompt()
        for shown in ("0.8", "END to S1", '[" Mary"]', "0.3", "0.5", "1 tokens back", "Names."):
            assert shown in prompt
        assert [f'id="E{n}"' in prompt for n in range(1, 7)] == [True] * 5 + [False]

    def test_it_is_blind(self):
        """No layer or head number, no model name."""
        assert not re.search(r"a\d+\.h\d+|\bm\d+\b|layer \d|head \d|mini|gpt|smol", self.prompt())

    def test_the_vocabulary_is_in_it(self):
        for name, card in load_plugins().roles().items():
            assert (f"- {name}: " in self.prompt()) == (card.kind != "mlp")


def test_a_good_reply_becomes_a_label_with_its_exchange(ask):
    with serve(lambda number, body: completion(json.dumps(GOOD))) as server:
        llm, labeler, asked = ask(server.url), Describe(), question()
        proposals, exchange = labeler(asked, labeler.prompt(asked, llm), llm)
    (proposal,) = proposals
    assert proposal.role == "induction"
    assert proposal.confidence == 0.7
    (cited,) = [e for e in asked.evidence if e.id == proposal.evidence_ids[0]]
    assert cited.collector == "attention"
    assert (exchange.tokens_in, exchange.tokens_out, exchange.error) == (100, 20, None)
    (request,) = server.requests
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["role"]["enum"] == [
        name for name, card in load_plugins().roles().items() if card.kind != "mlp"
    ]
    assert schema["properties"]["evidence"]["items"]["enum"] == ["E1", "E2", "E3", "E4", "E5"]


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (completion("no json"), "unusable reply"),
        (completion(json.dumps(GOOD)[:40]), "unusable reply"),
        (completion(json.dumps({**GOOD, "role": "wizard"})), "role 'wizard' is not in the vocabulary"),
        (completion(json.dumps({**GOOD, "evidence": ["E9"]})), "cited evidence 'E9' does not exist"),
        (completion(json.dumps({**GOOD, "evidence": []})), "unusable reply: evidence"),
        (completion(json.dumps({**GOOD, "positions": ["X"]})), "position 'X' does not exist"),
        (completion(json.dumps({**GOOD, "confidence": 7})), "unusable reply: confidence"),
        (completion(json.dumps({**GOOD, "extra": 1})), "unusable reply: extra"),
        (completion(json.dumps({**GOOD, "description": "x" * 10**6})), "unusable reply: description"),
        (completion(json.dumps(GOOD), finish="length"), "cut off"),
        (completion(None), "empty"),
        (completion(None, refusal="I cannot"), "refused"),
        ((200, {}, b'{"choices": []}'), "no choices"),
        ((200, {}, b"not json at all"), ""),
        ((200, {}, b"[1, 2]"), ""),
        (failure(401), "AuthenticationError"),
        (failure(500), "InternalServerError"),
    ],
)  # fmt: skip
def test_a_bad_reply_is_an_exchange_with_an_error(ask, reply, complaint):
    with serve(lambda number, body: reply) as server:
        llm, labeler, asked = ask(server.url), Describe(), question()
        with pytest.raises(UnusableReply) as caught:
            labeler(asked, labeler.prompt(asked, llm), llm)
    exchange = caught.value.exchange
    assert complaint in exchange.error
    assert exchange.prompt
    assert SECRET not in json.dumps([exchange.error, exchange.reply, exchange.prompt])
    assert server.keys[0] == f"Bearer {SECRET}"  # it is sent, and kept nowhere


def test_busy_servers_are_asked_again(ask):
    def script(number: int, body: dict):
        return failure(429, Retry_After="0") if number < 2 else completion(json.dumps(GOOD))

    with serve(script) as server:
        llm, labeler, asked = ask(server.url), Describe(), question()
        proposals, _ = labeler(asked, labeler.prompt(asked, llm), llm)
    assert len(server.requests) == 3
    assert proposals[0].role == "induction"


def test_a_server_without_schemas_is_asked_without(ask):
    def script(number: int, body: dict):
        return failure(400) if "response_format" in body else completion(json.dumps(GOOD))

    with serve(script) as server:
        llm, labeler, asked = ask(server.url), Describe(), question()
        for _ in range(2):
            labeler(asked, labeler.prompt(asked, llm), llm)
    assert ["response_format" in body for body in server.requests] == [True, False, False]


def test_a_misspelt_variable_is_an_error(tmp_path):
    from jinja2 import UndefinedError

    (tmp_path / "t.j2").write_text("{{ nmae }}")
    with pytest.raises(UndefinedError, match="nmae"):
        Templates([tmp_path]).render("t", name="x")


def test_templates_cannot_reach_python(tmp_path):
    from jinja2.exceptions import SecurityError

    (tmp_path / "t.j2").write_text("{{ x.__class__.__mro__ }}")
    with pytest.raises(SecurityError):
        Templates([tmp_path]).render("t", x=1)


def test_rules_answer_the_same_question_the_same_way():
    from acdc_explain_plugins.rules import Rules

    asked, rules = question(), Rules()
    first, _ = rules(asked, rules.prompt(asked, None), None)
    again, _ = rules(asked, rules.prompt(asked, None), None)
    assert first == again
    changed = replace(asked, evidence=asked.evidence[1:])
    assert rules.prompt(asked, None) != rules.prompt(changed, None)
