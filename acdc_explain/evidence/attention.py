"""Where heads attend, on random tokens and on the prompts of a task."""

from __future__ import annotations

from itertools import product, repeat
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.activations import Batch, head_index, value_hooks
from ..models.contrast import Contrast
from ..models.metrics import TokenSets
from ..models.model import Model
from ..records.circuit import Node
from .measurement import Measurement, NotMeasurable, per_head

RANDOM_SEQUENCES = 12
EXAMPLE_TOKENS = 40  # the last tokens of an example are shown
RANDOM_LENGTH = 24  # tokens that are repeated, or half of what fits the model's context


def random_repeats(model: Model, *, seed: int = 0) -> Batch:
    """Sequences of random tokens, each repeated once, so that only repetition is predictable."""
    special = set(model.tokenizer.all_special_ids)
    usable = [i for i in range(len(model.tokenizer)) if i not in special]
    generator = torch.Generator().manual_seed(seed)
    size = (RANDOM_SEQUENCES, _repeated_length(model))
    if len(usable) >= size[1]:  # without replacement: each token has one earlier occurrence
        chosen = torch.rand(size[0], len(usable), generator=generator).argsort(1)[:, : size[1]]
    else:
        chosen = torch.randint(0, len(usable), size, generator=generator)
    return model.batch_ids([[usable[i] for i in [*row, *row]] for row in chosen.tolist()])


