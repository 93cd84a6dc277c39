"""Judge `transfer`: does what the role's card says hold under other corruptions of the prompts?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.role import NO_ROLE
from acdc_explain.records.verdict import Outcome, Verdict

from .card_tests import (
    Test,
    deciding_of,
    null_nodes,
    outcome_of,
    requirement_tests,
    verdict_of,
)

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import ClaimResult, ClaimsOf, Vote
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

SILENT = 0.5  # of a causal bound; below it the corruption does not affect the component


def transfer(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    claims: ClaimsOf,
    *,
    seed: int = 0,
) -> Iterator[Verdict]:
    """`supported` if a second scheme agrees and none contradicts; `inconclusive` if one does.

    Of a card's claims, their own votes count. Of its requirements, a scheme agrees if every one
    holds under it, and contradicts if one fails. It has no vote where one is unclear, nor where a
    causal one finds next to no effect: it does not change what the component reads. Labels without
    any vote get no verdict, nor do those that name no role: their claims are voted on when tested.
    Other components are measured only where a requirement is about the rank among them.
    """
    null = null_nodes(contrast, seed)
    for label in labels:
        card = roles.get(label.role)
        if card is None or (label.role == NO_ROLE and label.claims):
            continue
        if card.claims:
            verdict = _of_claims(label, card, claims.get(label.node, ()))
        else:
            ranked = any(option.is_ranked for x in card.requirements for option in x.options)
            verdict = _of_requirements(contrast, label, card, null if ranked else [])
        if verdict is not None:
            yield verdict


# --- claims -------------------------------------------------------------------------------------


def _of_claims(label: Label, card: RoleCard, claims: Sequence[ClaimResult]) -> Verdict | None:
    """By the votes on the claims that fit the card; None where all are silent."""
    votes: dict[str, set[Vote]] = {}
    for bundle in card.complete_bundles(claims):
        for result in (x for fitting in bundle for x in fitting):
            for scheme, vote in result.votes.items():
                votes.setdefault(scheme, set()).add(vote)
    said = {scheme: some - {"silent"} for scheme, some in votes.items()}
    said = {scheme: some for scheme, some in said.items() if some}
    if not said:
        return None
    against = [scheme for scheme, some in said.items() if "contradicts" in some]
    reason = "; ".join(
        f"{scheme}: {'contradicts' if scheme in against else 'agrees'}" for scheme in said
    )
    agree = (len(said) - len(against)) / len(said)
    return Verdict(
        label.id, "transfer", "inconclusive" if against else "supported", round(agree, 5), 0.0,
        None, len(said), reason, "corruptions that agree", "share", agree, agree,
    )  # fmt: skip


# --- requirements -------------------------------------------------------------------------------


def _of_requirements(
    contrast: Contrast, label: Label, card: RoleCard, null: list[Node]
) -> Verdict | None:
    if not card.tests("causal"):
        return None
    votes = {}
    for scheme, other in contrast.schemes.items():
        tests, unmeasurable = requirement_tests(other, label.node, card, null)
        if unmeasurable is None and _votes(tests):
            votes[scheme] = tests
    if not votes:
        return None
    outcomes = {scheme: outcome_of(tests, card) for scheme, tests in votes.items()}
    agree = all(outcome in ("supported", "matters") for outcome in outcomes.values())
    outcome: Outcome = next(iter(outcomes.values())) if agree else "inconclusive"
    worst = next((s for s, o in outcomes.items() if o != outcome), next(iter(votes)))
    reason = "; ".join(
        f"{scheme}: {of_scheme} ({deciding_of(votes[scheme])})"
        for scheme, of_scheme in outcomes.items()
    )
    return verdict_of(label, "transfer", outcome, votes[worst], reason)


def _votes(tests: Sequence[Test]) -> bool:
    """Whether a scheme agrees with a label or contradicts it, given the tests under it."""
    failed = [test for test in tests if test.state == "fails"]
    if not failed:
        return all(test.state == "holds" for test in tests)
    causal = [test for test in failed if test.tier == "causal" and test.value is not None]
    return not any(
        abs(test.value or 0.0) <= SILENT * max(map(abs, (*test.bounds, 0.0))) for test in causal
    )


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"transfer": Judge(transfer, reads_claims=True)}
