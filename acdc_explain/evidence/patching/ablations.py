"""What is lost of the metric when single components write what they write on other prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...models.activations import Batch
from ...models.contrast import Contrast
from ...records.circuit import Node
from .rerun import Patch, metric_lost, outputs_of

Ablated = tuple[Node, str | None]
"""A component and the place at which it is ablated; None: everywhere."""


def lost_when_ablated(
    contrast: Contrast, wanted: Iterable[Ablated], other: Batch
) -> Mapping[Ablated, Float[Tensor, " sample"]]:
    """What is lost of the clean metric by each ablation alone.

    Each is measured once for the clean prompts, by whomever it is asked for.

    Args:
        contrast: The prompts.
        wanted: The components with their places; all at once, as they are run together.
        other: The prompts that the ablated output is taken from, such as `contrast.corrupt`.

    Returns:
        By component and place: a number for each prompt, on the CPU.
    """
    targets = tuple((example.answers, example.foils) for example in contrast.examples)
    key = contrast.metric_name, targets, other.tokens.cpu().numpy().tobytes()
    known: dict[Ablated, Tensor] = contrast.once_for_clean(_all_known).setdefault(key, {})
    missing = [item for item in dict.fromkeys(wanted) if item not in known]
    if not missing:
        return known
    outputs = outputs_of(contrast, other, list(dict.fromkeys(node for node, _ in missing)))
    changed = tokens_that_change(contrast, other)
    places = contrast.place_names if any(at is not None for _, at in missing) else ()
    masks = dict(zip(places, contrast.place_masks(places))) if places else {}
    patches = [
        Patch({node: outputs[node]}, changed if at is None else changed & masks[at])
        for node, at in missing
    ]
    known.update(zip(missing, metric_lost(contrast, patches).cpu()))
    return known


def tokens_that_change(contrast: Contrast, other: Batch) -> Bool[Tensor, "batch pos"]:
    """The tokens at or after the first that differs: before it, attention is causal."""
    differs = (contrast.clean.tokens != other.tokens) & contrast.clean.within
    return differs.to(torch.uint8).cummax(1).values.bool() & contrast.clean.within


def _all_known(contrast: Contrast) -> dict[object, dict[Ablated, Tensor]]:
    """By metric, its tokens, and the other prompts: a scheme may have other foils."""
    return {}
