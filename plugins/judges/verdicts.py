"""What several judges need to write a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from acdc_explain.records.verdict import Verdict

if TYPE_CHECKING:
    from acdc_explain.records.claim import Claim, ClaimsOf
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard
    from acdc_explain.records.verdict import Outcome


def without_numbers(
    label: Label, judge: str, reason: str, outcome: Outcome = "inconclusive"
) -> Verdict:
    """A verdict where nothing could be measured."""
    return Verdict(label.id, judge, outcome, None, None, None, 0, reason)


def upper_median(values: Sequence[float]) -> float:
    """The middle value, or the larger of the two in the middle."""
    return sorted(values)[len(values) // 2]


def share_below(value: float, others: Sequence[float]) -> float:
    """The share of the others (at least one) that are smaller than the value."""
    return sum(other < value for other in others) / len(others)


def said_by(label: Label, roles: Mapping[str, RoleCard], claims: ClaimsOf) -> list[Claim]:
    """The claims of a label; of one without any, those by which the component has the role."""
    card = roles.get(label.role)
    if label.claims or card is None:
        return list(label.claims)
    return [result.claim for result in card.grounds(claims.get(label.node, ()))]
