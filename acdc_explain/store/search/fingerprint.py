"""What a component does, as a vector that can be compared across layers, tasks and models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...records.circuit import Kind
from ...records.evidence import finite

HEADS: Mapping[str, float] = {
    "previous_token_attention": 0.3,
    "duplicate_token_attention": 0.3,
    "induction_attention": 0.3,
    "fixed_offset_attention": 0.3,
    "sink_attention": 0.3,
    "attention_entropy": 0.3,
    "answer_attention": 0.3,
    "foil_attention": 0.3,
    "copying": 0.3,
    "negative_copying": 0.3,
    "copying_strength": 3.0,
    "successor_score": 0.3,
    "relation_score": 0.3,
    "steers_movers": 0.3,
    "direct_effect": 0.3,
    "ablation_effect": 0.3,
}
"""The measures in a head's fingerprint, in this order, each with a value that counts as large."""

OTHERS: Mapping[str, float] = {
    "token_share": 0.3,
    "few_neurons": 0.3,
    "staircase": 0.3,
    "direct_effect": 0.3,
    "ablation_effect": 0.3,
}
"""The same for MLPs and attention layers; only components of the same kind are compared."""

SIZE = len(HEADS)
INTRINSIC = tuple(HEADS)[:4]  # measured on random tokens, so the same for every task
WEIGHTS: Mapping[str, float] = dict.fromkeys(INTRINSIC, 3.0)

Measure = Mapping[str, Any]  # its value and, where there is a null, its percentile


def fingerprint(kind: Kind, measures: Mapping[str, Measure]) -> tuple[float, ...] | None:
    """For each measure its strength times how unusual it is, scaled to length 1; None if all are 0.

    The strength is tanh(value / large value). How unusual it is goes from 0 at the median of the
    model's components of the same kind to 1 at the highest value (for negative values, the lowest):
    what all heads of a small model do distinguishes none of them. A measure without a null counts
    in full; one that was not measured is 0.
    """
    large = HEADS if kind == "head" else OTHERS
    vector = [_entry(name, size, measures.get(name)) for name, size in large.items()]
    vector += [0.0] * (SIZE - len(vector))
    length = math.sqrt(sum(x * x for x in vector))
    return None if length < 1e-9 else tuple(x / length for x in vector)


def _entry(name: str, large: float, measure: Measure | None) -> float:
    value = _number(measure, "value")
    if value is None:
        return 0.0
    percentile, unusual = _number(measure, "percentile"), 1.0
    if percentile is not None:
        unusual = 2 * percentile - 1 if value > 0 else 1 - 2 * percentile
    return math.tanh(value / large) * min(max(unusual, 0.0), 1.0) * WEIGHTS.get(name, 1.0)


def sign(measures: Mapping[str, Measure]) -> int | None:
    """1 if a component raises the metric, -1 if it lowers it; None if that was not measured."""
    for name in ("direct_effect", "ablation_effect"):
        value = _number(measures.get(name), "value")
        if value:
            return 1 if value > 0 else -1
    return None


def _number(measure: Measure | None, key: str) -> float | None:
    """A finite number; None for anything else, which imported evidence may have."""
    return None if measure is None else finite(measure.get(key))
