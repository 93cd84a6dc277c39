"""Measurements and interventions on components. Each returns samples, so that error is known.

A measure gives every head (or every head and MLP) of the model a number: the component under
test and its null, all others of its kind, come from the same run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

from . import attending, effects, ov, routes
from .measurement import Measurement, NotMeasurable
from .subject import Subject

MEASURES: Mapping[str, Callable[[Subject], Measurement]] = {
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


def measure(name: str, subject: Subject) -> Measurement:
    """A measure of all nodes, computed once per subject. Raises NotMeasurable, KeyError."""
    return subject.once(MEASURES[name])


def measured(names: Iterable[str], subject: Subject) -> dict[str, Measurement]:
    """Those of several measures that have a meaning for the subject's task."""
    found = {}
    for name in names:
        with contextlib.suppress(NotMeasurable):
            found[name] = measure(name, subject)
    return found
