"""Test claims on prompts, and say what holds, what fails, and what explains a component."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..evidence.measurement import NotMeasurable
from ..evidence.variables import variable_names
from ..hookspecs import ClaimKind
from ..ids import canonical_json
from ..models.activations import give_back_memory
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.claim import Claim, ClaimResult, Vote
from .checks import SPECIFIC, WORST, Check, Checked, decide, discoveries
from .keys import relations
from .paths import CORRUPT
from .reading import SILENT

RATE = 0.05  # of false discoveries

Answer = Sequence[Check] | str
"""What the test of a claim measured, or why it could not."""


def check_claims(
    contrast: Contrast,
    claims: Sequence[Claim],
    kinds: Mapping[str, ClaimKind],
    *,
    other_corruptions: bool = True,
) -> list[ClaimResult]:
    """The result of each claim, in their order.

    A claim holds if every check holds and the claim is a discovery at a false discovery rate of
    5 % over all these claims (Benjamini and Hochberg 1995).

    Args:
        contrast: The prompts; for verdicts, those held out.
        claims: What is claimed, all at once, as tests share their runs of the model.
        kinds: The kinds of claims by name.
        other_corruptions: Whether to test what holds under other corruptions, too.
    """
    answers = _answers(contrast, claims, kinds, CORRUPT, others=True)
    groups = _groups(claims)
    checked = {
        claim: [decide(check, claim.node, groups[shared_key(claim)]) for check in answer]
        for claim, answer in answers.items()
        if not isinstance(answer, str)
    }
    tested = [claim for claim in claims if checked.get(claim)]
    p_values = [max(check.p for check in checked[claim]) for claim in tested]
    accepted = dict(zip(tested, discoveries(p_values, RATE)))
    votes = _votes(contrast, tested if other_corruptions else [], kinds, checked)
    results = []
    for claim in claims:
        kind, answer = kinds[claim.name], answers[claim]
        text = kind.says(claim.arguments)
        if isinstance(answer, str) or claim not in accepted:
            reason = answer if isinstance(answer, str) else "nothing was measured"
            result = ClaimResult(claim, text, kind.topic, "untested", reason=reason)
        else:
            parts = checked[claim]
            result = _result(claim, text, kind, parts, accepted[claim], votes.get(claim, {}))
        results.append(replace(result, also=_also(contrast, claim)))
    return results


QUERIES = {"at": "at", "to": "at", "source": None, "query": "query", "key": "query"}
"""Arguments that are places, and the argument from which each is seen; None: the last place."""


def _also(contrast: Contrast, claim: Claim) -> dict[str, list[str]]:
    """The relations in which the places of a claim stand, in every prompt."""
    places, arguments = contrast.place_names, claim.arguments
    also = {}
    for name, query in QUERIES.items():
        seen_from = places[-1] if query is None else arguments.get(query)
        if arguments.get(name) in places and seen_from in places:
            also[name] = relations(contrast, seen_from, arguments[name])
    return {name: found for name, found in also.items() if found}


def _answers(
    contrast: Contrast,
    claims: Sequence[Claim],
    kinds: Mapping[str, ClaimKind],
    prompts: str,
    *,
    others: bool,
) -> dict[Claim, Answer]:
    """What the tests of all kinds measure; why not, for those that cannot be tested."""
    by_kind: dict[str, list[Claim]] = defaultdict(list)
    for claim in dict.fromkeys(claims):
        by_kind[claim.name].append(claim)
    answers: dict[Claim, Answer] = {}
    for name, some in by_kind.items():
        fitting = [claim for claim in some if claim.node.kind in kinds[name].kinds]
        for claim in some:
            answers[claim] = f"{name} is no claim about a {claim.node.kind}"
        try:
            measured = kinds[name].test(contrast, fitting, prompts, others)
        except NotMeasurable as reason:
            measured = [str(reason)] * len(fitting)
        answers.update(zip(fitting, measured))
        if others:  # which run most
            give_back_memory()
    return answers


# --- who makes the same claim -------------------------------------------------------------------


def shared_key(claim: Claim) -> str:
    """What claims of a group have in common: all arguments but the size, and its sign."""
    arguments = {name: value for name, value in claim.arguments.items() if name != "by"}
    size = claim.arguments.get("by")
    return canonical_json([claim.name, arguments, size is not None and size < 0])


def _groups(claims: Sequence[Claim]) -> dict[str, list[Node]]:
    groups: dict[str, list[Node]] = defaultdict(list)
    for claim in claims:
        groups[shared_key(claim)].append(claim.node)
    return groups


# --- other corruptions --------------------------------------------------------------------------


def _votes(
    contrast: Contrast,
    claims: Sequence[Claim],
    kinds: Mapping[str, ClaimKind],
    checked: Mapping[Claim, Sequence[Checked]],
) -> dict[Claim, dict[str, Vote]]:
    """What each other corruption says of the claims that hold under the task's own.

    The task's schemes vote; where it has none, the prompts in which one variable differs.
    """
    votes: dict[Claim, dict[str, Vote]] = {claim: {} for claim in claims}
    holding = [
        claim
        for claim in claims
        if kinds[claim.name].corrupts and _worst(checked[claim]).outcome == "holds"
    ]
    for name in contrast.task.schemes or variable_names(contrast):
        for claim, answer in _answers(contrast, holding, kinds, name, others=False).items():
            if not isinstance(answer, str) and answer:
                votes[claim][name] = _vote(answer[-1], claim.node, checked[claim][-1])
    return votes


def _vote(check: Check, node: Node, before: Checked) -> Vote:
    """It is silent where the corruption does not surely touch what the claim speaks of."""
    low, high = check.measurement.interval(node)
    value = check.measurement.value(node)
    if low <= 0 <= high or abs(value) < SILENT * abs(before.value):
        return "silent"
    return "agrees" if value > 0 else "contradicts"


# --- results ------------------------------------------------------------------------------------


def _worst(checks: Sequence[Checked]) -> Checked:
    """The check that decides: the first with the worst outcome."""
    return min(checks, key=lambda check: WORST.index(check.outcome))


def _result(
    claim: Claim,
    text: str,
    kind: ClaimKind,
    checks: Sequence[Checked],
    accepted: bool,
    votes: Mapping[str, Vote],
) -> ClaimResult:
    deciding = _worst(checks)
    outcome = deciding.outcome
    if outcome == "holds" and (not accepted or "contradicts" in votes.values()):
        outcome = "unclear"
    percentiles = [check.percentile for check in checks if check.percentile is not None]
    return ClaimResult(
        claim,
        text,
        kind.topic,
        outcome,
        value=round(deciding.value, 6),
        low=round(deciding.low, 6),
        high=round(deciding.high, 6),
        chance=round(deciding.chance, 6),
        percentile=round(min(percentiles), 4) if percentiles else None,
        unit=deciding.check.unit,
        n=deciding.check.measurement.n,
        specific=bool(percentiles) and min(percentiles) >= SPECIFIC,
        votes=dict(votes),
        reason="; ".join(map(str, checks)),
    )
