"""The names that a labeler is shown, and the claims that it makes in them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from acdc_explain_plugins.labelers.llm import Answer, answer_schema, check_answer, proposals_of
from acdc_explain_plugins.labelers.shown import claim_aliases, template_variables

from acdc_explain.labeling.checked import can_be_made
from acdc_explain.labeling.language import Language
from acdc_explain.llm.templates import Templates
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim
from acdc_explain.records.question import Question

from .asking import Asker

PROMPTS = Path(__file__).parent.parent.parent / "prompts"


@pytest.fixture(scope="module")
def asker(mini: Any) -> Asker:
    task = load_plugins().tasks()["ioi"](mini, examples=8, seed=0)
    return Asker(Contrast(mini, task, task.discover))


@pytest.fixture(scope="module")
def question(asker: Asker) -> Question:
    return asker.about("a0.h1")


def prompt_of(question: Question) -> str:
    return Templates([PROMPTS]).render("describe", **template_variables(question))


def shown(question: Question, name: str) -> str:
    return question.shown[Node.parse(name)]


def test_the_prompt_is_blind_and_has_what_was_measured(question):
    prompt = prompt_of(question)
    assert not re.search(r"a\d+\.h\d+|\bm\d+\b|\bIO\b|\bS[12]\b|swap|mini", prompt)
    example = question.behavior.pair
    assert f"{example.clean[example.places['IO'][0]]}[P1]" in prompt
    assert "P4 the wrong answer, the token of P2" in prompt
    assert "V3 P4" in prompt  # the variable S2 changes the token there alone
    for alias, result in claim_aliases(question).items():
        assert f"\n{alias} {Language(question).says(result.claim)} [" in prompt
    assert re.search(r"Logits added to the foils, by the position read: P4 -0\.\d\d", prompt)
    assert re.search(r"it costs: .*END \+\d+\.\d %", prompt)
    assert re.search(r"It is read by: H\d+<q> \([+-]\d", prompt)
    assert f"gap {question.behavior.gap:.2f}" in prompt


def test_what_is_the_same_for_all_components_comes_first(asker, question):
    """So that servers cache it: more than half of the prompt, for heads."""
    prompts = [prompt_of(question), prompt_of(asker.about("a1.h1"))]
    same = 0
    while prompts[0][same] == prompts[1][same]:
        same += 1
    assert same > 0.5 * max(map(len, prompts))


def test_a_prompt_stays_short(asker):
    """At most 6,600 characters: about 1,500 tokens, where numbers take many."""
    lengths = [len(prompt_of(asker.about(str(node)))) for node in asker.circuit.components]
    assert 2000 < max(lengths) < 6600


def test_revealed_names_are_the_true_ones(asker):
    question = asker.about("a0.h1", blind=False)
    prompt = prompt_of(question)
    assert "[IO]" in prompt
    assert "attention head a0.h1." in prompt
    assert "Names mean nothing" not in prompt


def test_a_measure_that_cannot_be_measured_is_said(asker):
    from acdc_explain_plugins.collectors.attention import attention

    ((_, facts),) = attention(asker.contrast, [Node.parse("a0.h1")])
    assert "subject_attention" in facts["not_measured"]
    assert "subject_attention" not in facts["measures"]


def test_claims_in_shown_names_are_those_in_true_names(question):
    language = Language(question)
    mover = shown(question, "a1.h1")
    made = language.claim(
        {"claim": "feeds", "receiver": mover, "port": "q", "at": "END", "query": "END", "key": "P1",
         "by": 0.2}
    )  # fmt: skip
    arguments = {
        "receiver": "a1.h1",
        "port": "q",
        "at": "END",
        "query": "END",
        "key": "IO",
        "by": 0.2,
    }
    assert made == Claim(Node.parse("a0.h1"), "feeds", arguments)
    assert language.says(made) == f"at END turns {mover}<q> from END to P1 by 0.200"
    made = language.claim({"claim": "carries", "variable": "V3", "at": "P4",
                           "through": f"{mover}<q>", "by": None})  # fmt: skip
    assert made.arguments["variable"] == "S2"
    assert made.arguments["through"] == "a1.h1<q>"
    for result in question.suggested:
        entry = {x: language._shown(x, y) for x, y in result.claim.arguments.items()}
        assert language.claim({"claim": result.claim.name, **entry}) == result.claim
    words = f"{mover} reads P4 and V3; P9 and H99 are nothing."
    assert language.true_text(words) == "a1.h1 reads S2 and S2; P9 and H99 are nothing."


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"claim": "sings", "at": "END"}, "there is no claim 'sings'"),
        ({"claim": "acts", "at": "S2"}, "'S2' cannot be 'at'"),
        ({"claim": "acts"}, "at: Field required"),
        ({"claim": "acts", "at": "END", "loudly": 1}, "loudly"),
        (
            {"claim": "attends", "at": "END", "to": "P1", "through": "a1.h1<q>"},
            "cannot be 'through'",
        ),
        ({"claim": "raises", "what": "spirits", "source": None, "by": None}, "what"),
        ({"claim": "raises", "what": "answers", "source": None, "by": -1}, "by"),
        ({}, "there is no claim 'None'"),
    ],
)
def test_a_claim_that_cannot_be_made_is_refused_in_one_sentence(entry, complaint, question):
    with pytest.raises(ValueError, match=re.escape(complaint)) as refused:
        Language(question).claim(entry)
    assert "\n" not in str(refused.value)


def test_an_answer_becomes_labels_with_claims(question):
    answer = Answer(
        roles=["s_inhibition", "foil_suppressor"],
        claims=[{"claim": "C1"}, {"claim": "acts", "at": "END"}],
        description="x", confidence=0.9, evidence=["E1"],
    )  # fmt: skip
    check_answer(answer, question, ["E1"])
    proposals = proposals_of(answer, question)
    assert [proposal.role for proposal in proposals] == ["s_inhibition", "foil_suppressor"]
    first = claim_aliases(question)["C1"].claim
    for proposal in proposals:
        assert proposal.claims == [first, Claim(question.node, "acts", {"at": "END"})]
        assert "END" in proposal.positions
    (unnamed,) = proposals_of(answer.model_copy(update={"roles": []}), question)
    assert unnamed.role == "other"


def test_the_schema_allows_what_exists(question):
    schema = answer_schema(Answer, question, ["E1"])
    listed, *kinds = schema["properties"]["claims"]["items"]["anyOf"]
    assert listed["properties"]["claim"]["enum"] == list(claim_aliases(question))
    by_name = {kind["properties"]["claim"]["enum"][0]: kind["properties"] for kind in kinds}
    of_heads = {name for name, kind in load_plugins().claims().items() if "head" in kind.kinds}
    assert set(by_name) == of_heads
    others = by_name["backs_up"]["components"]
    assert shown(question, "a1.h1") in others["items"]["enum"]
    assert shown(question, str(question.node)) not in others["items"]["enum"]
    assert (others["type"], others["minItems"], others["maxItems"]) == ("array", 1, 8)
    assert by_name["acts"]["at"]["enum"] == ["rest", "P1", "P2", "P3", "P4", "END"]
    assert by_name["carries"]["variable"]["enum"] == ["V1", "V2", "V3", "V4"]
    readers = by_name["attends"]["through"]["enum"]
    assert f"{shown(question, 'a1.h1')}<q>" in readers
    assert not re.search(r"a\d|\bm\d|IO|S2", json.dumps(schema))
    assert "other" not in schema["properties"]["roles"]["items"]["enum"]


def test_an_mlp_has_no_claim_about_attention(asker):
    names = {
        kind["properties"]["claim"]["enum"][0] for kind in Language(asker.about("m0")).schemas()
    }
    assert names == {name for name, kind in load_plugins().claims().items() if "mlp" in kind.kinds}
    assert not names & {"attends", "copies", "suppresses", "maps"}


def test_without_a_pair_the_positions_of_the_task_are_there(question):
    from dataclasses import replace

    bare = replace(question, behavior=None)
    assert list(Language(bare).places) == list(question.position_names)
    assert "pairs;" not in prompt_of(bare)
    assert asyncio.run(_rules(bare)).proposals


async def _rules(question: Question) -> Any:
    from acdc_explain_plugins.labelers.rules import Rules

    rules = Rules()
    return await rules(question, rules.prompt(question, None), None)


@pytest.mark.parametrize(
    "wrong",
    [
        Claim(Node.parse("a0.h1"), "sings", {"at": "END"}),
        Claim(Node.parse("a0.h1"), "acts", {"at": 7}),
        Claim(Node.parse("a0.h1"), "acts", {}),
        Claim(Node.parse("m0"), "attends", {"at": "END", "to": "IO", "through": "metric"}),
    ],
)
def test_a_claim_that_no_kind_allows_is_not_made(wrong):
    kinds = load_plugins().claims()
    assert not can_be_made(wrong, kinds)
    assert can_be_made(Claim(Node.parse("a0.h1"), "acts", {"at": "END"}), kinds)


def test_the_evidence_of_another_component_becomes_ones_own(asker, question):
    """`bench firewall` deals it out anew; what is then claimed is about the component asked for."""
    from dataclasses import replace

    other = asker.about("a1.h1")
    dealt = replace(question, evidence=other.evidence)
    assert {result.node for result in dealt.suggested} == {question.node}
    answer = Answer(
        roles=[], claims=[{"claim": "C1"}], description="x", confidence=1, evidence=["E1"]
    )
    (proposal,) = proposals_of(answer, dealt)
    assert [claim.node for claim in proposal.claims] == [question.node]
