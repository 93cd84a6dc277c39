"""What a component does, as a vector that compares across layers, heads, tasks and models."""

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
"""The measures in a head's fingerprint, in this order, and which size of each is large."""

OTHERS: Mapping[str, float] = {
    "token_share": 0.3,
    "few_neurons": 0.3,
    "staircase": 0.3,
    "direct_effect": 0.3,
    "ablation_effect": 0.3,
}
"""The same for MLPs and attention layers: only components of a kind are compared."""

SIZE = len(HEADS)
INTRINSIC = tuple(HEADS)[:4]  # on random tokens: the same for every task
WEIGHTS: Mapping[str, float] = dict.fromkeys(INTRINSIC, 3.0)

Measure = Mapping[str, Any]  # its value and, where there is a null, its percentile


def fingerprint(kind: Kind, measures: Mapping[str, Measure]) -> tuple[float, ...] | None:
    """Strength times how unusual it is, for each measure; None where nothing stands out.

    Strength is tanh(value / typical size). It counts by how far the value lies above the median
    of the model's components of the same kind (below it, for negative values), from 0 at the
    median to 1 at the extreme, so that what all heads of a small model do is nobody's mark. What
    was not measured, or has no null, is 0 or counts in full. Length 1.
    """
    typical = HEADS if kind == "head" else OTHERS
    vector = [_entry(name, size, measures.get(name)) for name, size in typical.items()]
    vector += [0.0] * (SIZE - len(vector))
    length = math.sqrt(sum(x * x for x in vector))
    return None if length < 1e-9 else tuple(x / length for x in vector)


def _entry(name: str, size: float, found: Measure | None) -> float:
    value = _number(found, "value")
    if value is None:
        return 0.0
    percentile, unusual = _number(found, "percentile"), 1.0
    if percentile is not None:
        unusual = 2 * percentile - 1 if value > 0 else 1 - 2 * percentile
    return math.tanh(value / size) * min(max(unusual, 0.0), 1.0) * WEIGHTS.get(name, 1.0)


def sign(measures: Mapping[str, Measure]) -> int | None:
    """Whether a component raises the metric or lowers it: by itself, else by what it is worth."""
    for name in ("direct_effect", "ablation_effect"):
        value = _number(measures.get(name), "value")
        if value:
            return 1 if value > 0 else -1
    return None


def _number(found: Measure | None, key: str) -> float | None:
    """Evidence from elsewhere may hold anything: what is no finite number was not measured."""
    return None if found is None else finite(found.get(key))
