"""Judge `claims`: does what a label's text claims hold on held-out prompts?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.claim import EXPLAINING
from acdc_explain.records.verdict import Verdict

from .card_tests import Test, claim_state, outcome_of, tested_claim, verdict_of
from .verdicts import without_numbers

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.claim import ClaimResult, ClaimsOf
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard
    from acdc_explain.records.verdict import Outcome

NO_CLAIMS = "the text comes without claims, so that nothing can test what it says"


def claims(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    results: ClaimsOf,
) -> Iterator[Verdict]:
    """`supported` if every claim of the label holds; `untested` if its free text has none.

    A text that says what the role says, and nothing else, is left to the judges of roles. Claims on
    where a component acts alone are at best `matters`.
    """
    for label in labels:
        if label.claims:
            yield _verdict(label, results.get(label.node, ()))
        elif not _says_the_role(label, roles.get(label.role)):
            yield without_numbers(label, "claims", NO_CLAIMS, "untested")


def _says_the_role(label: Label, card: RoleCard | None) -> bool:
    """Whether the text of a label says nothing beyond its role."""
    text = label.description.strip()
    return not text or (card is not None and text in (card.sentence, card.claim))


def _verdict(label: Label, about: Iterable[ClaimResult]) -> Verdict:
    by_claim = {result.claim: result for result in about}
    results = [by_claim[claim] for claim in label.claims if claim in by_claim]
    missing = [claim for claim in label.claims if claim not in by_claim]
    if missing:
        reason = f"{len(missing)} of its {len(label.claims)} claims could not be tested here"
        return without_numbers(label, "claims", reason)
    tests = [tested_claim(result) for result in results]
    outcome = _outcome(results, tests)
    return verdict_of(label, "claims", outcome, tests, "; ".join(map(str, tests)))


def _outcome(results: Iterable[ClaimResult], tests: list[Test]) -> Outcome:
    outcome = outcome_of(tests)
    says_more = any(x.topic in EXPLAINING and claim_state(x) == "holds" for x in results)
    return "matters" if outcome == "supported" and not says_more else outcome


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"claims": Judge(claims, reads_claims=True)}
