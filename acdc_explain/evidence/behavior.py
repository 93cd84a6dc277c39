"""How well a model does a task, on the prompts of one split."""

from __future__ import annotations

from torch import Tensor

from ..models.contrast import Contrast
from ..records.circuit import LOGITS
from ..records.run.behavior import Behavior
from .measurement import Measurement


def behavior_of(contrast: Contrast) -> Behavior:
    """Accuracy, preference and metric of the model on a contrast's prompts, with their gap."""
    logits = contrast.clean_run.logits
    answers, foils = contrast.answers, contrast.foils
    probabilities = logits.softmax(-1)
    p_answer = answers.total(probabilities)
    best = logits.argmax(-1)[:, None]
    correct = ((answers.ids == best) & answers.present).any(1)
    prefers = None
    if bool(foils.present.any(1).all()):
        prefers = _mean(p_answer > foils.total(probabilities))
    clean, ablated = (contrast.metric(x) for x in (logits, contrast.ablated_logits))
    gaps = contrast.sign * (clean - ablated)
    low, high = Measurement("gap", (LOGITS,), gaps[None]).interval(LOGITS)
    return Behavior(
        n=len(contrast),
        accuracy=_mean(correct),
        prefers_answer=prefers,
        p_answer=_mean(p_answer),
        metric=contrast.metric_name,
        clean=_mean(clean),
        ablated=_mean(ablated),
        gap=_mean(gaps),
        interval=(round(low, 6), round(high, 6)),
    )


def _mean(values: Tensor) -> float:
    return round(float(values.cpu().double().mean()), 6)
