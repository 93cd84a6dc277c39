"""Judge `sufficiency`: keep of a head only what its label says. How much of its effect survives?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

ENOUGH, TOO_LITTLE = 0.5, 0.2  # of the effect
TOO_MUCH = 1.5  # of the effect: more is no support, what the label leaves out works against it
RANDOM = 5  # sets of places that the label does not name
LEAST = 0.01  # effects that may be smaller than this are not taken apart

Interval = tuple[float, float]


def sufficiency(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """For roles that say where a head looks; others, and heads without effect, get no verdict.

    `supported` if surely half of the effect survives and surely more than at random places;
    `causal_only` if surely less than a fifth does: it matters, but not by looking there. Where
    more than 150 % survives, what the label leaves out works against it: that is no support
    (no verdict), and `inconclusive` if it is sure.
    """
    from acdc_explain.evidence.keep_only import CLAIMS, losses, random_keys
    from acdc_explain.evidence.measurement import NotMeasurable

    for label in labels:
        if label.role not in CLAIMS or label.node.kind != "head":
            continue
        try:
            keys = CLAIMS[label.role](contrast)
            kept, whole = losses(contrast, label.role, label.node, keys)
            others = [
                losses(contrast, label.role, label.node, random_keys(contrast, keys, seed + n))[0]
                for n in range(RANDOM)
            ]
        except NotMeasurable:
            continue
        shares = shares_kept(kept, whole, others)
        if (verdict := _verdict(label, shares)) is not None:
            yield verdict


@dataclass(frozen=True)
class Shares:
    """What survives of an effect, as shares: measured, and in each bootstrap draw of prompts."""

    kept: float
    random: tuple[float, ...]
    interval: Interval
    beyond_chance: Interval
    whole: Interval  # of the effect itself, in its own unit
    n: int

    @property
    def chance(self) -> float:
        return sorted(self.random)[len(self.random) // 2]


def _verdict(label: Label, shares: Shares) -> Verdict | None:
    """None where there is surely no effect to take a share of, or a share too uncertain to use."""
    found = _outcome(shares)
    if found is None:
        return None
    (low, high), (outcome, words) = shares.interval, found
    return Verdict(
        label_id=label.id,
        judge="sufficiency",
        outcome=outcome,
        score=round(shares.kept, 5),
        chance=round(shares.chance, 5),
        percentile=round(sum(x < shares.kept for x in shares.random) / len(shares.random), 4),
        n=shares.n,
        reason=(
            f"kept to the places that the label names, {shares.kept:.0%} [{low:.0%}, {high:.0%}] "
            f"of the effect survives; kept to as many random places, {shares.chance:.0%}{words}"
        ),
        measure="share_kept",
        unit="share of the effect",
        low=round(low, 5),
        high=round(high, 5),
    )


def _outcome(shares: Shares) -> tuple[Outcome, str] | None:
    """The outcome, and words on what is odd; None where nothing can be said."""
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
    """Losses per prompt, when some places are kept and when the head is ablated, as shares.

    Intervals are bootstrap 95 % over prompts.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(whole), (1000, len(whole)), generator=generator)
    tails = torch.tensor([0.025, 0.975], dtype=torch.double)

    def interval(values: Tensor) -> Interval:
        low, high = torch.quantile(values, tails).tolist()
        return low, high

    def resampled(loss: Tensor) -> Tensor:
        return 1 - loss.double().cpu()[drawn].mean(1) / whole.double().cpu()[drawn].mean(1)

    random = torch.stack([resampled(other) for other in others])
    return Shares(
        1 - float(kept.mean() / whole.mean()),
        tuple(1 - float(other.mean() / whole.mean()) for other in others),
        interval(resampled(kept)),
        interval(resampled(kept) - random.median(0).values.clamp_min(0)),
        interval(whole.double().cpu()[drawn].mean(1)),
        len(whole),
    )


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"sufficiency": Judge(sufficiency)}
