"""Claims `attends` and `carries`: what a component reads, and which information it passes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ClaimKind

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import Path, Source
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.evidence.patching.edges import Response
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.claim import Claim

KEPT = 0.5  # of the effect, if the head reads the claimed keys alone
NOTICED = 0.1  # of the effect on a reader: a head that does less there does nothing there
CARRIED = 0.5  # of the effect, if only the variable differs


class Attends(BaseModel):
    """What a head attends to."""

    model_config = ConfigDict(extra="forbid")
    at: str = Field(description="the position it attends from")
    to: str = Field(
        description="what it attends to: a position, previous, duplicate, continuation, first, "
        "itself, answer, foil, or `offset K`"
    )
    through: str = Field(
        description="where its effect is measured when it reads these keys alone: a receiver "
        "with its port, such as a9.h6<q> or m5; answers, foils or logits; metric for all together"
    )


class Carries(BaseModel):
    """Which information a component passes on."""

    model_config = ConfigDict(extra="forbid")
    variable: str = Field(description="the variable of the prompts")
    at: str = Field(description="the position at which it writes")
    through: str = Field(description="a receiver with its port, answers, foils, logits or metric")
    by: float | None = Field(
        None, description="which share of the gap it passes on there, about; with its sign"
    )


def attends(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """Attention to the keys, and how much of the effect is left if the head reads them alone.

    Chance for attention is as many random keys; the null is all other heads. Chance for the effect
    is what as many random keys keep.
    """
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import CORRUPT, Source
    from acdc_explain.claims.reading import effect_at, kept_shares, measure_others, path_of

    def claimed(claim: Claim) -> Source:
        return Source(prompts, claim.arguments["to"])

    paths, answers, shares = kept_shares(contrast, claims, path_of, prompts, claimed)
    if others:
        measure_others(contrast, [(path, Source(CORRUPT)) for path in paths.values()])
    for number, share in shares.items():
        checks = [Check(share, "share of its effect", KEPT, for_null=False)]
        if others:
            path, to = paths[number], claims[number].arguments["to"]
            amount = effect_at(contrast, path, CORRUPT)
            checks.insert(0, Check(_of_those_that_matter(contrast, path, to, amount), "attention"))
        answers[number] = checks
    return answers


def _of_those_that_matter(
    contrast: Contrast, path: Path, to: str, amount: Callable[[Response], Tensor]
) -> Measurement:
    """Attention of every head to the keys; none of those that do next to nothing to the reader.

    The claim says that the head attends there for the reader: one that attends there as well and
    that the reader does not notice does not do the same.
    """
    from acdc_explain.claims.paths import CORRUPT, Source
    from acdc_explain.claims.reading import attention_to, of_others
    from acdc_explain.evidence.measurement import Measurement

    attention = attention_to(contrast, path.at, to)
    effects = of_others(contrast, path, Source(CORRUPT), amount)
    own = abs(effects.value(path.sender))
    nothing = {x for x in effects.nodes if abs(effects.value(x)) < NOTICED * own}
    samples = attention.samples.clone()
    samples[[i for i, node in enumerate(attention.nodes) if node in nothing]] = 0
    return Measurement(attention.measure, attention.nodes, samples, attention.control)


def carries(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """The effect when only the variable differs, as a share of that when everything differs.

    Chance is the mean share of the other variables. The null is what the other components of the
    kind pass on of this variable to the same reader.
    """
    import torch

    from acdc_explain.claims.checks import Check, measured
    from acdc_explain.claims.paths import Source, path_effects
    from acdc_explain.claims.reading import (
        effect_at,
        measure_others,
        path_of,
        testable,
    )
    from acdc_explain.evidence.variables import variable_names

    variables = variable_names(contrast)
    paths, answers = testable(contrast, claims, path_of)
    wanted = [(path, Source(prompts)) for path in paths.values()]
    wanted += [(path, Source(name)) for path in paths.values() for name in variables]
    if others:
        made = [(path, claims[number].arguments["variable"]) for number, path in paths.items()]
        measure_others(contrast, [(path, Source(name)) for path, name in made if name in variables])
    effects = path_effects(contrast, wanted)
    for number, path in paths.items():
        node, variable = claims[number].node, claims[number].arguments["variable"]
        if variable not in variables:
            answers[number] = f"the task has no variable {variable!r}, but {', '.join(variables)}"
            continue
        amount = effect_at(contrast, path, prompts)
        whole = amount(effects[path, Source(prompts)])
        mean = whole.mean()
        if not mean:
            answers[number] = "nothing of it reaches there"
            continue
        shares = {x: amount(effects[path, Source(x)]) / mean for x in variables}
        rest = [shares[x] for x in variables if x != variable]
        control = torch.stack(rest).mean(0) if rest else torch.zeros_like(whole)
        share = measured("carried", [node], [shares[variable]], [control], whole / mean)
        checks = [Check(share, "share of its effect", CARRIED, for_null=False)]
        if others:
            checks.append(_against_others(contrast, path, claims[number], amount))
        answers[number] = checks
    return answers


def _against_others(
    contrast: Contrast, path: Path, claim: Claim, amount: Callable[[Response], Tensor]
) -> Check:
    """What is passed on of the variable, and what other components pass on of it.

    In shares of the gap if a size is claimed, else as `amount` says.
    """
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.paths import Source
    from acdc_explain.claims.reading import of_others

    by, source = claim.arguments["by"], Source(claim.arguments["variable"])
    if by is None:
        return Check(of_others(contrast, path, source, amount), "effect on its reader")
    sign = 1 if by > 0 else -1
    null = of_others(contrast, path, source, lambda response: sign * response.share.sum(1))
    return Check(null, "share of the gap", size=abs(by))


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    return {
        "attends": ClaimKind(
            "reads",
            Attends,
            "at {{ at }} attends to {{ to }} for {{ through }}",
            attends,
            kinds=("head",),
            corrupts=True,
            meaning="at `at` it attends to `to`, and its effect on the reader `through` is left if "
            "it reads nothing else",
        ),
        "carries": ClaimKind(
            "reads",
            Carries,
            "at {{ at }} carries {{ variable }} to {{ through }}",
            carries,
            meaning="most of its effect on the reader `through` is left if only `variable` differs",
        ),
    }
