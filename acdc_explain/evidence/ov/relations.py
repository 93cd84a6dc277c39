"""To what a head's OV circuit maps an attended word: its successor, or a related word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.contrast import Contrast
from ...models.functional.layers import ov_outputs
from ...models.model import Model
from ..measurement import Measurement, NotMeasurable, per_head
from .copying import LOGIT_BYTES, effective_embedding

ORDERED = (
    "one two three four five six seven eight nine ten eleven twelve",
    "first second third fourth fifth sixth seventh eighth ninth tenth",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "January February March April May June July August September October November December",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    " ".join(map(str, range(1, 21))),
)
CAPITALS = (
    "France Paris Germany Berlin Italy Rome Spain Madrid England London Russia Moscow China "
    "Beijing Japan Tokyo Egypt Cairo Greece Athens Austria Vienna Poland Warsaw Ireland "
    "Dublin Norway Oslo Sweden Stockholm Finland Helsinki Denmark Copenhagen Portugal "
    "Lisbon Turkey Ankara Cuba Havana Canada Ottawa Kenya Nairobi Peru Lima Chile Santiago "
    "India Delhi Iran Tehran Iraq Baghdad Syria Damascus Israel Jerusalem Lebanon Beirut "
    "Jordan Amman Thailand Bangkok Vietnam Hanoi Indonesia Jakarta Philippines Manila "
    "Australia Canberra Hungary Budapest Belgium Brussels Netherlands Amsterdam Scotland "
    "Edinburgh Ukraine Kiev Korea Seoul Venezuela Caracas"
)
OPPOSITES = (
    "hot cold big small good bad up down left right open closed black white old young rich "
    "poor high low fast slow hard soft long short light dark early late first last strong "
    "weak happy sad true false win lose buy sell day night love hate friend enemy summer "
    "winter north south east west inside outside above below before after more less begin "
    "end push pull"
)
FEWEST_ORDERED, FEWEST_PAIRS = 10, 30


def _pairs(model: Model, words: Sequence[str]) -> list[tuple[int, int]]:
    """The ids of adjacent words that are one known token each."""
    tokens = [model.token_ids(f" {word}") for word in words]
    ids = [word_ids[0] if len(word_ids) == 1 else None for word_ids in tokens]
    unknown = model.tokenizer.unk_token_id
    pairs = [(a, b) for a, b in pairwise(ids) if a is not None and b is not None]
    return [pair for pair in pairs if unknown not in pair]


@torch.no_grad()
def _hits(
    model: Model, pairs: Sequence[tuple[int, int]], top: int, most: int | None = None
) -> tuple[Float[Tensor, "layer head pair"], Float[Tensor, "layer head pair"]]:
    """Whether the second word's logit is in the top, when a head attends to the first of a pair.

    Most words are not: a sample of the vocabulary has enough higher logits. The whole of it is
    computed for the others alone.

    Args:
        model: The model.
        pairs: Tokens.
        top: Fewer logits than this are higher.
        most: The number of pairs to measure; all by default.

    Returns:
        1 or 0, and as a control those of the second words of other pairs.
    """
    seconds = [second for _, second in pairs]
    half = len(pairs) // 2
    others = seconds[half:] + seconds[:half]
    stream = effective_embedding(model, [first for first, _ in pairs])[:most]
    chosen = torch.tensor([seconds[:most], others[:most]], device=model.device)
    layers = []
    for layer in range(model.graph.n_layers):
        outputs = ov_outputs(model, layer, stream)
        ids = chosen[:, None].expand(-1, len(outputs), -1)
        layers.append(torch.stack([_in_top(model, outputs, some, top) for some in ids]))
    hits, control = torch.stack(layers).unbind(1)
    return hits, control


SAMPLED = 12  # one token in so many
SLACK = 0.02  # of a logit, by which a sampled one must be higher: more than any rounding


def _in_top(
    model: Model, outputs: Float[Tensor, "head pair d_model"], ids: Tensor, top: int
) -> Float[Tensor, "head pair"]:
    """1 where fewer than `top` logits are above that of `ids`, when a head writes this alone."""
    flat, ids = outputs.flatten(0, 1), ids.flatten()
    words, place = torch.unique(ids, return_inverse=True)
    some = torch.arange(0, model.unembedding.shape[1], SAMPLED, device=ids.device)
    logits = model.logits_of(flat, torch.cat([some, words]))
    sampled, own = logits[:, : len(some)], logits[:, len(some) :].gather(1, place[:, None])
    higher = (sampled > own + SLACK * own.abs()) & (some != ids[:, None])
    left = (higher.sum(-1) < top).nonzero().flatten()
    hits = torch.zeros(len(flat), device=ids.device)
    step = max(1, LOGIT_BYTES // (4 * model.unembedding.shape[1]))
    for start in range(0, len(left), step):
        rows = left[start : start + step]
        logits = model.unembed(flat[rows])
        above = (logits > logits.gather(1, ids[rows, None])).sum(-1)
        hits[rows] = (above < top).to(hits.dtype)
    return hits.view(outputs.shape[:2])


_OF_MODEL: WeakKeyDictionary[Model, dict[str, Measurement]] = WeakKeyDictionary()


def _once_for_model(model: Model, measured: Callable[[Model], Measurement]) -> Measurement:
    """A measure of weights and fixed words, which is the same for every task."""
    known = _OF_MODEL.setdefault(model, {})
    if measured.__name__ not in known:
        known[measured.__name__] = measured(model)
    return known[measured.__name__]


def successor_score(contrast: Contrast) -> Measurement:
    """Share of ordinal words (numbers, days, months ...) whose successor gets the top logit."""
    return _once_for_model(contrast.model, _successors)


def _successors(model: Model) -> Measurement:
    pairs = [pair for words in ORDERED for pair in _pairs(model, words.split())]
    if len(pairs) < FEWEST_ORDERED:
        raise NotMeasurable(f"the tokenizer has {len(pairs)} pairs of ordinal words")
    return per_head("successor_score", model.graph, *_hits(model, pairs, 1))


def relation_score(contrast: Contrast) -> Measurement:
    """Share of pairs whose second word a head raises into the top 10.

    For capitals of countries or opposites, whichever the head does better.
    """
    return _once_for_model(contrast.model, _relations)


def _relations(model: Model) -> Measurement:
    best: tuple[Tensor, Tensor] | None = None
    for words in (CAPITALS.split(), OPPOSITES.split()):
        pairs = [p for i in range(0, len(words), 2) for p in _pairs(model, words[i : i + 2])]
        if len(pairs) < FEWEST_PAIRS:
            continue
        hits, control = _hits(model, pairs, 10, FEWEST_PAIRS)
        if best is not None:
            better = hits.mean(-1, keepdim=True) > best[0].mean(-1, keepdim=True)
            hits, control = (
                torch.where(better, new, old) for new, old in zip((hits, control), best)
            )
        best = hits, control
    if best is None:
        raise NotMeasurable(f"the tokenizer has less than {FEWEST_PAIRS} pairs of a relation")
    return per_head("relation_score", model.graph, *best)
