"""Judge `sufficiency`: keep of a head only what its label says. How much of its effect survives?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.label import Label
    from acdc_explain.role import RoleCard
    from acdc_explain.subject import Subject

ENOUGH, TOO_LITTLE = 0.5, 0.2  # of the effect
RANDOM = 5  # sets of places that the label does not name
LEAST = 0.01  # effects smaller than this are not taken apart


def sufficiency(
    subject: Subject, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """For roles that say where a head looks; others, and heads without effect, get no verdict.

    `supported` if at least half of the effect survives and random places keep less;
    `causal_only` if less than a fifth does: it matters, but not by looking there.
    """
    from acdc_explain.keep_only import CLAIMS, losses, random_keys
    from acdc_explain.measurement import NotMeasurable

    for label in labels:
        if label.role not in CLAIMS or label.node.kind != "head":
            continue
        try:
            keys = CLAIMS[label.role](subject)
            kept, whole = losses(subject, label.role, label.node, keys)
            others = [
                losses(subject, label.role, label.node, random_keys(subject, keys, seed + n))[0]
                for n in range(RANDOM)
            ]
        except NotMeasurable:
            continue
        if abs(float(whole.mean())) >= LEAST:
            yield _verdict(label, kept, whole, others)


def _verdict(label: Label, kept: Tensor, whole: Tensor, others: list[Tensor]) -> Verdict:
    score, (low, high) = _share(kept, whole), _interval(kept, whole)
    random = sorted(_share(other, whole) for other in others)
    chance = random[len(random) // 2]
    outcome: Outcome = "inconclusive"
    if score >= ENOUGH and low > chance:
        outcome = "supported"
    elif high < TOO_LITTLE:
        outcome = "causal_only"
    return Verdict(
        label_id=label.id,
        judge="sufficiency",
        outcome=outcome,
        score=round(score, 5),
        chance=round(chance, 5),
        percentile=round(sum(value < score for value in random) / len(random), 4),
        n=len(whole),
        reason=(
            f"kept to the places that the label names, {score:.0%} [{low:.0%}, {high:.0%}] of "
            f"the effect survives; kept to as many random places, {chance:.0%}"
        ),
    )


def _share(kept: Tensor, whole: Tensor) -> float:
    """The share of the whole effect that is not lost."""
    return 1 - float(kept.mean() / whole.mean())


def _interval(kept: Tensor, whole: Tensor) -> tuple[float, float]:
    """Bootstrap 95 % over examples."""
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(whole), (1000, len(whole)), generator=generator)
    shares = 1 - kept.double().cpu()[drawn].mean(1) / whole.double().cpu()[drawn].mean(1)
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"sufficiency": sufficiency}
