"""How well a model does a task, on the prompts of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import UserError
from ..models.contrast import Contrast
from ..records.circuit import LOGITS
from ..records.graph import REST
from ..records.run.behavior import Behavior
from ..records.run.pair import Pair, Relation
from .measurement import Measurement
from .variables import variable_names, variable_prompts


def behavior_of(contrast: Contrast) -> Behavior:
    """Accuracy, preference and metric of the model on a contrast's prompts, with their gap."""
    logits = contrast.clean_logits
    answers, foils = contrast.answers, contrast.foils
    probabilities = logits.softmax(-1)
    p_answer = answers.total(probabilities)
    best = logits.argmax(-1)[:, None]
    correct = answers.contain(best)
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
        pair=_pair(contrast),
    )


def _mean(values: Tensor) -> float:
    return round(float(values.cpu().double().mean()), 6)


# --- the first pair of prompts, as an example ----------------------------------------------------


def _pair(contrast: Contrast) -> Pair | None:
    """The first pair of prompts; None where a position has a name that no place can have."""
    try:
        places = contrast.place_names
    except UserError:
        return None
    example, model, prefix = contrast.examples[0], contrast.model, len(contrast.model.prefix)
    masks = contrast.place_masks(places) & contrast.clean.within
    clean = tuple(model.pieces(example.clean))
    return Pair(
        clean=clean,
        corrupt=tuple(model.pieces(example.corrupt)),
        answers=example.answers,
        foils=example.foils,
        places={
            name: tuple(
                i for i in (mask[0].nonzero()[:, 0] - prefix).tolist() if 0 <= i < len(clean)
            )
            for name, mask in zip(places, masks)
        },
        relations=_relations(contrast, [name for name in places if name != REST]),
        variables=_variables(contrast, places, masks),
    )


def _relations(contrast: Contrast, places: Sequence[str]) -> Mapping[str, Sequence[Relation]]:
    """What is true in every prompt of the token of each place, where it always has one."""
    masks = {name: contrast.place_masks([name])[0] for name in places}
    at = {n: mask.int().argmax(1).cpu() for n, mask in masks.items() if mask.sum(1).eq(1).all()}
    clean, corrupt = contrast.clean.tokens.cpu(), contrast.corrupt.tokens.cpu()
    rows = torch.arange(len(clean))
    found: dict[str, tuple[Relation, ...]] = {}
    for name in at:
        token = clean[rows, at[name]]
        true_of_it: list[Relation] = []
        for what, some in (("answer", contrast.answers), ("foil", contrast.foils)):
            if bool(some.contain(token[:, None].to(some.ids.device)).all()):
                true_of_it.append((what, None))
        if bool((token != corrupt[rows, at[name]]).all()):
            true_of_it.append(("changed", None))
        for other in at:
            if bool((at[other] >= at[name]).any()):
                continue
            if bool((clean[rows, at[other]] == token).all()):
                true_of_it.append(("same", other))
            if bool((at[other] + 1 == at[name]).all()):
                true_of_it.append(("after", other))
        found[name] = tuple(true_of_it)
    return found


def _variables(
    contrast: Contrast, places: Sequence[str], masks: Tensor
) -> Mapping[str, Sequence[str]]:
    """The places that each variable changes, in some prompt."""
    found = {}
    for name in variable_names(contrast):
        differs = variable_prompts(contrast, name).tokens != contrast.clean.tokens
        changed = (masks & differs).flatten(1).any(1).tolist()
        found[name] = tuple(place for place, any_token in zip(places, changed) if any_token)
    return found
