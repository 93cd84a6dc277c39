"""Claim `acts`: where a component acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ClaimKind

if TYPE_CHECKING:
    from acdc_explain.claims.checks import Check
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import Claim

MOST = 0.8  # of the effect everywhere


class Acts(BaseModel):
    """Where a component acts."""

    model_config = ConfigDict(extra="forbid")
    at: str = Field(description="a position: its effect comes from what it writes there")


def acts(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """Ablated at this place alone, it keeps at least 80 % of the effect of ablating it everywhere.

    The control is as much of the effect as a place has on average. Other components are not
    measured: most of them may act there too.
    """
    import torch

    from acdc_explain.claims.ablations import ablations
    from acdc_explain.claims.checks import Check, measured
    from acdc_explain.claims.paths import require_place
    from acdc_explain.evidence.measurement import NotMeasurable

    testable: dict[int, str] = {}
    answers: list[Sequence[Check] | str] = [[] for _ in claims]
    for number, claim in enumerate(claims):
        try:
            require_place(contrast, claim.arguments["at"])
            testable[number] = claim.arguments["at"]
        except NotMeasurable as reason:
            answers[number] = str(reason)
    wanted: list[tuple[Node, str | None]] = [(claims[i].node, at) for i, at in testable.items()]
    wanted += [(claims[i].node, None) for i in testable]
    lost = ablations(contrast, wanted, prompts)
    share_of_a_place = 1 / len(contrast.place_names)
    for number, at in testable.items():
        node = claims[number].node
        here, everywhere = lost[node, at].double(), lost[node, None].double()
        mean = everywhere.mean()
        if not mean:
            answers[number] = "it has no effect at all"
            continue
        shares = here / mean
        even = torch.full_like(shares, share_of_a_place)
        measurement = measured("acts", [node], [shares], [even], everywhere / mean)
        answers[number] = [Check(measurement, "share of its effect", MOST, for_null=False)]
    return answers


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    return {"acts": ClaimKind("where", Acts, "acts at {{ at }}", acts, corrupts=True)}
