"""Keep of a head only what its label says: the claimed places are read clean, all others corrupted.

How much of the head's effect survives is the label's sufficiency.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.contrast import Contrast
from ..models.model import Batch, head_index
from ..records.circuit import Node
from .attention import last_occurrence, occurrences
from .composition import (
    feeds_induction,
    feeds_inhibition,
    induction_keys,
    mover_queries,
    reached,
    steers_movers,
    through_inhibitor,
)
from .effects import ablated_output, clean_output, rewritten, share_lost, straight
from .measurement import NotMeasurable
from .path_patching import PathPatching

Keys = Bool[Tensor, "batch query key"]


# --- where a label says that a head looks ------------------------------------------------------


def _before(batch: Batch) -> Keys:
    """For each token the last earlier occurrence of the same one."""
    tokens = batch.tokens
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return same & ((same * places).amax(-1, keepdim=True) == places)


def _previous(contrast: Contrast) -> Keys:
    n, length = contrast.clean.tokens.shape
    return torch.eye(length, dtype=torch.bool).roll(-1, 1).tril(-1).expand(n, -1, -1)


def _duplicate(contrast: Contrast) -> Keys:
    return _before(contrast.clean)


def _continuation(contrast: Contrast) -> Keys:
    after = torch.zeros_like(_before(contrast.clean))
    after[:, :, 1:] = _before(contrast.clean)[:, :, :-1]
    return after


def _at_end(contrast: Contrast, keys: Float[Tensor, "batch pos"]) -> Keys:
    ends = torch.arange(keys.shape[1], device=keys.device) == contrast.clean.end[:, None]
    return ends[:, :, None] & keys.bool()[:, None]


def _answer(contrast: Contrast) -> Keys:
    return _at_end(contrast, occurrences(contrast.clean, contrast.answers))


def _foil(contrast: Contrast) -> Keys:
    return _at_end(contrast, last_occurrence(contrast.clean, contrast.foils))


CLAIMS: dict[str, Callable[[Contrast], Keys]] = {
    "previous_token": _previous,
    "duplicate_token": _duplicate,
    "induction": _continuation,
    "name_mover": _answer,
    "negative_name_mover": _answer,
    "s_inhibition": _foil,
}
"""Roles that say where a head looks."""


# --- what survives -----------------------------------------------------------------------------


def kept_output(contrast: Contrast, node: Node, keys: Keys) -> Float[Tensor, "batch pos d_model"]:
    """What a head writes from these keys, and from all others on the corrupted prompt."""
    layer, head = head_index(node)
    clean = contrast.once(PathPatching)
    corrupt = contrast.remember(
        "corrupt paths", lambda: PathPatching(contrast, contrast.corrupt_run)
    )
    patterns = (run.run.patterns[layer, :, head] for run in (clean, corrupt))
    here, there = patterns
    return clean.attending(node, here * keys) + corrupt.attending(node, there * ~keys)


def loss(contrast: Contrast, role: str, node: Node) -> Callable[[Tensor], Float[Tensor, "batch"]]:
    """What is lost of a head's effect when it writes something else, where the role says it acts.

    Movers act on the logits, previous-token, duplicate-token and S-inhibition heads on a receiver,
    all others on the metric.
    """
    clean = clean_output(contrast, node)
    routes = {
        "previous_token": (feeds_induction, induction_keys),
        "duplicate_token": (feeds_inhibition, through_inhibitor),
        "s_inhibition": (steers_movers, mover_queries),
    }
    if role in ("name_mover", "negative_name_mover"):
        return lambda written: straight(contrast, contrast.clean.at_end(clean - written))
    if role in routes:
        route, effect = routes[role]
        receiver = reached(contrast, route).get(node)
        if receiver is not None:
            return lambda written: effect(contrast, receiver)((written - clean)[None])[0]
    return lambda written: share_lost(contrast, rewritten(contrast, {node: written}))


def losses(
    contrast: Contrast, role: str, node: Node, keys: Keys
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """What is lost when only these keys are kept, and when the head is ablated.

    Raises NotMeasurable.
    """
    lost = loss(contrast, role, node)
    whole = lost(ablated_output(contrast, node))
    if abs(float(whole.mean())) < 1e-6:
        raise NotMeasurable("there is no effect to keep")
    return lost(kept_output(contrast, node, keys)), whole


def random_keys(contrast: Contrast, keys: Keys, seed: int) -> Keys:
    """As many keys for each query, anywhere before it."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(keys.shape, generator=generator).to(keys.device)
    seen = torch.ones_like(keys).tril()
    ranks = order.masked_fill(~seen, 2.0).argsort(-1).argsort(-1)
    return (ranks < keys.sum(-1, keepdim=True)) & seen
