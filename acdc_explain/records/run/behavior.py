"""Does the model do the task at all? Measured before a circuit is searched for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..evidence import finite
from ..task import Split
from .pair import Pair

SPLITS: tuple[Split, ...] = ("discover", "held_out")
_WORDS: Mapping[str, str] = {"discover": "the discovery prompts", "held_out": "held-out prompts"}


@dataclass(frozen=True, slots=True)
class Behavior:
    """How a model does on the prompts of a split.

    Attributes:
        n: The number of prompts.
        accuracy: The share of prompts on which the likeliest token is an answer.
        prefers_answer: The share on which the answers together are likelier than the foils; None
            without foils.
        p_answer: The mean probability of the answers together.
        metric: The name of the metric.
        clean, ablated: The metric on clean prompts, and with everything ablated.
        gap: How much better the metric is on clean prompts.
        interval: The bootstrap 95 % interval of the gap over prompts.
        pair: The first pair of prompts; None where it was not kept.
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
    pair: Pair | None = None

    @property
    def doubt(self) -> str | None:
        """Why a circuit would explain nothing; None if there is no reason.

        The gap must be positive with its whole interval. Where there are foils, the model must
        prefer the answers on all prompts, or surely on more than half of them.
        """
        low, high = self.interval
        if not low > 0:
            return (
                f"{self.metric} is {self.clean:.3f} on clean prompts and {self.ablated:.3f} on "
                f"ablated ones, a gap of {self.gap:.3f} [{low:.3f}, {high:.3f}] that is not "
                "surely positive"
            )
        share = self.prefers_answer
        if share is not None and share < 1 and _lower_bound(share, self.n) <= 0.5:
            return f"it prefers the answer to the foils on {round(share * self.n)} of {self.n}"
        return None

    @staticmethod
    def parse(entry: Mapping[str, Any]) -> Behavior:
        """A behavior from its JSON form. Raises KeyError, TypeError, ValueError."""
        low, high = entry["interval"]
        pair = entry.get("pair")
        read = {"interval": (low, high), "pair": None if pair is None else Pair.parse(pair)}
        parsed = Behavior(**{**entry, **read})
        numbers = [parsed.accuracy, parsed.p_answer, parsed.clean, parsed.ablated, parsed.gap]
        numbers += [low, high]
        numbers += [] if parsed.prefers_answer is None else [parsed.prefers_answer]
        if any(finite(number) is None for number in numbers):
            raise ValueError("behavior: every number must be finite")
        if type(parsed.n) is not int or parsed.n < 1 or not isinstance(parsed.metric, str):
            raise ValueError("behavior: n must be a whole number from 1 up, metric a text")
        return parsed


def behavior_sentences(behavior: Mapping[str, Behavior]) -> list[str]:
    """How the model does: a sentence for each split, without a full stop."""
    sentences = []
    for split, purpose in (("discover", "to discover on"), ("held_out", "held out")):
        if (measured := behavior.get(split)) is None:
            continue
        n, (low, high), share = measured.n, measured.interval, measured.prefers_answer
        foils = "" if share is None else f", before the foils on {round(share * n)}"
        sentences.append(
            f"{n} prompts {purpose}: the answer comes first on "
            f"{round(measured.accuracy * n)}{foils}; p(answer) {measured.p_answer:.2f}, "
            f"{measured.metric} gap {measured.gap:.2f} [{low:.2f}, {high:.2f}]"
        )
    return sentences


def parse_behavior(entries: Mapping[str, Any]) -> dict[str, Behavior]:
    """The behavior on each split from its JSON form. Raises KeyError, TypeError, ValueError."""
    return {split: Behavior.parse(entries[split]) for split in SPLITS if split in entries}


def _lower_bound(share: float, n: int) -> float:
    """The lower end of Wilson's 95 % interval for a share of `n`."""
    z = 1.96
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n)


def doubt(behavior: Mapping[str, Behavior]) -> str | None:
    """The first reason to doubt that the model does the task, and on which prompts."""
    for split, measured in behavior.items():
        if reason := measured.doubt:
            return f"on {_WORDS.get(split, split)} {reason}"
    return None
