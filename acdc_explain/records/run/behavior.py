"""Does the model do the task at all? KeyedQuestion before a circuit is searched for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..evidence import finite
from ..task import Split

if TYPE_CHECKING:
    pass

SPLITS: tuple[Split, ...] = ("discover", "held_out")
_WORDS: Mapping[str, str] = {"discover": "the discovery prompts", "held_out": "held-out prompts"}


@dataclass(frozen=True, slots=True)
class Behavior:
    """How a model does on the prompts of a split.

    `accuracy`: how often the likeliest token is an answer. `prefers_answer`: how often the answers
    together are likelier than the foils; None without foils. `p_answer`: their mean probability.
    `gap`: how much better the metric is on clean prompts than with everything ablated, with its
    bootstrap 95 % interval over prompts.
    """

    n: int
    accuracy: float
    prefers_answer: float | None
    p_answer: float
    metric: str
    clean: float
    ablated: float
    gap: float
    interval: tuple[float, float]

    @property
    def doubt(self) -> str | None:
        """Why a circuit for this would explain nothing; None if there is no reason.

        The gap must surely be positive. Where there are foils, the model must prefer the answers
        on all prompts, or surely on more than half of them.
        """
        low, high = self.interval
        if not low > 0:
            return (
                f"{self.metric} is {self.clean:.3f} on clean prompts and {self.ablated:.3f} on "
                f"ablated ones, a gap of {self.gap:.3f} [{low:.3f}, {high:.3f}] that is not "
                "surely positive"
            )
        share = self.prefers_answer
        if share is not None and share < 1 and _least(share, self.n) <= 0.5:
            return f"it prefers the answer to the foils on {round(share * self.n)} of {self.n}"
        return None

    @staticmethod
    def parse(entry: Mapping[str, Any]) -> Behavior:
        """From its JSON form. Raises KeyError, TypeError, ValueError."""
        low, high = entry["interval"]
        found = Behavior(**{**entry, "interval": (low, high)})
        numbers = [found.accuracy, found.p_answer, found.clean, found.ablated, found.gap, low, high]
        numbers += [] if found.prefers_answer is None else [found.prefers_answer]
        if any(finite(number) is None for number in numbers):
            raise ValueError("behavior: every number must be finite")
        if type(found.n) is not int or found.n < 1 or not isinstance(found.metric, str):
            raise ValueError("behavior: n must be a whole number from 1 up, metric a text")
        return found


def behavior_sentences(behavior: Mapping[str, Behavior]) -> list[str]:
    """How the model does: a sentence a split, without the full stop."""
    lines = []
    for split, name in (("discover", "to discover on"), ("held_out", "held out")):
        if (found := behavior.get(split)) is None:
            continue
        low, high = found.interval
        share = found.prefers_answer
        beside = "" if share is None else f", before the foils on {round(share * found.n)}"
        lines.append(
            f"{found.n} prompts {name}: the answer comes first on "
            f"{round(found.accuracy * found.n)}{beside}; p(answer) {found.p_answer:.2f}, "
            f"{found.metric} gap {found.gap:.2f} [{low:.2f}, {high:.2f}]"
        )
    return lines


def parse_behavior(entries: Mapping[str, Any]) -> dict[str, Behavior]:
    """By split, from the JSON form. Raises KeyError, TypeError, ValueError."""
    return {split: Behavior.parse(entries[split]) for split in SPLITS if split in entries}


def _least(share: float, n: int) -> float:
    """The lower end of Wilson's 95 % interval for a share of n."""
    z = 1.96
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n)


def doubt(behavior: Mapping[str, Behavior]) -> str | None:
    """The first reason to doubt that the model does the task, and on which prompts."""
    for split, found in behavior.items():
        if reason := found.doubt:
            return f"on {_WORDS.get(split, split)} {reason}"
    return None
