"""What a head's OV circuit does with an attended token: copy it, suppress it, or map it to another.

A head is given the token's effective embedding alone, so these measures depend on weights and
vocabulary and not on where the head attends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.contrast import Contrast
from ..models.functional.layers import ov_outputs, unrotated_scores
from ..models.model import Model
from .measurement import Measurement, NotMeasurable, per_head

OTHER_WORDS = 5  # other words of the task, for each attended word: the control
LOGIT_BYTES = 256 << 20  # the logits that are held at a time
TOP = 5  # a token is copied if its logit is among the TOP highest


def copying_words(contrast: Contrast, most: int = 100) -> list[int]:
    """The task's answers and foils; if these are few, the tokens of its prompts as well."""
    model = contrast.model
    words = [word for e in contrast.examples for word in (*e.answers, *e.foils)]
    ids = list(dict.fromkeys(model.single(word) for word in words))
    if len(ids) < 10:
        prompts = [i for e in contrast.examples for i in model.token_ids(e.clean)]
        ids = list(dict.fromkeys([*ids, *prompts]))
    return ids[:most]


@torch.no_grad()
def effective_embedding(
    model: Model, words: Sequence[int], *, contexts: int = 4
) -> Float[Tensor, "word d_model"]:
    """The residual stream after block 0 at each token, averaged over random tokens before it.

    In a model with one layer, the stream that block 0 reads.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(len(words), model.d_model, dtype=model.dtype, device=model.device)
    for _ in range(contexts):
        before = torch.randint(0, len(words), (len(words),), generator=generator).tolist()
        batch = model.batch_ids([[words[b], word] for b, word in zip(before, words)])
        one_layer = model.graph.n_layers == 1
        stream = model.embed(batch) if one_layer else model.layer_inputs(batch).streams[1]
        total += batch.at_end(stream)
    return total / contexts


@torch.no_grad()
def qk_affinity(
    model: Model, layer: int, head: int, queries: Sequence[int], keys: Sequence[int]
) -> Float[Tensor, "query key"]:
    """A head's attention scores between tokens, before the softmax.

    From the effective embeddings of the tokens, without rotary positions.
    """
    embedded = (effective_embedding(model, words) for words in (queries, keys))
    return unrotated_scores(model, layer, head, *embedded)


@dataclass(frozen=True)
class WordLogits:
    """How one word's logit in a head's output compares with all other logits."""

    highest: Bool[Tensor, "layer head word"]  # fewer than TOP tokens have a higher one
    lowest: Bool[Tensor, "layer head word"]  # fewer than TOP have a lower one
    z: Float[Tensor, "layer head word"]  # distance from the mean, in standard deviations


@torch.no_grad()
def word_logits(contrast: Contrast) -> tuple[WordLogits, list[WordLogits]]:
    """Every head attending to each word of the task: e(t) -> OV -> final norm -> unembedding.

    Returns:
        The logits of the attended words themselves, and as controls those of other words of the
        task (OTHER_WORDS of them for each word, or as many as there are).
    """
    model, words = contrast.model, copying_words(contrast)
    stream = effective_embedding(model, words)
    attended = torch.tensor(words, device=model.device)
    shifts = range(1, min(OTHER_WORDS, len(words) - 1) + 1) or range(1)
    scored_words = (attended, *(attended.roll(shift) for shift in shifts))

    def compare(logits: Tensor, some: slice) -> Float[Tensor, "3 scored head some"]:
        spread = _Spread.of(logits)
        fields = [torch.stack(spread.compare(logits, ids[some])) for ids in scored_words]
        return torch.stack(fields, 1)

    highest, lowest, z = _of_all_heads(model, stream, compare).unbind(1)
    itself, *others = map(
        WordLogits, *(fields.unbind(1) for fields in (highest > 0, lowest > 0, z))
    )
    return itself, others


def _of_all_heads(
    model: Model,
    stream: Float[Tensor, "word d_model"],
    of: Callable[[Float[Tensor, "head some vocab"], slice], Float[Tensor, "*any head some"]],
) -> Float[Tensor, "layer *any head word"]:
    """A function of the logits of every head that attends to each word, for some words at a time.

    Few enough words for LOGIT_BYTES: a vocabulary may have 262,144 tokens.
    """
    vocab = model.unembedding.shape[1] * model.unembedding.element_size()
    step = max(1, LOGIT_BYTES // (vocab * model.graph.n_heads))
    pieces = [slice(at, at + step) for at in range(0, len(stream), step)]
    layers = []
    for layer in range(model.graph.n_layers):
        outputs = ov_outputs(model, layer, stream)
        layers.append(torch.cat([of(model.unembed(outputs[:, some]), some) for some in pieces], -1))
    return torch.stack(layers)


@dataclass(frozen=True)
class _Spread:
    """The distribution of all logits of a head's output, with which one logit is compared."""

    high: Float[Tensor, "head word 1"]  # the TOP-th largest
    low: Float[Tensor, "head word 1"]  # the TOP-th smallest
    mean: Float[Tensor, "head word 1"]
    deviation: Float[Tensor, "head word 1"]

    @staticmethod
    def of(logits: Float[Tensor, "head word vocab"]) -> _Spread:
        few = min(TOP, logits.shape[-1])
        return _Spread(
            logits.topk(few).values[..., -1:],
            logits.topk(few, largest=False).values[..., -1:],
            logits.mean(-1, keepdim=True),
            logits.std(-1, keepdim=True).clamp_min(1e-12),  # a head may write nothing
        )

    def compare(
        self, logits: Float[Tensor, "head word vocab"], ids: Int[Tensor, " word"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The fields of `WordLogits`, for the logits of `ids`."""
        chosen = logits.gather(-1, ids[None, :, None].expand(len(logits), -1, 1))
        z = (chosen - self.mean) / self.deviation
        return (chosen >= self.high)[..., 0], (chosen <= self.low)[..., 0], z[..., 0]


def _of_words(
    contrast: Contrast, name: str, of: Callable[[WordLogits], Float[Tensor, "layer head word"]]
) -> Measurement:
    itself, others = contrast.once_for_clean(word_logits)
    control = torch.stack([of(other) for other in others]).mean(0)
    return per_head(name, contrast.model.graph, of(itself), control)


def copying(contrast: Contrast) -> Measurement:
    """Share of tokens whose logit a head raises into the top 5 by attending to them."""
    return _of_words(contrast, "copying", lambda logits: logits.highest.float())


def negative_copying(contrast: Contrast) -> Measurement:
    """Share of tokens whose logit a head lowers into the bottom 5 by attending to them."""
    return _of_words(contrast, "negative_copying", lambda logits: logits.lowest.float())


def copying_strength(contrast: Contrast) -> Measurement:
    """How far the attended token's own logit stands out, in standard deviations of all logits."""
    return _of_words(contrast, "copying_strength", lambda logits: logits.z)


# --- successors and relations ------------------------------------------------------------------

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
def _ranks(
    model: Model, pairs: Sequence[tuple[int, int]], most: int | None = None
) -> tuple[Float[Tensor, "layer head pair"], Float[Tensor, "layer head pair"]]:
    """How many logits are above the second word's, when a head attends to the first of a pair.

    Args:
        model: The model.
        pairs: Tokens.
        most: The number of pairs to measure; all by default.

    Returns:
        The ranks, and as a control those of the second words of other pairs.
    """
    seconds = [second for _, second in pairs]
    half = len(pairs) // 2
    others = seconds[half:] + seconds[:half]
    stream = effective_embedding(model, [first for first, _ in pairs])[:most]
    chosen = torch.tensor([seconds[:most], others[:most]], device=model.device)

    def rank(logits: Tensor, some: slice) -> Float[Tensor, "2 head some"]:
        ids = chosen[:, None, some, None].expand(-1, len(logits), -1, -1)
        return torch.stack([(logits > logits.gather(-1, i)).sum(-1) for i in ids])

    ranks, control = _of_all_heads(model, stream, rank).unbind(1)
    return ranks, control


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
    ranks, control = _ranks(model, pairs)
    return per_head("successor_score", model.graph, (ranks < 1).float(), (control < 1).float())


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
        hits, control = ((ranks < 10).float() for ranks in _ranks(model, pairs, FEWEST_PAIRS))
        if best is not None:
            better = hits.mean(-1, keepdim=True) > best[0].mean(-1, keepdim=True)
            hits, control = (
                torch.where(better, new, old) for new, old in zip((hits, control), best)
            )
        best = hits, control
    if best is None:
        raise NotMeasurable(f"the tokenizer has less than {FEWEST_PAIRS} pairs of a relation")
    return per_head("relation_score", model.graph, *best)
