"""Claims `acts` and `directly`: where a component acts, and whether on the logits themselves."""

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
LEAST_DIRECT = 0.5  # of the effect


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

    from acdc_explain.claims.checks import Check, measured
    from acdc_explain.claims.effects import ablations
    from acdc_explain.claims.paths import CORRUPT, require_place
    from acdc_explain.claims.reading import untouched
    from acdc_explain.evidence.measurement import NotMeasurable

    testable: dict[int, str] = {}
    answers: list[Sequence[Check] | str] = [[] for _ in claims]
    for number, claim in enumerate(claims):
        try:
            require_place(contrast, claim.arguments["at"])
            testable[number] = claim.arguments["at"]
        except NotMeasurable as obstacle:
            answers[number] = str(obstacle)
    wanted: list[tuple[Node, str | None]] = [(claims[i].node, at) for i, at in testable.items()]
    wanted += [(claims[i].node, None) for i in testable]
    lost = ablations(contrast, wanted, prompts)
    usual = ablations(contrast, [(claims[i].node, None) for i in testable], CORRUPT)
    share_of_a_place = 1 / len(contrast.place_names)
    for number, at in testable.items():
        node = claims[number].node
        here, everywhere = lost[node, at].double(), lost[node, None].double()
        if (reason := untouched(everywhere, usual[node, None])) is not None:
            answers[number] = reason
            continue
        mean = everywhere.mean()
        shares = here / mean
        even = torch.full_like(shares, share_of_a_place)
        measurement = measured("acts", [node], [shares], [even], everywhere / mean)
        answers[number] = [Check(measurement, "share of its effect", MOST, for_null=False)]
    return answers


class Directly(BaseModel):
    """By which way a component acts: nothing else is claimed."""

    model_config = ConfigDict(extra="forbid")


def directly(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """At least half of its effect on the metric, and at most twice as much, goes by no other node.

    The direct effect is that of its change at the last token on the logits, the rest of the model
    as it is.
    """
    import torch

    from acdc_explain.claims.checks import Check, measured
    from acdc_explain.claims.effects import ablations
    from acdc_explain.claims.paths import CORRUPT, Path, Source, path_effects
    from acdc_explain.claims.reading import untouched
    from acdc_explain.records.circuit import LOGITS

    end, source = contrast.place_names[-1], Source(prompts)
    paths = [Path(claim.node, end, LOGITS, None) for claim in claims]
    effects = path_effects(contrast, [(path, source) for path in paths])
    wanted: list[tuple[Node, str | None]] = [(claim.node, None) for claim in claims]
    lost, usual = ablations(contrast, wanted, prompts), ablations(contrast, wanted, CORRUPT)
    answers: list[Sequence[Check] | str] = []
    for path in paths:
        everywhere = lost[path.sender, None].double()
        if (reason := untouched(everywhere, usual[path.sender, None])) is not None:
            answers.append(reason)
            continue
        mean = everywhere.mean()
        shares = effects[path, source].share.sum(1).double() / mean
        none = torch.zeros_like(shares)
        share = measured("direct", [path.sender], [shares], [none], everywhere / mean)
        answers.append([Check(share, "share of its effect", LEAST_DIRECT, 1.0, for_null=False)])
    return answers


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    return {
        "acts": ClaimKind(
            "where",
            Acts,
            "acts at {{ at }}",
            acts,
            corrupts=True,
            meaning="nearly all of its effect comes from what it writes there",
        ),
        "directly": ClaimKind(
            "where",
            Directly,
            "acts on the logits directly",
            directly,
            corrupts=True,
            meaning="at least half of its effect goes by no other component",
        ),
    }