def _repeated_length(model: Model) -> int:
    context = model.context_length
    return min(RANDOM_LENGTH, (context - len(model.prefix)) // 2)


def diagonal(
    patterns: Float[Tensor, "layer batch head query key"], offset: int, queries: range
) -> Float[Tensor, "layer head batch"]:
    """Mean attention from each of `queries` to the key `offset` (negative: back) from it."""
    rows = torch.arange(max(queries.start, -offset), queries.stop, device=patterns.device)
    picked = patterns[..., rows, rows + offset]  # [layer batch head row]
    return picked.mean(-1).transpose(1, 2)


def other_keys(
    patterns: Float[Tensor, "layer batch head query key"], offset: int, queries: range
) -> Float[Tensor, "layer head batch"]:
    """Mean attention to the other keys: `diagonal` if the key did not matter."""
    rows = torch.arange(max(queries.start, -offset, 1), queries.stop, device=patterns.device)
    picked = patterns[..., rows, rows + offset]
    return ((1 - picked) / rows.to(picked.dtype)).mean(-1).transpose(1, 2)


def _along_diagonal(contrast: Contrast, name: str, offset: int, queries: range) -> Measurement:
    """Attention to the key at an offset on random tokens; the control is any other key."""
    patterns = _random_patterns(contrast)[0]
    value, control = (f(patterns, offset, queries) for f in (diagonal, other_keys))
    return per_head(name, contrast.model.graph, value, control)


def _random_patterns(contrast: Contrast) -> tuple[Tensor, range, range]:
    """Patterns on `random_repeats`, and the queries of the first and of the second half."""
    start, length = len(contrast.model.prefix), _repeated_length(contrast.model)
    first, second = range(start, start + length), range(start + length, start + 2 * length)
    return contrast.once(_patterns_on_repeats), first, second


def _patterns_on_repeats(contrast: Contrast) -> Float[Tensor, "layer batch head query key"]:
    return contrast.model.patterns(random_repeats(contrast.model))


def previous_token_attention(contrast: Contrast) -> Measurement:
    """Attention to the previous token, on random tokens."""
    _, first, _ = _random_patterns(contrast)
    queries = range(max(1, first.start), first.stop)
    return _along_diagonal(contrast, "previous_token_attention", -1, queries)


def duplicate_token_attention(contrast: Contrast) -> Measurement:
    """Attention to the previous occurrence of the same token, on repeated random tokens."""
    second = _random_patterns(contrast)[2]
    return _along_diagonal(contrast, "duplicate_token_attention", -len(second), second)


def induction_attention(contrast: Contrast) -> Measurement:
    """Attention to the token after the previous occurrence, on repeated random tokens."""
    second = _random_patterns(contrast)[2]
    return _along_diagonal(contrast, "induction_attention", 1 - len(second), second)


def fixed_offset_attention(contrast: Contrast) -> Measurement:
    """Attention on random tokens to the key 2 to 7 back that a head attends to most.

    As the tokens are random and not yet repeated, a preferred distance must be positional. The
    control is the other distances.
    """
    patterns, first, _ = _random_patterns(contrast)
    queries = range(first.start + 7, first.stop)  # nothing is repeated there
    if len(queries) < 6:
        raise NotMeasurable("the model reads too few tokens to tell a distance from a place")
    offsets = range(-7, -1)  # not 0: a token is also its own duplicate
    by_offset = torch.stack([diagonal(patterns, offset, queries) for offset in offsets])
    best = by_offset.mean(-1, keepdim=True).argmax(0, keepdim=True)
    at_best = by_offset.gather(0, best.expand(1, *by_offset.shape[1:]))[0]
    others = (by_offset.sum(0) - at_best) / (len(offsets) - 1)  # the distances not chosen
    return per_head("fixed_offset_attention", contrast.model.graph, at_best, others)


def _spread(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """Normalised entropy and largest share of the attention, [layer batch head query]."""
    patterns = contrast.clean_run.patterns
    n_keys = torch.arange(1, patterns.shape[-1] + 1, device=patterns.device)  # that a query sees
    most = n_keys.to(patterns.dtype).log().clamp_min(1e-9)
    entropy = torch.special.entr(patterns).sum(-1) / most
    return entropy, patterns.amax(-1)


def _over_queries(contrast: Contrast, name: str, values: Tensor) -> Measurement:
    """The mean over queries that see at least four tokens."""
    places = torch.arange(values.shape[-1], device=values.device)
    queries = ((places > 2) & (places <= contrast.clean.end[:, None])).to(values.dtype)
    sums = torch.einsum("lbhq,bq->lhb", values, queries)
    return per_head(name, contrast.model.graph, sums / queries.sum(1).clamp_min(1))


def attention_entropy(contrast: Contrast) -> Measurement:
    """Entropy of the attention over its maximum: 1 if it is uniform, 0 if on one token."""
    return _over_queries(contrast, "attention_entropy", _spread(contrast)[0])


def largest_attention(contrast: Contrast) -> Measurement:
    """The share of attention that the most attended token gets."""
    return _over_queries(contrast, "largest_attention", _spread(contrast)[1])


def sink_attention(contrast: Contrast) -> Measurement:
    """Attention to the first token, from all tokens of the clean prompts but the first two."""
    patterns, batch = contrast.clean_run.patterns, contrast.clean
    places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    queries = ((places > 1) & (places <= batch.end[:, None])).to(patterns.dtype)
    share = torch.einsum("lbhq,bq->lhb", patterns[..., 0], queries) / queries.sum(1).clamp_min(1)
    even = (queries / (places + 1)).sum(1) / queries.sum(1).clamp_min(1)  # to all keys alike
    return per_head("sink_attention", contrast.model.graph, share, even.expand_as(share))


def first_value_norm(contrast: Contrast) -> Measurement:
    """Size of a head's value vector at the first token, relative to its mean at the others."""
    model, batch = contrast.model, contrast.clean
    by_layer: list[Tensor] = []
    hooks = value_hooks(model.graph, lambda values: by_layer.append(values.norm(dim=-1)))
    with torch.no_grad():
        model.forward(batch, hooks)
    norms = torch.stack(by_layer)  # [layer batch pos head]
    places = torch.arange(batch.tokens.shape[1], device=model.device)
    others = ((places > 0) & (places <= batch.end[:, None])).to(norms.dtype)
    mean = torch.einsum("lbph,bp->lbh", norms, others) / others.sum(1).clamp_min(1)[:, None]
    ratio = norms[:, :, 0] / mean.clamp_min(1e-12)
    return per_head("first_value_norm", model.graph, ratio.transpose(1, 2), 1.0)


def named_attention(contrast: Contrast) -> dict[Node, dict[str, float]]:
    """Mean attention of every head between the task's named positions.

    Returns:
        For each head, attention by "QUERY to KEY", for keys that are never after the query.
    """
    patterns, rows = contrast.clean_run.patterns, contrast.clean.rows
    pairs = [
        (query, key)
        for query, key in product(contrast.position_names, repeat=2)
        if all(x.positions[key] <= x.positions[query] for x in contrast.examples)
    ]
    means = [
        patterns[:, rows, :, contrast.position(query), contrast.position(key)].mean(0)
        for query, key in pairs
    ]
    by_head = torch.stack(means, -1).flatten(0, 1).tolist() if means else repeat([])
    return {
        node: {f"{query} to {key}": round(x, 3) for (query, key), x in zip(pairs, values)}
        for node, values in zip(contrast.model.graph.heads, by_head)
    }


def example_attention(contrast: Contrast, node: Node) -> dict[str, list[Any]]:
    """A head's attention among the last tokens of the first example.

    Returns:
        `tokens`, and `attention` with a row for each of them: to each shown token up to itself.
    """
    tokens, patterns = contrast.once(_first_example, EXAMPLE_TOKENS)
    pattern = patterns[head_index(node)].tolist()
    rows = [[round(x, 2) for x in row[: i + 1]] for i, row in enumerate(pattern)]
    return {"tokens": tokens, "attention": rows}


def _first_example(
    contrast: Contrast, most: int
) -> tuple[list[str], Float[Tensor, "layer head query key"]]:
    """The last tokens of the first example, and the attention among them, on the CPU."""
    end = int(contrast.clean.end[0]) + 1
    shown = slice(max(0, end - most), end)
    tokens = [contrast.model.piece(i) for i in contrast.clean.tokens[0, shown].tolist()]
    return tokens, contrast.clean_run.patterns[:, 0, :, shown, shown].cpu()


def occurrences(batch: Batch, sets: TokenSets) -> Float[Tensor, "batch pos"]:
    """1 at the positions before the last token that hold one of a set's tokens."""
    positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    return (sets.contain(batch.tokens) & (positions < batch.end[:, None])).float()


def answer_attention(contrast: Contrast) -> Measurement:
    """Attention from the last token to the answer, minus that to the foils."""
    answers = occurrences(contrast.clean, contrast.answers)
    foils = occurrences(contrast.clean, contrast.foils)
    if not bool((answers.sum(1) > 0).all()):
        raise NotMeasurable("the answer does not occur in the prompts")
    difference = from_end(contrast, answers - foils)
    no_preference = 0.0  # the foils are the control already
    return per_head("answer_attention", contrast.model.graph, difference, no_preference)


def last_occurrence(batch: Batch, sets: TokenSets) -> Float[Tensor, "batch pos"]:
    """1 at the last position before the last token that holds one of a set's tokens."""
    all_ = occurrences(batch, sets)
    places = torch.arange(1, all_.shape[1] + 1, device=all_.device)
    return all_ * ((all_ * places).amax(1, keepdim=True) == places)


def from_end(
    contrast: Contrast, keys: Float[Tensor, "batch pos"]
) -> Float[Tensor, "layer head batch"]:
    """Attention from the last token to the keys, summed with their weights."""
    patterns, batch = contrast.clean_run.patterns, contrast.clean
    rows = patterns[:, batch.rows, :, batch.end]  # [batch layer head key]
    return torch.einsum("blhk,bk->lhb", rows, keys.to(rows.dtype))


def foil_attention(contrast: Contrast) -> Measurement:
    """Attention from the last token to the last occurrence of a foil."""
    keys = last_occurrence(contrast.clean, contrast.foils)
    if not bool((keys.sum(1) > 0).all()):
        raise NotMeasurable("the foil does not occur in the prompts")
    return _on_keys(contrast, "foil_attention", keys)


def _on_keys(contrast: Contrast, name: str, keys: Float[Tensor, "batch pos"]) -> Measurement:
    """Attention from the last token to some keys; the control is as many other keys."""
    attention = from_end(contrast, keys)
    n_keys = keys.sum(1).to(attention.dtype)
    n_others = (contrast.clean.end + 1 - n_keys).clamp_min(1)
    control = (1 - attention) * n_keys / n_others
    return per_head(name, contrast.model.graph, attention, control)


def subject_attention(contrast: Contrast) -> Measurement:
    """Attention from the last token to the position named `subject`."""
    keys = at_position(contrast, "subject")
    return _on_keys(contrast, "subject_attention", keys)


def at_position(contrast: Contrast, name: str) -> Float[Tensor, "batch pos"]:
    """1 at a named position. Raises NotMeasurable where the task names none."""
    if name not in contrast.position_names:
        raise NotMeasurable(f"the task names no position {name!r}")
    return contrast.position_mask(name).to(contrast.model.dtype)
