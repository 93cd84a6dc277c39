"""Judge `role_card`: do the requirements and the claims of the role's card hold?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.role import NO_ROLE
from acdc_explain.records.verdict import Verdict

from .card_tests import null_nodes, outcome_of, tests_of, verdict_of
from .verdicts import without_numbers

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.claim import ClaimsOf
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard


def role_card(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    claims: ClaimsOf,
    *,
    seed: int = 0,
) -> Iterator[Verdict]:
    """`supported` if all of the card surely holds on held-out prompts; see docs/roles.md.

    A label that names no role and makes claims is left to the judge of claims.
    """
    null = null_nodes(contrast, seed)
    for label in labels:
        card = roles.get(label.role)
        if label.role == NO_ROLE and label.claims:
            continue
        if card is None:
            reason = f"no role card for {label.role!r} is installed"
            yield without_numbers(label, "role_card", reason)
            continue
        tests, unmeasurable = tests_of(contrast, label.node, card, null, claims.get(label.node, ()))
        if unmeasurable:
            yield without_numbers(label, "role_card", unmeasurable)
        else:
            outcome = outcome_of(tests, card)
            yield verdict_of(label, "role_card", outcome, tests, "; ".join(map(str, tests)))


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"role_card": Judge(role_card, reads_claims=True)}
