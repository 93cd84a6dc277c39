"""Claims `copies`, `suppresses`, `maps`: what a head's weights do with whatever it attends to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ClaimKind
from acdc_explain.records.role import COPIED, MAPPED

if TYPE_CHECKING:
    from acdc_explain.claims.checks import Check
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.claim import Claim


class Copies(BaseModel):
    """What becomes of the attended token: nothing else is claimed."""

    model_config = ConfigDict(extra="forbid")


class Maps(BaseModel):
    """Which other token is raised."""

    model_config = ConfigDict(extra="forbid")
    relation: Literal["successor", "relation"] = Field(
        description="successor: the next number, day, month or letter; relation: a country's "
        "capital, or the opposite"
    )


def of_measure(
    measure_name: str, least: float, contrast: Contrast, claims: Sequence[Claim]
) -> Sequence[Sequence[Check] | str]:
    """A measure of all heads' weights, against other heads and other tokens."""
    from acdc_explain.claims.checks import Check
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.evidence.measures import UNITS, measure

    try:
        measurement = measure(measure_name, contrast)
    except NotMeasurable as reason:
        return [str(reason)] * len(claims)
    return [[Check(measurement, UNITS[measure_name], least)]] * len(claims)


def copies(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """The share of tokens that its OV circuit raises into the top 5 of all logits."""
    return of_measure("copying", COPIED, contrast, claims)


def suppresses(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """The share of tokens that its OV circuit lowers into the bottom 5 of all logits."""
    return of_measure("negative_copying", COPIED, contrast, claims)


def maps(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """The share of known pairs whose second word its OV circuit raises when it reads the first."""
    return [
        of_measure(*MAPPED[claim.arguments["relation"]], contrast, [claim])[0] for claim in claims
    ]


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    kind = partial(ClaimKind, "weights", kinds=("head",))
    return {
        "copies": kind(
            Copies,
            "copies what it attends to",
            copies,
            meaning="its weights raise most attended tokens into the top 5",
        ),
        "suppresses": kind(
            Copies,
            "pushes down what it attends to",
            suppresses,
            meaning="its weights lower most attended tokens into the bottom 5",
        ),
        "maps": kind(
            Maps,
            "raises {{ 'what follows' if relation == 'successor' else 'what is related to' }} what "
            "it attends to",
            maps,
            meaning="its weights raise the successor (days, numbers), or the related word "
            "(capitals, opposites), of the attended token",
        ),
    }
