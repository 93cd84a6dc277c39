"""The variables of a task: prompts in which only one thing differs from the clean prompt."""

from __future__ import annotations

import torch

from ..models.activations import Batch
from ..models.contrast import Contrast


def variable_names(contrast: Contrast) -> tuple[str, ...]:
    """The variables that the task declares; else the places whose tokens the corruption changes.

    A place is a named position, END, or `rest`: all tokens without a name.
    """
    declared = contrast.task.variable_names
    return declared or contrast.once(_places_that_differ)


def variable_prompts(contrast: Contrast, variable: str) -> Batch:
    """The prompts in which only a variable differs.

    Args:
        contrast: The prompts.
        variable: One of `variable_names`.
    """
    if variable in contrast.task.variable_names:
        return contrast.model.batch([example.variables[variable] for example in contrast.examples])
    places = contrast.place_names
    mask = contrast.place_masks(places)[places.index(variable)]
    clean, corrupt = contrast.clean, contrast.corrupt
    return Batch(torch.where(mask, corrupt.tokens, clean.tokens), clean.end)


def _places_that_differ(contrast: Contrast) -> tuple[str, ...]:
    places = contrast.place_names
    differs = contrast.clean.tokens != contrast.corrupt.tokens
    some = (contrast.place_masks(places) & differs).flatten(1).any(1).tolist()
    return tuple(place for place, any_token in zip(places, some) if any_token)
