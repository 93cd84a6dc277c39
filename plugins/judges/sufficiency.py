"""Judge `sufficiency`: how much of a head's effect is left if it reads only what a label names?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Outcome, Verdict

from .verdicts import share_below, upper_median

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

ENOUGH, TOO_LITTLE = 0.5, 0.2  # of the effect
TOO_MUCH = 1.5  # of the effect: more is no support, as what the label leaves out works against it
RANDOM = 5  # sets of random places to compare with
LEAST = 0.01  # effects that may be smaller than this are not judged

Interval = tuple[float, float]


def sufficiency(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """For roles that say where a head attends; others, and heads without effect, get no verdict.

    The bounds must be met by the whole 95 % interval. `supported` if at least half of the effect
    survives, and more than at random places; `causal_only` if less than a fifth survives: the head
    matters, but not by attending there. If more than 150 % survives, what the label leaves out
    works against it: `inconclusive`, or no verdict where only the mean is that large.
    """
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.evidence.patching.keep_only import CLAIMS, losses, random_keys

    for label in labels:
        if label.role not in CLAIMS or label.node.kind != "head":
            continue
        try:
            keys = CLAIMS[label.role](contrast)
            random = random_keys(keys, range(seed, seed + RANDOM))
            (kept, *others), whole = losses(contrast, label.role, label.node, [keys, *random])
        except NotMeasurable:
            continue
        shares = shares_kept(kept, whole, others)
        if (verdict := _verdict(label, shares)) is not None:
            yield verdict


@dataclass(frozen=True)
class Shares:
    """What survives of an effect, as shares of it, with bootstrap 95 % intervals over prompts."""

    kept: float
    random: tuple[float, ...]  # kept by each set of random places
    interval: Interval  # of `kept`
    beyond_chance: Interval  # of `kept` minus what random places keep
    whole: Interval  # of the effect itself, in its own unit
    n: int

    @property
    def chance(self) -> float:
        """The median share that random places keep."""
        return upper_median(self.random)


def _verdict(label: Label, shares: Shares) -> Verdict | None:
    """None where the effect may be zero, or the share is too large and too uncertain."""
    decision = _outcome(shares)
    if decision is None:
        return None
    (low, high), (outcome, remark) = shares.interval, decision
    return Verdict(
        label_id=label.id,
        judge="sufficiency",
        outcome=outcome,
        score=round(shares.kept, 5),
        chance=round(shares.chance, 5),
        percentile=round(share_below(shares.kept, shares.random), 4),
        n=shares.n,
        reason=(
            f"kept to the places that the label names, {shares.kept:.0%} [{low:.0%}, {high:.0%}] "
            f"of the effect survives; kept to as many random places, {shares.chance:.0%}{remark}"
        ),
        measure="share_kept",
        unit="share of the effect",
        low=round(low, 5),
        high=round(high, 5),
    )


def _outcome(shares: Shares) -> tuple[Outcome, str] | None:
    """The outcome and a remark for the reason, often empty; None for no verdict."""
    low, high = shares.interval
    if not (shares.whole[0] >= LEAST or shares.whole[1] <= -LEAST):
        return None
    if high < TOO_LITTLE:
        return "causal_only", ""
    if low > TOO_MUCH:
        return "inconclusive", "; what the label leaves out works against it"
    if shares.kept > TOO_MUCH:
        return None
    if low >= ENOUGH and shares.beyond_chance[0] > 0:
        return "supported", ""
    return "inconclusive", ""


def shares_kept(kept: Tensor, whole: Tensor, others: Sequence[Tensor]) -> Shares:
    """The shares of an effect that survive, from losses per prompt on the CPU.

    Args:
        kept: The loss when only the places that the label names are kept.
        whole: The loss when the head is ablated.
        others: The losses when sets of random places are kept.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(whole), (1000, len(whole)), generator=generator)
    tails = torch.tensor([0.025, 0.975], dtype=torch.double)

    def interval(values: Tensor) -> Interval:
        low, high = torch.quantile(values, tails).tolist()
        return low, high

    def resampled(loss: Tensor) -> Tensor:
        return 1 - loss.double()[drawn].mean(1) / whole.double()[drawn].mean(1)

    random = torch.stack([resampled(other) for other in others])
    return Shares(
        1 - float(kept.mean() / whole.mean()),
        tuple(1 - float(other.mean() / whole.mean()) for other in others),
        interval(resampled(kept)),
        interval(resampled(kept) - random.median(0).values.clamp_min(0)),
        interval(whole.double()[drawn].mean(1)),
        len(whole),
    )


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"sufficiency": Judge(sufficiency)}
