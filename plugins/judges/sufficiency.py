"""Judge `sufficiency`: how much of a head's effect is left if it reads only what a label names?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Outcome, Verdict

from ..claims.reads import attends
from .verdicts import said_by

if TYPE_CHECKING:
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import Claim, ClaimsOf
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

ENOUGH, TOO_LITTLE = 0.5, 0.2  # of the effect
TOO_MUCH = 1.5  # of the effect: what the label leaves out works against it, which is said


def sufficiency(
    contrast: Contrast,
    labels: Iterable[Label],
    roles: Mapping[str, RoleCard],
    claims: ClaimsOf,
) -> Iterator[Verdict]:
    """For roles that claim where a head attends, where a claim of the head says the same.

    The bounds must be met by the whole 95 % interval. `supported` if at least half of the effect on
    the claim's reader survives, and more than at random places; `causal_only` if less than a fifth
    survives: the head matters, but not by attending there.
    """
    chosen = {label: _claimed(label, roles, claims) for label in labels}
    tested = [(label, claim) for label, claim in chosen.items() if claim is not None]
    checks = attends(contrast, [claim for _, claim in tested], "corrupt", False) if tested else ()
    for (label, claim), some in zip(tested, checks):
        if not isinstance(some, str):
            yield _verdict(label, claim.arguments["through"], some[-1].measurement)


def _claimed(label: Label, roles: Mapping[str, RoleCard], claims: ClaimsOf) -> Claim | None:
    """The claim about attention that a label with a role makes."""
    card = roles.get(label.role)
    said = said_by(label, roles, claims) if card is not None and card.claims else []
    return next((claim for claim in said if claim.name == "attends"), None)


def _verdict(label: Label, reader: str, measurement: Measurement) -> Verdict:
    node: Node = label.node
    kept, (low, high) = measurement.value(node), measurement.interval(node)
    chance = measurement.chance(node)
    outcome, remark = _outcome(low, high, measurement.beyond_chance(node)[0][0] > 0)
    return Verdict(
        label_id=label.id,
        judge="sufficiency",
        outcome=outcome,
        score=round(kept, 5),
        chance=round(chance, 5),
        percentile=None,
        n=measurement.n,
        reason=(
            f"kept to the places that the label names, {kept:.0%} [{low:.0%}, {high:.0%}] of the "
            f"effect on {reader} survives; kept to as many random places, {chance:.0%}{remark}"
        ),
        measure="share_kept",
        unit="share of the effect",
        low=round(low, 5),
        high=round(high, 5),
    )


def _outcome(low: float, high: float, beyond_chance: bool) -> tuple[Outcome, str]:
    """The outcome and a remark for the reason, often empty."""
    remark = "; what the label leaves out works against it" if low > TOO_MUCH else ""
    if high < TOO_LITTLE:
        return "causal_only", remark
    return ("supported" if low >= ENOUGH and beyond_chance else "inconclusive"), remark


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"sufficiency": Judge(sufficiency, reads_claims=True)}
