"""What an experiment on held-out examples says about a label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..ids import content_id, plain

Outcome = Literal[
    "supported", "matters", "untested", "pattern_only", "causal_only", "refuted", "inconclusive"
]
"""`matters`: the component surely has an effect, and nothing else is claimed. `untested`: the text
of the label says what no claim of it puts to a test."""
WORST_FIRST: tuple[Outcome, ...] = (
    "refuted",
    "pattern_only",
    "causal_only",
    "inconclusive",
    "untested",
    "matters",
    "supported",
)
"""Where judges disagree, the worst outcome counts."""
FIRST_JUDGE = "role_card"  # shown if judges agree, because it tests the whole card
_LATER = ("measure", "unit", "low", "high")  # fields that verdicts of earlier stores do not have


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of testing a label, with the statistic that decided it.

    Attributes:
        label_id: The label.
        judge: The name of the judge.
        outcome: What the test says about the label.
        score: The component's value of the statistic; None if nothing could be measured.
        chance: What the value would be if the claim were wrong.
        percentile: The share (0 to 1) of other components of its kind that score lower.
        n: How many samples were measured.
        reason: The outcome in words.
        measure: The name of the statistic.
        unit: The unit of the value.
        low, high: The 95 % interval of the value.
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
        """A hash of the content."""
        content = plain(self)
        return content_id(
            "verdict", {k: v for k, v in content.items() if k not in _LATER or v is not None}
        )


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The verdict that counts where judges disagree; None if there is none."""
    return min(
        verdicts,
        key=lambda v: (WORST_FIRST.index(v.outcome), v.judge != FIRST_JUDGE, v.judge),
        default=None,
    )


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """A verdict, and the id of its question: label, judge, the judge's settings, role card."""

    question_id: str
    verdict: Verdict
