"""Measurements and interventions on components. Each returns samples, so that error is known.

A measure gives every head (or every head and MLP) of the model a number: the component under
test and its null, all others of its kind, come from the same run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

from ..models.contrast import Contrast
from . import attention as attending
from . import composition as routes
from . import effects, ov
from .measurement import Measurement, NotMeasurable

MEASURES: Mapping[str, Callable[[Contrast], Measurement]] = {
    function.__name__: function
    for function in (
        attending.previous_token_attention,
        attending.duplicate_token_attention,
        attending.induction_attention,
        attending.fixed_offset_attention,
        attending.sink_attention,
        attending.first_value_norm,
        attending.attention_entropy,
        attending.largest_attention,
        attending.answer_attention,
        attending.foil_attention,
        attending.subject_attention,
        ov.copying,
        ov.negative_copying,
        ov.copying_strength,
        ov.successor_score,
        ov.relation_score,
        effects.direct_effect,
        effects.staircase,
        effects.token_share,
        effects.few_neurons,
        routes.feeds_induction,
        routes.steers_movers,
        routes.feeds_inhibition,
        routes.stands_in,
    )
}
"""Measures of all nodes at once; those of effects.NODE_MEASURES cost a run per node."""


_ATTENTION, _TOKENS, _LOGITS, _GAP = "attention", "share of tokens", "logits", "share of the gap"
UNITS: Mapping[str, str] = {
    "previous_token_attention": _ATTENTION,
    "duplicate_token_attention": _ATTENTION,
    "induction_attention": _ATTENTION,
    "fixed_offset_attention": _ATTENTION,
    "sink_attention": _ATTENTION,
    "first_value_norm": "times the others' norm",
    "attention_entropy": "share of the largest entropy",
    "largest_attention": _ATTENTION,
    "answer_attention": _ATTENTION,
    "foil_attention": _ATTENTION,
    "subject_attention": _ATTENTION,
    "copying": _TOKENS,
    "negative_copying": _TOKENS,
    "copying_strength": "standard deviations",
    "successor_score": "share of pairs",
    "relation_score": "share of pairs",
    "direct_effect": _LOGITS,
    "staircase": "chance to rank right",
    "token_share": "R^2",
    "few_neurons": "share of the direct effect",
    "feeds_induction": _ATTENTION,
    "steers_movers": _ATTENTION,
    "feeds_inhibition": _ATTENTION,
    "stands_in": _LOGITS,
    "ablation_effect": _GAP,
    "restored_at_subject": _GAP,
}
"""What each measure counts in."""


def measure(name: str, contrast: Contrast) -> Measurement:
    """A measure of all nodes, computed once per contrast. Raises NotMeasurable, KeyError."""
    return contrast.once(MEASURES[name])


def measured(names: Iterable[str], contrast: Contrast) -> dict[str, Measurement]:
    """Those of several measures that have a meaning for the contrast's task."""
    found = {}
    for name in names:
        with contextlib.suppress(NotMeasurable):
            found[name] = measure(name, contrast)
    return found
