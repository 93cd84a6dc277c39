"""Keep of a head only the attention that its label claims; read all other keys corrupted.

The share of the head's effect that survives is the label's sufficiency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...models.activations import Batch, head_index
from ...models.contrast import Contrast
from ...records.circuit import Node
from ..attention import last_occurrence, occurrences
from ..composition import Effect, k_effect, kv_effect, q_effect, receivers_by_sender
from ..effects import ablated_output, clean_output, direct_logits, logits_with, share_lost
from ..measurement import NotMeasurable
from .edges import kept_and_rest
from .paths import PathPatching

Keys = Bool[Tensor, "batch query key"]


# --- where a label says that a head attends ----------------------------------------------------


def last_same(batch: Batch) -> Keys:
    """For each token the last earlier occurrence of the same token."""
    tokens = batch.tokens
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return same & ((same * places).amax(-1, keepdim=True) == places)


def previous(contrast: Contrast) -> Keys:
    """For each token the one before."""
    tokens = contrast.clean.tokens
    each = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return each.roll(-1, 1).tril(-1).expand(len(tokens), -1, -1)


def duplicate(contrast: Contrast) -> Keys:
    """For each token its last earlier occurrence."""
    return last_same(contrast.clean)


def continuation(contrast: Contrast) -> Keys:
    """For each token the one after its last earlier occurrence."""
    same = last_same(contrast.clean)
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    return after


def _at_end(contrast: Contrast, keys: Float[Tensor, "batch pos"]) -> Keys:
    ends = torch.arange(keys.shape[1], device=keys.device) == contrast.clean.end[:, None]
    return ends[:, :, None] & keys.bool()[:, None]


def _answer(contrast: Contrast) -> Keys:
    return _at_end(contrast, occurrences(contrast.clean, contrast.answers))


def _foil(contrast: Contrast) -> Keys:
    return _at_end(contrast, last_occurrence(contrast.clean, contrast.foils))


CLAIMS: dict[str, Callable[[Contrast], Keys]] = {
    "previous_token": previous,
    "duplicate_token": duplicate,
    "induction": continuation,
    "name_mover": _answer,
    "negative_name_mover": _answer,
    "s_inhibition": _foil,
}
"""By role: the keys that a head of that role attends to."""


# --- what survives -----------------------------------------------------------------------------


def kept_output(contrast: Contrast, node: Node, keys: Keys) -> Float[Tensor, "batch pos d_model"]:
    """What a head writes from these keys when clean plus from all others when corrupted."""
    layer, head = head_index(node)
    clean, corrupt = contrast.once(PathPatching), contrast.once(_corrupt_paths)
    clean_pattern, corrupt_pattern = (
        paths.run.patterns[layer, :, head] for paths in (clean, corrupt)
    )
    kept, rest = kept_and_rest(clean_pattern, corrupt_pattern, keys)
    return clean.output_with(node, kept) + corrupt.output_with(node, rest)


def _corrupt_paths(contrast: Contrast) -> PathPatching:
    return PathPatching(contrast, contrast.corrupt_run)


COMPOSES: dict[str, tuple[str, Callable[[Contrast, Node], Effect]]] = {
    "previous_token": ("feeds_induction", k_effect),
    "duplicate_token": ("feeds_inhibition", kv_effect),
    "s_inhibition": ("steers_movers", q_effect),
}
"""Roles that act on a later head: the measure that finds the receiver, and the effect on it."""


def loss(contrast: Contrast, role: str, node: Node) -> Callable[[Tensor], Float[Tensor, "batch"]]:
    """A function of a head's output: how much of its effect is lost when it writes that.

    The effect is taken where the role acts: movers on the logits, previous-token, duplicate-token
    and S-inhibition heads on their receiver (if one is found), all others on the metric.
    """
    clean = clean_output(contrast, node)
    if role in ("name_mover", "negative_name_mover"):
        return lambda output: direct_logits(contrast, contrast.clean.at_end(clean - output))
    if role in COMPOSES:
        measure, effect_on = COMPOSES[role]
        receiver = receivers_by_sender(contrast, measure).get(node)
        if receiver is not None:
            return lambda output: effect_on(contrast, receiver)((output - clean)[None])[0]
    return lambda output: share_lost(contrast, logits_with(contrast, {node: output}))


def losses(
    contrast: Contrast, role: str, node: Node, keys: Sequence[Keys]
) -> tuple[Float[Tensor, "keys batch"], Float[Tensor, "batch"]]:
    """How much of a head's effect is lost with only some keys, and how much in all.

    Args:
        contrast: The prompts.
        role: Decides where the effect is taken (see `loss`).
        node: A head.
        keys: Sets of those that it reads clean; it reads all others corrupted.

    Returns:
        The losses with each set of keys and the loss when the head is ablated, by example and on
        the CPU.

    Raises:
        NotMeasurable: The head has no effect to keep, or the effect has no meaning for the task.
    """
    loss_of = loss(contrast, role, node)
    whole = loss_of(ablated_output(contrast, node)).cpu()
    if abs(float(whole.mean())) < 1e-6:
        raise NotMeasurable("there is no effect to keep")
    kept = [loss_of(kept_output(contrast, node, each)) for each in keys]
    return torch.stack(kept).cpu(), whole


def random_keys(keys: Keys, seeds: Iterable[int]) -> Bool[Tensor, "seed batch query key"]:
    """As many keys for each query as `keys` has, drawn from all that the query sees."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    order = torch.stack([torch.rand(keys.shape, generator=each) for each in generators])
    order = order.to(keys.device)
    visible = torch.ones_like(keys).tril()
    ranks = order.masked_fill(~visible, 2.0).argsort(-1).argsort(-1)
    return (ranks < keys.sum(-1, keepdim=True)) & visible
