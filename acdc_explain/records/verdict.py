"""What an experiment on held-out examples says about a label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..ids import content_id, plain

Outcome = Literal["supported", "pattern_only", "causal_only", "refuted", "inconclusive"]
WORST_FIRST: tuple[Outcome, ...] = (
    "refuted",
    "pattern_only",
    "causal_only",
    "inconclusive",
    "supported",
)
"""Where judges disagree, the worst outcome counts."""
FIRST_JUDGE = "role_card"  # of judges that agree, the one that tests the whole card is shown
_LATER = ("measure", "unit", "low", "high")  # fields that verdicts of earlier stores do not have


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, with the statistic of the test that decided it.

    `measure` names the statistic and `unit` what it counts in. `score` is the component's, with
    its 95 % interval from `low` to `high`; `chance` is what it would be if the claim were wrong;
    `percentile` is the share of other components of its kind that score lower; `n` is how many
    samples were measured.
    """

    label_id: str
    judge: str
    outcome: Outcome
    score: float | None
    chance: float | None
    percentile: float | None
    n: int
    reason: str
    measure: str | None = None
    unit: str | None = None
    low: float | None = None
    high: float | None = None

    @property
    def id(self) -> str:
        content = plain(self)
        return content_id(
            "verdict", {k: v for k, v in content.items() if k not in _LATER or v is not None}
        )


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The verdict that counts where judges disagree; of equal ones that of the role's card."""
    return min(
        verdicts,
        key=lambda v: (WORST_FIRST.index(v.outcome), v.judge != FIRST_JUDGE, v.judge),
        default=None,
    )


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """A verdict and the question it answers: label, judge, its settings, the role's card."""

    question_id: str
    verdict: Verdict
