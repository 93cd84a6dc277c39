"""What an experiment on held-out examples says about a label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .ids import content_id

Outcome = Literal["supported", "pattern_only", "causal_only", "refuted", "inconclusive"]
WORST_FIRST: tuple[Outcome, ...] = (
    "refuted",
    "pattern_only",
    "causal_only",
    "inconclusive",
    "supported",
)
"""Where judges disagree, the worst outcome counts."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, with the statistic of the deciding test.

    `score` is the component's, `chance` the median of other components of its kind,
    `percentile` the share of those that score lower, `n` how many samples were measured.
    """

    label_id: str
    judge: str
    outcome: Outcome
    score: float | None
    chance: float | None
    percentile: float | None
    n: int
    reason: str

    @property
    def id(self) -> str:
        return content_id("verdict", self)


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The verdict that counts where judges disagree; of equal ones, the first judge's by name."""
    return min(verdicts, key=lambda v: (WORST_FIRST.index(v.outcome), v.judge), default=None)


@dataclass(frozen=True, slots=True)
class Judging:
    """A verdict and the question it answers: label, judge, its settings, the role's card."""

    question_id: str
    verdict: Verdict
