"""What a head's OV circuit does with an attended token: copy it or suppress it.

A head is given the token's effective embedding alone, so these measures depend on weights and
vocabulary and not on where the head attends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.contrast import Contrast
from ...models.functional.layers import ov_outputs, unrotated_scores
from ...models.model import Model
from ..measurement import Measurement, per_head

OTHER_WORDS = 5  # other words of the task, for each attended word: the control
LOGIT_BYTES = 64 << 20  # the logits that are held at a time
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
