"""Claims `reads_token` and `neurons`: what an MLP computes from, and by which neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ClaimKind
from acdc_explain.records.role import OF_THE_TOKEN

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import Path, Source
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.evidence.patching.edges import Response
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.claim import Claim

KEPT = 0.5  # of the effect
MOST_NEURONS = 10
THROUGH = "where its effect is measured: a receiver with its port, answers, foils, logits or metric"


class ReadsToken(BaseModel):
    """An MLP that computes from the token alone."""

    model_config = ConfigDict(extra="forbid")
    at: str = Field(description="the position at which it writes")
    through: str = Field(description=THROUGH)


class Neurons(BaseModel):
    """The few neurons that an MLP's effect comes from."""

    model_config = ConfigDict(extra="forbid")
    at: str = Field(description="the position at which it writes")
    neurons: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1, max_length=MOST_NEURONS)] = (
        Field(description="their numbers in the hidden layer")
    )
    through: str = Field(description=THROUGH)


def reads_token(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """How much of its effect is left if it writes what it writes on average for this token.

    The average is over random tokens before it. Chance is what is left if it writes the average for
    the token of another prompt. The output must be a function of the token (R^2), and the part of
    the effect that is left is compared with that of other components on the same reader.
    """
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import CORRUPT, Source
    from acdc_explain.claims.reading import kept_shares, measure_others
    from acdc_explain.evidence.measures import measure

    left = Source(prompts, token=True)
    paths, answers, shares = kept_shares(contrast, claims, _path_of, prompts, lambda claim: left)
    if others:
        measure_others(contrast, [(path, Source(CORRUPT)) for path in paths.values()])
    for number, share in shares.items():
        checks = [Check(share, "share of its effect", KEPT, for_null=False)]
        if others:
            r2 = measure("token_share", contrast)
            part = _left_of_others(contrast, paths[number], left)
            checks = [
                Check(r2, "R^2", OF_THE_TOKEN, for_null=False),
                Check(part, "share of the gap"),
                *checks,
            ]
        answers[number] = checks
    return answers


def _left_of_others(contrast: Contrast, path: Path, left: Source) -> Measurement:
    """The effect on a reader that is left, in the direction of the whole, and that of others.

    Of heads, which read more than a token, it is the whole effect.
    """
    from acdc_explain.claims.paths import CORRUPT, Source, path_effects
    from acdc_explain.claims.reading import of_others
    from acdc_explain.evidence.measurement import Measurement

    def share(response: Response) -> Tensor:
        return response.share.sum(1).double()

    whole = of_others(contrast, path, Source(CORRUPT), share)
    mlps = {node: replace(path, sender=node) for node in whole.nodes if node.kind == "mlp"}
    lost = path_effects(contrast, [(one, left) for one in mlps.values()])
    samples = whole.samples.clone()
    for row, node in enumerate(whole.nodes):
        if node in mlps:
            samples[row] -= share(lost[mlps[node], left])
    sign = 1 if whole.value(path.sender) > 0 else -1
    return Measurement(whole.measure, whole.nodes, sign * samples, whole.control)


def neurons(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """How much of its effect is left if only these neurons keep what they compute.

    Chance is what as many random neurons keep.
    """
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import Source
    from acdc_explain.claims.reading import kept_shares

    def few(claim: Claim) -> Source:
        return Source(prompts, neurons=tuple(claim.arguments["neurons"]))

    _, answers, shares = kept_shares(contrast, claims, _path_of, prompts, few)
    for number, share in shares.items():
        answers[number] = [Check(share, "share of its effect", KEPT, for_null=False)]
    return answers


def _path_of(contrast: Contrast, claim: Claim) -> Path:
    """The path that a claim speaks of. Raises NotMeasurable if there is none, or no such neuron."""
    from acdc_explain.claims.reading import path_of
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.evidence.mlps import neurons_of

    path, numbers = path_of(contrast, claim), claim.arguments.get("neurons", ())
    if numbers and max(numbers) >= (n := neurons_of(contrast, claim.node)):
        raise NotMeasurable(f"{claim.node} has {n} neurons, no number {max(numbers)}")
    return path


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    return {
        "reads_token": ClaimKind(
            "reads",
            ReadsToken,
            "at {{ at }} reads the token alone, for {{ through }}",
            reads_token,
            kinds=("mlp",),
            corrupts=True,
            meaning="most of its effect on the reader `through` is left if it writes what it "
            "writes on average for the token at `at`, whatever stands before",
        ),
        "neurons": ClaimKind(
            "where",
            Neurons,
            "at {{ at }} acts through {{ neurons | length }} "
            "{{ 'neuron' if neurons | length == 1 else 'neurons' }} "
            "({{ neurons | join(', ') }}) on {{ through }}",
            neurons,
            kinds=("mlp",),
            corrupts=True,
            meaning="most of its effect on the reader `through` is left if only these neurons keep "
            "what they compute",
        ),
    }
