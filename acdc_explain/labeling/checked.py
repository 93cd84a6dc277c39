"""Checks of what plugins return. Each raises Unfit, with a message that says what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..guard import Unfit
from ..ids import canonical_json
from ..llm.reply import storable
from ..records.circuit import Node
from ..records.claim import Claim
from ..records.label import Label, LabelerReply, Proposal
from ..records.question import Claimable, Question
from ..records.run.summary import Sentence
from ..records.verdict import WORST_FIRST, Verdict


def facts_as_stored(facts: Any) -> dict[str, Any]:
    """The facts as they will be read from the store, where they are JSON."""
    if not isinstance(facts, Mapping):
        raise Unfit(f"its facts are {_short(facts)}, which is no mapping")
    try:
        text = canonical_json(facts)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unfit(f"its facts are no JSON ({error})") from error
    _check_text(text)
    stored: dict[str, Any] = json.loads(text)
    return stored


def check_facts(item: Any, nodes: Collection[Node]) -> tuple[Node, dict[str, Any]]:
    """Check what a collector yielded: a pair of one of these nodes and its facts."""
    if not isinstance(item, tuple) or len(item) != 2:
        raise Unfit(f"it yielded {_short(item)}, which is no pair of a node and facts")
    node, facts = item
    if not isinstance(node, Node) or node not in nodes:
        raise Unfit(f"it yielded facts of {_short(node)}, which it was not asked about")
    stored = facts_as_stored(facts)
    measures = stored.get("measures", {})
    if not isinstance(measures, dict) or not all(map(_is_measure, measures.values())):
        raise Unfit(f"the measures of {node} are not each an object with a number as value")
    return node, stored


def _is_measure(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    percentile, null = entry.get("percentile", 0.5), entry.get("null") or []
    numbers = [entry.get("value"), 0.5 if percentile is None else percentile]
    return isinstance(null, list) and all(map(_is_number, [*numbers, *null]))


def check_reply(reply: Any, question: Question) -> LabelerReply:
    """Check what a labeler answered to a question."""
    if not isinstance(reply, LabelerReply) or not isinstance(reply.proposals, (tuple, list)):
        raise Unfit(f"it answered {_short(reply)}, which is no LabelerReply")
    evidence_ids = {evidence.id for evidence in question.evidence}
    for proposal in reply.proposals:
        _check_proposal(proposal, evidence_ids, question.roles)
        _check_claims(proposal.claims, question)
    return reply


def _check_claims(claims: Any, question: Question) -> None:
    if not isinstance(claims, (tuple, list)):
        raise Unfit(f"the claims of a proposal are {_short(claims)}, which is no list")
    for claim in claims:
        if not isinstance(claim, Claim) or claim.node != question.node:
            raise Unfit(f"it claimed {_short(claim)}, which is no Claim about {question.node}")
        if not can_be_made(claim, question.kinds):
            raise Unfit(f"it claimed {_short(claim)}, which no kind of claim allows")


def can_be_made(claim: Claim, kinds: Mapping[str, Claimable]) -> bool:
    """Whether a claim is of a known kind for its component, with all arguments as they must be."""
    kind = kinds.get(claim.name)
    if kind is None or claim.node.kind not in kind.kinds:
        return False
    try:
        return kind.claim(claim.node, claim.name, claim.arguments) == claim
    except ValueError:
        return False


def _check_proposal(proposal: Any, evidence_ids: Collection[str], roles: Collection[str]) -> None:
    if not isinstance(proposal, Proposal):
        raise Unfit(f"it proposed {_short(proposal)}, which is no Proposal")
    if proposal.role not in roles:
        raise Unfit(f"it proposed the role {_short(proposal.role)}, which nobody knows")
    cited = [*proposal.evidence_ids, *proposal.positions]
    if not all(isinstance(text, str) for text in (proposal.description, *cited)):
        raise Unfit("description, positions and evidence_ids of a proposal must be texts")
    if unknown := [name for name in proposal.evidence_ids if name not in evidence_ids]:
        raise Unfit(f"it cited the evidence {_short(unknown[0])}, which it was not shown")
    if not _is_number(proposal.confidence) or not 0 <= proposal.confidence <= 1:
        raise Unfit(f"its confidence is {_short(proposal.confidence)}, not 0 to 1")
    _check_text(proposal.description + "".join(cited))


def check_verdict(item: Any, judge: str, labels: Mapping[str, Label]) -> Verdict:
    """Check what a judge yielded about these labels, which are by id."""
    if not isinstance(item, Verdict):
        raise Unfit(f"it yielded {_short(item)}, which is no Verdict")
    if item.label_id not in labels or item.judge != judge:
        raise Unfit(
            f"it yielded a verdict of {_short(item.judge)} on the label {_short(item.label_id)}, "
            "which it was not asked for"
        )
    if item.outcome not in WORST_FIRST:
        raise Unfit(f"its outcome is {_short(item.outcome)}, not {' or '.join(WORST_FIRST)}")
    numbers = [
        number
        for number in (item.score, item.chance, item.percentile, item.low, item.high)
        if number is not None
    ]
    if not all(map(_is_number, numbers)) or type(item.n) is not int:
        raise Unfit(
            "score, chance, percentile, low, high and n of a verdict must be finite numbers"
        )
    for text in (item.reason, item.measure or "", item.unit or ""):
        if not isinstance(text, str):
            raise Unfit("reason, measure and unit of a verdict must be texts")
        _check_text(text)
    return item


def check_sentences(reply: Any, nodes: Collection[Node]) -> list[Sentence]:
    """Check a labeler's sentences about a circuit with these nodes."""
    if isinstance(reply, (str, bytes)) or not isinstance(reply, Iterable):
        raise Unfit(f"its summary is {_short(reply)}, which are no sentences")
    sentences = list(reply)
    for sentence in sentences:
        if not isinstance(sentence, Sentence) or not isinstance(sentence.text, str):
            raise Unfit(f"its summary has {_short(sentence)}, which is no Sentence")
        if unknown := [node for node in sentence.nodes if node not in nodes]:
            raise Unfit(f"its summary cites {_short(unknown[0])}, which is not in the circuit")
        _check_text(sentence.text)
    return sentences


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_text(text: str) -> None:
    if not storable(text):
        raise Unfit(f"{_short(text)} has characters that cannot be written")


def _short(value: Any) -> str:
    return ascii(value)[:80]
