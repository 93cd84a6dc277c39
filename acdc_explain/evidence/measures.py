"""All measures by name.

A measure gives every head, MLP or both of a model a number, as samples, so that its error is
known. The component under test and its null, all others of its kind, come from the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..models.contrast import Contrast
from . import attention, composition, effects, mlps
from .measurement import Measurement, NotMeasurable
from .ov import copying, relations

MEASURES: Mapping[str, Callable[[Contrast], Measurement]] = {
    function.__name__: function
    for function in (
        attention.previous_token_attention,
        attention.duplicate_token_attention,
        attention.induction_attention,
        attention.fixed_offset_attention,
        attention.sink_attention,
        attention.first_value_norm,
        attention.attention_entropy,
        attention.largest_attention,
        attention.answer_attention,
        attention.foil_attention,
        attention.subject_attention,
        copying.copying,
        copying.negative_copying,
        copying.copying_strength,
        relations.successor_score,
        relations.relation_score,
        effects.direct_effect,
        effects.staircase,
        mlps.token_share,
        mlps.few_neurons,
        composition.feeds_induction,
        composition.steers_movers,
        composition.feeds_inhibition,
        composition.stands_in,
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
"""The unit of each measure."""


def measure(name: str, contrast: Contrast) -> Measurement:
    """A measure of all nodes, computed once per contrast.

    Args:
        name: A key of MEASURES.
        contrast: The prompts to measure on.

    Returns:
        Samples of every node that the measure is defined for.

    Raises:
        KeyError: There is no such measure.
        NotMeasurable: The measure has no meaning for the contrast's task or model.
    """
    return contrast.once(MEASURES[name])


def measure_all(
    names: Iterable[str], contrast: Contrast
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Several measures by name; and why others have no meaning for the contrast.

    Raises:
        KeyError: There is no measure of a name.
    """
    measurements, reasons = {}, {}
    for name in names:
        try:
            measurements[name] = measure(name, contrast)
        except NotMeasurable as reason:
            reasons[name] = str(reason)
    return measurements, reasons
