"""Where a claim says that a head attends: the keys, by name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from ..evidence.attention import last_occurrence, occurrences
from ..evidence.measurement import NotMeasurable
from ..evidence.patching.edges import place_weights, tokens_at
from ..models.activations import Batch
from ..models.contrast import Contrast
from ..records.claim import RELATIONS

Keys = Bool[Tensor, "batch token pos"]
_OFFSET = re.compile(r"offset (\d+)")


def keys_at(contrast: Contrast, at: str, to: str) -> Keys:
    """The keys that are claimed, for each query at a place.

    Args:
        contrast: The prompts.
        at: The place of the queries.
        to: A place, or one of RELATIONS, or `offset K`: the key K tokens before.

    Returns:
        True at the claimed keys, for each prompt and each token of the place.

    Raises:
        NotMeasurable: There are no such keys in some prompt.
    """
    return contrast.once(_keys_at, at, to)


def _keys_at(contrast: Contrast, at: str, to: str) -> Keys:
    queries = contrast.once(tokens_at, at).index
    if to in contrast.place_names:
        weights = contrast.once(place_weights)[contrast.place_names.index(to)]
        mask = weights.bool()[:, None].expand(-1, queries.shape[1], -1)
    elif to in KEYS:
        mask = _of_queries(KEYS[to](contrast), queries)
    elif match := _OFFSET.fullmatch(to):
        places_back = torch.arange(contrast.clean.tokens.shape[1], device=queries.device)
        mask = places_back == queries[..., None] - int(match[1])
    else:
        raise NotMeasurable(f"there is no place and no relation {to!r} to attend to")
    tokens = torch.arange(mask.shape[2], device=mask.device)
    mask = mask & (tokens <= queries[..., None])
    if not bool(mask.any(2).any(1).all()):
        raise NotMeasurable(f"not every prompt has {to} before or at {at}")
    return mask


def relations(contrast: Contrast, at: str, place: str) -> list[str]:
    """The relations that are the same keys as a place, seen from another, in every prompt.

    Some say something of the place alone: `changed`, its tokens differ between the clean and the
    corrupted prompts; `answer token`, `foil token`, `no answer`, it holds one of these, or none of
    the answers; `elsewhere`, it is another place than that of the query.
    """
    return contrast.once(_relations, at, place)


def _relations(contrast: Contrast, at: str, place: str) -> list[str]:
    names: list[str] = []
    try:
        keys = keys_at(contrast, at, place)
    except NotMeasurable:
        return names
    for name in RELATIONS:
        with contextlib.suppress(NotMeasurable):
            if torch.equal(keys_at(contrast, at, name), keys):
                names.append(name)
    tokens = contrast.once(tokens_at, place)
    here = tokens.of(contrast.clean.tokens)
    of_place = {
        "changed": here != tokens.of(contrast.corrupt.tokens),
        "answer token": contrast.answers.contain(here),
        "foil token": contrast.foils.contain(here),
        "no answer": ~contrast.answers.contain(here),
        "elsewhere": torch.full_like(tokens.valid, place != at),
    }
    return names + [name for name, at_each in of_place.items() if (at_each | ~tokens.valid).all()]


def _of_queries(keys: Bool[Tensor, "batch query pos"], queries: Tensor) -> Keys:
    rows = torch.arange(len(queries), device=queries.device)[:, None]
    return keys[rows, queries]


def last_same(batch: Batch) -> Bool[Tensor, "batch query pos"]:
    """For each token the last earlier occurrence of the same token."""
    tokens = batch.tokens
    same = (tokens[:, :, None] == tokens[:, None]).tril(-1)
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return same & ((same * places).amax(-1, keepdim=True) == places)


def previous(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    """For each token the one before."""
    tokens = contrast.clean.tokens
    each = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return each.roll(-1, 1).tril(-1).expand(len(tokens), -1, -1)


def duplicate(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    """For each token its last earlier occurrence."""
    return last_same(contrast.clean)


def continuation(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    """For each token the one after its last earlier occurrence."""
    same = last_same(contrast.clean)
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    return after


def _itself(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    tokens = contrast.clean.tokens
    each = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return each.expand(len(tokens), -1, -1)


def _first(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    keys = torch.zeros_like(_itself(contrast))
    keys[:, :, 0] = True
    return keys


def _answer(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    at = occurrences(contrast.clean, contrast.answers).bool()
    return at[:, None].expand(-1, at.shape[1], -1)


def _foil(contrast: Contrast) -> Bool[Tensor, "batch query pos"]:
    at = last_occurrence(contrast.clean, contrast.foils).bool()
    return at[:, None].expand(-1, at.shape[1], -1)


KEYS: Mapping[str, Callable[[Contrast], Bool[Tensor, "batch query pos"]]] = dict(
    zip(RELATIONS, (previous, duplicate, continuation, _first, _itself, _answer, _foil))
)
"""The keys of each relation."""
