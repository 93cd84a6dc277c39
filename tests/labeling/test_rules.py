"""How the rules describe components without a role."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from acdc_explain_plugins.labelers.rules import Rules
from acdc_explain_plugins.roles import CARDS

from acdc_explain.records.claim import Claim, Statement
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.question import Question
from acdc_explain.records.run.summary import SummaryQuestion
from acdc_explain.records.verdict import Verdict

from ..samples import make_run

ROLES = {card.name: card for card in CARDS}


def described(**measures: tuple[float, float]) -> str:
    """The description of a head with these values and percentiles, and no role."""
    run = make_run()
    assert run.circuit is not None
    node = next(node for node in run.circuit.components if node.kind == "head")
    facts = {"measures": {k: {"value": v, "percentile": p} for k, (v, p) in measures.items()}}
    evidence = [Evidence(run.circuit.id, node, "x", {}, facts)]
    question = Question(node, run.circuit, evidence, ROLES, "", ())
    rules = Rules()
    answer = asyncio.run(rules(question, rules.prompt(question, None), None))
    (proposal,) = answer.proposals
    assert proposal.role == "other"
    return proposal.description


def test_an_unnamed_component_is_described_by_what_it_does():
    description = described(
        ablation_effect=(0.12, 0.9), sink_attention=(0.5, 0.95), induction_attention=(0.01, 0.02),
        fixed_offset_attention=(0.01, 0.99), direct_effect=(-0.8, 0.03),
    )  # fmt: skip
    assert description == (
        "Head without a known role; without it 12% of the gap is lost; more than most: "
        "direct effect -0.80 (above 3%), sink attention 0.50 (above 95%)."
    )


def test_nothing_stands_out():
    assert described(ablation_effect=(0.02, 0.5), copying=(0.2, 0.6)) == (
        "Head without a known role; without it 2% of the gap is lost."
    )


@pytest.mark.parametrize("outcome", ["matters", "refuted"])
def test_the_summary_says_of_an_unnamed_component_what_the_table_says(outcome):
    run = make_run()
    label = replace(run.labels[0], role="other")
    verdict = Verdict(label.id, "role_card", outcome, 0.5, 0.0, None, 8, "")
    assert run.circuit is not None
    question = SummaryQuestion.of(run.circuit, "", [label], [verdict], {}, {})
    sentences, _ = asyncio.run(Rules().summarise(question, None))
    (about,) = [s.text for s in sentences if label.node in s.nodes]
    assert ("matter here" in about) is (outcome == "matters")
    assert about.startswith("No role of") is (outcome == "refuted")


def test_a_role_whose_claims_are_suggested_at_one_position_is_proposed():
    run = make_run()
    assert run.circuit is not None
    node = next(node for node in run.circuit.components if node.kind == "head")

    def about(name, topic, text, also=None, **arguments) -> Statement:
        return Statement(Claim(node, name, arguments), text, topic, also or {})

    reads = about("attends", "reads", "reads IO", {"to": ["answer"]}, at="END", to="IO")
    writes = about(
        "raises", "does", "raises it", {"source": ["answer"]}, what="answers", source="IO"
    )
    for claims, role in (([reads, writes], "name_mover"), ([reads], "other"), ([writes], "other")):
        question = Question(node, run.circuit, [], ROLES, "", (), claims=claims)
        rules = Rules()
        answer = asyncio.run(rules(question, rules.prompt(question, None), None))
        (proposal,) = answer.proposals
        assert proposal.role == role
        assert (
            proposal.description
            == "; ".join(x.text for x in claims).capitalize().replace("io", "IO") + "."
        )
        assert proposal.positions == ("END",)


def test_a_role_is_not_proposed_where_a_claim_says_the_opposite():
    """A head that raises the wrong answers stands in for no mover."""
    run = make_run()
    assert run.circuit is not None
    node = next(node for node in run.circuit.components if node.kind == "head")
    facts = {"measures": {x: {"value": 0.9, "percentile": 0.9} for x in ("copying", "stands_in")}}
    evidence = [Evidence(run.circuit.id, node, "x", {}, facts)]
    arguments = {"what": "foils", "source": "S1"}
    opposite = Statement(Claim(node, "raises", arguments), "raises the foils", "does")
    for claims, role in (([], "backup_name_mover"), ([opposite], "other")):
        question = Question(node, run.circuit, evidence, ROLES, "", (), claims=claims)
        rules = Rules()
        answer = asyncio.run(rules(question, rules.prompt(question, None), None))
        assert [proposal.role for proposal in answer.proposals] == [role]
