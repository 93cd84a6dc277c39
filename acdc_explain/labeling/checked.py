"""What plugins give back, checked before anything is made of it. Raises Unfit."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..guard import Unfit
from ..ids import canonical_json
from ..llm.reply import storable
from ..records.circuit import Node
from ..records.label import Label, LabelerReply, Proposal
from ..records.run.summary import Sentence
from ..records.verdict import WORST_FIRST, Verdict


def stored_facts(facts: Any) -> dict[str, Any]:
    """Facts as they will be read from the store: JSON."""
    if not isinstance(facts, Mapping):
        raise Unfit(f"its facts are {_shown(facts)}, which is no mapping")
    try:
        text = canonical_json(facts)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unfit(f"its facts are no JSON ({error})") from error
    found: dict[str, Any] = json.loads(_text(text))
    return found


def collected(item: Any, nodes: Collection[Node]) -> tuple[Node, dict[str, Any]]:
    """A node and its facts, from a collector that was given these nodes."""
    if not isinstance(item, tuple) or len(item) != 2:
        raise Unfit(f"it yielded {_shown(item)}, which is no pair of a node and facts")
    node, facts = item
    if not isinstance(node, Node) or node not in nodes:
        raise Unfit(f"it yielded facts of {_shown(node)}, which it was not asked about")
    found = stored_facts(facts)
    measures = found.get("measures", {})
    if not isinstance(measures, dict) or not all(map(_is_measure, measures.values())):
        raise Unfit(f"the measures of {node} are not each an object with a number as value")
    return node, found


def _is_measure(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    percentile, null = entry.get("percentile", 0.5), entry.get("null") or []
    numbers = [entry.get("value"), 0.5 if percentile is None else percentile]
    return isinstance(null, list) and all(map(_is_number, [*numbers, *null]))


def proposed(answer: Any, evidence_ids: Collection[str], roles: Collection[str]) -> LabelerReply:
    """What a labeler answered."""
    if not isinstance(answer, LabelerReply) or not isinstance(answer.proposals, (tuple, list)):
        raise Unfit(f"it answered {_shown(answer)}, which is no LabelerReply")
    for proposal in answer.proposals:
        if not isinstance(proposal, Proposal):
            raise Unfit(f"it proposed {_shown(proposal)}, which is no Proposal")
        if proposal.role not in roles:
            raise Unfit(f"it proposed the role {_shown(proposal.role)}, which nobody knows")
        cited = [*proposal.evidence_ids, *proposal.positions]
        if not all(isinstance(text, str) for text in (proposal.description, *cited)):
            raise Unfit("description, positions and evidence_ids of a proposal must be texts")
        if strange := [name for name in proposal.evidence_ids if name not in evidence_ids]:
            raise Unfit(f"it cited the evidence {_shown(strange[0])}, which it was not shown")
        if not _is_number(proposal.confidence) or not 0 <= proposal.confidence <= 1:
            raise Unfit(f"its confidence is {_shown(proposal.confidence)}, not 0 to 1")
        _text(proposal.description + "".join(cited))
    return answer


def verdict(item: Any, judge: str, labels: Mapping[str, Label]) -> Verdict:
    """What a judge yielded about labels that it was given, by their ids."""
    if not isinstance(item, Verdict):
        raise Unfit(f"it yielded {_shown(item)}, which is no Verdict")
    if item.label_id not in labels or item.judge != judge:
        raise Unfit(
            f"it yielded a verdict of {_shown(item.judge)} on the label {_shown(item.label_id)}, "
            "which it was not asked for"
        )
    if item.outcome not in WORST_FIRST:
        raise Unfit(f"its outcome is {_shown(item.outcome)}, not {' or '.join(WORST_FIRST)}")
    found = (item.score, item.chance, item.percentile, item.low, item.high)
    if not all(map(_is_number, (x for x in found if x is not None))) or type(item.n) is not int:
        raise Unfit(
            "score, chance, percentile, low, high and n of a verdict must be finite numbers"
        )
    for text in (item.reason, item.measure or "", item.unit or ""):
        if not isinstance(text, str):
            raise Unfit("reason, measure and unit of a verdict must be texts")
        _text(text)
    return item


def sentences(told: Any, nodes: Collection[Node]) -> list[Sentence]:
    """What a labeler says of a circuit of these nodes."""
    if isinstance(told, (str, bytes)) or not isinstance(told, Iterable):
        raise Unfit(f"it told {_shown(told)}, which are no sentences")
    found = list(told)
    for one in found:
        if not isinstance(one, Sentence) or not isinstance(one.text, str):
            raise Unfit(f"it told {_shown(one)}, which is no Sentence")
        if strange := [node for node in one.nodes if node not in nodes]:
            raise Unfit(f"it told of {_shown(strange[0])}, which is not in the circuit")
        _text(one.text)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(text: str) -> str:
    if not storable(text):
        raise Unfit(f"{_shown(text)} has characters that cannot be written")
    return text


def _shown(value: Any) -> str:
    return ascii(value)[:80]
