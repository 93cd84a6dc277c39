"""Ablations of single components, everywhere or at one place, several at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..evidence.patching.edges import unit
from ..evidence.patching.rerun import Patch, metric_with, outputs_of
from ..models.activations import Batch
from ..models.contrast import Contrast
from ..records.circuit import Node
from .paths import prompts_of

Ablated = tuple[Node, str | None]
"""A component and the place at which it is ablated; None: everywhere."""


def ablations(
    contrast: Contrast, wanted: Iterable[Ablated], prompts: str
) -> Mapping[Ablated, Float[Tensor, " sample"]]:
    """The share of the gap that is lost when components write what they write on other prompts.

    Each is measured once per contrast.

    Args:
        contrast: The prompts; its own gap is the unit, whatever the other prompts are.
        wanted: The components with their places.
        prompts: A corruption, see `paths.prompts_of`.

    Returns:
        By component and place: a number for each prompt, on the CPU.
    """
    known = contrast.once(_known, prompts)
    missing = [item for item in dict.fromkeys(wanted) if item not in known]
    if missing:
        known.update(zip(missing, _measured(contrast, missing, prompts_of(contrast, prompts))))
    return known


def _known(contrast: Contrast, prompts: str) -> dict[Ablated, Tensor]:
    return {}


def _measured(
    contrast: Contrast, wanted: Sequence[Ablated], other: Batch
) -> Sequence[Float[Tensor, " sample"]]:
    outputs = outputs_of(contrast.model, other, list(dict.fromkeys(node for node, _ in wanted)))
    changed = _that_change(contrast, other)
    places = contrast.place_names
    masks = dict(zip(places, contrast.place_masks(places)))
    patches = [
        Patch({node: outputs[node]}, changed if at is None else changed & masks[at])
        for node, at in wanted
    ]
    lost = contrast.metric(contrast.clean_logits) - metric_with(contrast, patches)
    return list((lost / unit(contrast)).cpu())


def _that_change(contrast: Contrast, other: Batch) -> Bool[Tensor, "batch pos"]:
    """The tokens at or after the first that differs: before it, attention is causal."""
    differs = (contrast.clean.tokens != other.tokens) & contrast.clean.within
    return differs.to(torch.uint8).cummax(1).values.bool() & contrast.clean.within
