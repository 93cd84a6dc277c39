"""Which roles the rules propose, and how they describe components."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from acdc_explain_plugins.labelers.rules import Rules
from acdc_explain_plugins.roles import CARDS

from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult, Statement
from acdc_explain.records.evidence import CLAIMS, Evidence, suggestion
from acdc_explain.records.label import Proposal
from acdc_explain.records.question import Question
from acdc_explain.records.run.summary import SummaryQuestion
from acdc_explain.records.verdict import Verdict

from ..samples import make_run

ROLES = {card.name: card for card in CARDS}


def head() -> Node:
    circuit = make_run().circuit
    assert circuit is not None
    return next(node for node in circuit.components if node.kind == "head")


def asked(node: Node, claims: Sequence[Statement], measures: Sequence[Evidence] = ()) -> Question:
    """A question with claims that hold on the discovery prompts."""
    run = make_run()
    assert run.circuit is not None
    results = [
        ClaimResult(x.claim, x.text, x.topic, "holds", 0.5, 0.4, 0.6, 0.0, 1.0, "u", 4, also=x.also)
        for x in claims
    ]
    facts = {"suggested": [suggestion(result) for result in results]}
    evidence = [Evidence(run.circuit.id, node, CLAIMS, {}, facts), *measures]
    kinds = load_plugins().claims()
    return Question(node, run.circuit, evidence, ROLES, "", (), kinds=kinds)


def answered(question: Question) -> tuple[Proposal, ...]:
    rules = Rules()
    return asyncio.run(rules(question, rules.prompt(question, None), None)).proposals


def test_a_component_of_which_nothing_is_claimed_says_what_the_role_says():
    (proposal,) = answered(asked(head(), []))
    assert (proposal.role, proposal.claims) == ("other", [])
    assert proposal.description == ROLES["other"].sentence


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
    node = head()

    def about(name, topic, text, also=None, **arguments) -> Statement:
        return Statement(Claim(node, name, arguments), text, topic, also or {})

    reads = about("attends", "reads", "reads IO", {"to": ["answer"]}, at="END", to="IO")
    writes = about(
        "raises", "does", "raises it", {"source": ["answer"]}, what="answers", source="IO"
    )
    for claims, role in (([reads, writes], "name_mover"), ([reads], "other"), ([writes], "other")):
        (proposal,) = answered(asked(node, claims))
        assert proposal.role == role
        assert [claim.id for claim in proposal.claims] == [x.claim.id for x in claims]
        assert (
            proposal.description
            == "; ".join(x.text for x in claims).capitalize().replace("io", "IO") + "."
        )
        assert proposal.positions == ("END",)


def test_a_role_is_not_proposed_where_a_claim_says_the_opposite():
    """A head that raises the wrong answers stands in for no mover."""
    node = head()
    backup = [
        Statement(Claim(node, "copies", {}), "copies what it attends to", "weights"),
        Statement(
            Claim(node, "backs_up", {"components": ["a0.h0"], "what": "answers"}), "b", "does"
        ),
    ]
    arguments = {"what": "foils", "source": "S1"}
    opposite = Statement(Claim(node, "raises", arguments), "raises the foils", "does")
    for claims, role in ((backup, "backup_name_mover"), ([*backup, opposite], "other")):
        assert [proposal.role for proposal in answered(asked(node, claims))] == [role]
