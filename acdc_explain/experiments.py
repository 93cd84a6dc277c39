"""Measurements and interventions on components. Each returns samples, so that error is known.

A measure gives every head (or every head and MLP) of the model a number: the component under
test and its null, all others of its kind, come from the same run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from .circuit import Node
from .measurement import Measurement, NotMeasurable
from .metrics import TokenSets
from .model import Batch, Hook, Model, head_index, layer_of
from .subject import Subject

RANDOM_SEQUENCES = 12
RANDOM_LENGTH = 24  # tokens that are repeated, or as many as fit the model's context twice
TOP = 5  # a token is copied if it is among so many highest logits


def _per_head(measure: str, model: Model, samples: Float[Tensor, "layer head n"]) -> Measurement:
    flat = samples.reshape(len(model.graph.heads), -1)
    return Measurement(measure, model.graph.heads, flat)


# --- attention on random tokens ----------------------------------------------------------------


def random_repeats(model: Model, *, seed: int = 0) -> Batch:
    """Sequences of random tokens, each written twice: nothing to go by but the repetition."""
    special = set(model.tokenizer.all_special_ids)
    usable = [i for i in range(len(model.tokenizer)) if i not in special]
    generator = torch.Generator().manual_seed(seed)
    size = (RANDOM_SEQUENCES, _repeated_length(model))
    chosen = torch.randint(0, len(usable), size, generator=generator)
    return model.batch_ids([[usable[i] for i in [*row, *row]] for row in chosen.tolist()])


def _repeated_length(model: Model) -> int:
    context: int = model.cfg.n_ctx
    return min(RANDOM_LENGTH, (context - len(model.prefix)) // 2)


def diagonal(
    patterns: Float[Tensor, "layer batch head query key"], offset: int, queries: range
) -> Float[Tensor, "layer head batch"]:
    """Mean attention from each of `queries` to the key `offset` (negative: back) from it."""
    rows = torch.tensor([q for q in queries if q + offset >= 0])
    picked = patterns[..., rows, rows + offset]  # [layer batch head row]
    return picked.mean(-1).transpose(1, 2)


def _random_patterns(subject: Subject) -> tuple[Tensor, range, range]:
    """Patterns on `random_repeats`, and the queries of the first and of the second half."""
    model = subject.model
    patterns = subject.remember("random patterns", lambda: model.patterns(random_repeats(model)))
    start = len(model.prefix)
    length = _repeated_length(model)
    return patterns, range(start, start + length), range(start + length, start + 2 * length)


def previous_token_attention(subject: Subject) -> Measurement:
    """Attention to the token before, on random tokens."""
    patterns, first, _ = _random_patterns(subject)
    queries = range(max(1, first.start), first.stop)
    return _per_head("previous_token_attention", subject.model, diagonal(patterns, -1, queries))


def duplicate_token_attention(subject: Subject) -> Measurement:
    """Attention to the previous occurrence of the same token, on repeated random tokens."""
    patterns, _, second = _random_patterns(subject)
    found = diagonal(patterns, -len(second), second)
    return _per_head("duplicate_token_attention", subject.model, found)


def induction_attention(subject: Subject) -> Measurement:
    """Attention to the token after the previous occurrence, on repeated random tokens."""
    patterns, _, second = _random_patterns(subject)
    found = diagonal(patterns, 1 - len(second), second)
    return _per_head("induction_attention", subject.model, found)


def sink_attention(subject: Subject) -> Measurement:
    """Attention to the very first token, from all tokens of the clean prompts but the first two."""
    patterns, batch = subject.clean_run.patterns, subject.clean
    places = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    queries = ((places > 1) & (places <= batch.end[:, None])).to(patterns.dtype)
    sums = torch.einsum("lbhq,bq->lhb", patterns[..., 0], queries)
    return _per_head("sink_attention", subject.model, sums / queries.sum(1).clamp_min(1))


def first_value_norm(subject: Subject) -> Measurement:
    """Size of a head's value vector at the first token, relative to its mean at the others."""
    model, batch = subject.model, subject.clean
    norms: list[Tensor] = []
    hooks: list[Hook] = [
        (f"blocks.{layer}.attn.hook_v", lambda value, hook: norms.append(value.norm(dim=-1)))
        for layer in range(model.graph.n_layers)
    ]
    with torch.no_grad():
        model.forward(batch, hooks)
    found = torch.stack(norms)  # [layer batch pos head]
    places = torch.arange(batch.tokens.shape[1], device=model.device)
    others = ((places > 0) & (places <= batch.end[:, None])).to(found.dtype)
    mean = torch.einsum("lbph,bp->lbh", found, others) / others.sum(1).clamp_min(1)[:, None]
    ratio = found[:, :, 0] / mean.clamp_min(1e-12)
    return _per_head("first_value_norm", model, ratio.transpose(1, 2))


def named_attention(subject: Subject) -> dict[Node, dict[str, float]]:
    """Mean attention of every head from each of the task's named positions to each before it."""
    patterns, rows = subject.clean_run.patterns, subject.clean.rows
    found: dict[Node, dict[str, float]] = {node: {} for node in subject.model.graph.heads}
    places = {name: subject.position(name) for name in subject.position_names}
    for query, at in places.items():
        for key, to in places.items():
            if not bool((to <= at).all()):
                continue
            mean = patterns[:, rows, :, at, to].mean(0)  # [layer head]
            for node in found:
                found[node][f"{query} to {key}"] = round(float(mean[head_index(node)]), 3)
    return found


# --- weights -----------------------------------------------------------------------------------


def copying_words(subject: Subject, most: int = 100) -> list[int]:
    """Tokens the task is about: answers and foils, or else whatever its prompts contain."""
    model = subject.model
    words = [word for e in subject.examples for word in (*e.answers, *e.foils)]
    ids = list(dict.fromkeys(model.single(word) for word in words))
    if len(ids) < 10:
        prompts = [i for e in subject.examples for i in model.token_ids(e.clean)]
        ids = list(dict.fromkeys([*ids, *prompts]))
    return ids[:most]


@torch.no_grad()
def effective_embedding(
    model: Model, words: Sequence[int], *, contexts: int = 4
) -> Float[Tensor, "word d_model"]:
    """The residual stream after block 0 at a token, averaged over other tokens before it."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(len(words), model.cfg.d_model, dtype=model.dtype, device=model.device)
    for _ in range(contexts):
        before = torch.randint(0, len(words), (len(words),), generator=generator).tolist()
        batch = model.batch_ids([[words[b], word] for b, word in zip(before, words)])
        total += batch.at_end(model.record_blocks(batch).inputs[1])
    return total / contexts


@torch.no_grad()
def head_output_attending_to(
    model: Model, stream: Float[Tensor, "word d_model"], layer: int
) -> Float[Tensor, "head word d_model"]:
    """What each head of a layer writes when it attends to nothing but that residual stream."""
    block = model.bridge.blocks[layer]
    normed = block.ln1(stream[:, None])[:, 0]
    values = torch.einsum("wd,hde->hwe", normed, model.bridge.W_V[layer].detach())
    bias = getattr(block.attn, "b_V", None)
    if bias is not None:
        values = values + bias.detach()[:, None]
    return torch.einsum("hwe,hed->hwd", values, model.bridge.W_O[layer].detach())


@dataclass(frozen=True)
class OwnLogit:
    """The attended token's own logit in what a head writes, among all logits."""

    above: Float[Tensor, "layer head word"]  # how many tokens have a higher one
    below: Float[Tensor, "layer head word"]  # how many have a lower one
    z: Float[Tensor, "layer head word"]  # distance from the mean, in standard deviations


@torch.no_grad()
def own_logits(subject: Subject) -> OwnLogit:
    """Every head attending to each word of the task: e(t) -> OV -> final norm -> unembedding."""
    model, words = subject.model, copying_words(subject)
    if model.graph.n_layers < 2:
        raise NotMeasurable("a model of one layer has no later head to read the enriched token")
    stream = effective_embedding(model, words)
    index = torch.tensor(words, device=model.device)[None, :, None]
    above, below, z = [], [], []
    for layer in range(model.graph.n_layers):
        logits = model.unembed(head_output_attending_to(model, stream, layer))
        own = logits.gather(-1, index.expand(len(logits), -1, -1))
        above.append((logits > own).sum(-1))
        below.append((logits < own).sum(-1))
        spread = logits.std(-1, keepdim=True).clamp_min(1e-12)  # a head may write nothing
        z.append(((own - logits.mean(-1, keepdim=True)) / spread)[..., 0])
    return OwnLogit(torch.stack(above), torch.stack(below), torch.stack(z))


def _own_logits(subject: Subject) -> OwnLogit:
    return subject.remember("own logits", lambda: own_logits(subject))


def copying(subject: Subject) -> Measurement:
    """Share of tokens that a head raises into the top 5 by attending to them."""
    hits = (_own_logits(subject).above < TOP).float()
    return _per_head("copying", subject.model, hits)


def negative_copying(subject: Subject) -> Measurement:
    """Share of tokens that a head pushes into the bottom 5 by attending to them."""
    hits = (_own_logits(subject).below < TOP).float()
    return _per_head("negative_copying", subject.model, hits)


def copying_strength(subject: Subject) -> Measurement:
    """How far the attended token's own logit stands out, in standard deviations of all logits."""
    return _per_head("copying_strength", subject.model, _own_logits(subject).z)


# --- attention and direct effect on the task ---------------------------------------------------


def occurrences(batch: Batch, sets: TokenSets) -> Float[Tensor, "batch pos"]:
    """1 at the positions before the last token that hold one of a set's tokens."""
    held = (batch.tokens[..., None] == sets.ids[:, None]) & sets.present[:, None]
    positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    return (held.any(-1) & (positions < batch.end[:, None])).float()


def answer_attention(subject: Subject) -> Measurement:
    """Attention from the last token to the answer, minus that to the foils."""
    answers = occurrences(subject.clean, subject.answers)
    foils = occurrences(subject.clean, subject.foils)
    if not bool((answers.sum(1) > 0).all()):
        raise NotMeasurable("the answer does not occur in the prompts")
    patterns = subject.clean_run.patterns  # [layer batch head query key]
    rows = subject.clean.rows
    from_end = patterns[:, rows, :, subject.clean.end]  # [batch layer head key]
    found = torch.einsum("blhk,bk->lhb", from_end, (answers - foils).to(from_end.dtype))
    return _per_head("answer_attention", subject.model, found)


def final_direction(subject: Subject) -> Float[Tensor, "batch d_model"]:
    """The direction of answers minus foils, pulled back through the final norm.

    The norm's scale is that of the clean run, so that writers' shares add up.
    """
    direction = subject.direction * _norm_weight(subject)
    if subject.model.cfg.normalization_type in ("LN", "LNPre"):
        direction = direction - direction.mean(-1, keepdim=True)
    return direction


def _norm_weight(subject: Subject) -> Float[Tensor, "batch d_model"]:
    """What the final norm multiplies each residual stream by, once the mean is gone."""
    weight = getattr(subject.model.bridge.ln_final, "weight", None)
    scale = _norm_scale(subject.model, subject.clean_run.final)
    return (1.0 if weight is None else weight.detach()) / scale


def _norm_scale(model: Model, final: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch 1"]:
    kept: list[Tensor] = []
    with (
        torch.no_grad(),
        model.bridge.hooks(
            fwd_hooks=[("ln_final.hook_scale", lambda value, hook: kept.append(value))]
        ),
    ):
        model.bridge.ln_final(final[:, None])
    return kept[0][:, 0]


def direct_effect(subject: Subject) -> Measurement:
    """What a node writes at the last token, straight to the logits: answers minus foils."""
    model = subject.model
    at_end = subject.clean_run.writers[:, subject.clean.rows, subject.clean.end]
    samples = torch.einsum("wbd,bd->wb", at_end, final_direction(subject))
    return Measurement("direct_effect", model.graph.writers[1:], samples[1:])


@torch.no_grad()
def top_logits(subject: Subject, node: Node, most: int) -> tuple[list[str], list[str]]:
    """The tokens a node's output at the last token promotes and suppresses most, on average."""
    model = subject.model
    written = subject.clean_run.writers[model.graph.writer_index[node]]
    at_end = subject.clean.at_end(written) * _norm_weight(subject)
    known = model.unembedding[:, : len(model.tokenizer)]  # some models pad their vocabulary
    logits = (at_end.mean(0) @ known).float()
    best = logits.topk(most).indices.tolist()
    worst = (-logits).topk(most).indices.tolist()
    return [model.piece(i) for i in best], [model.piece(i) for i in worst]


# --- ablation ----------------------------------------------------------------------------------


def ablation(subject: Subject, node: Node) -> Float[Tensor, "sample"]:
    """Resample ablation: the node writes what it wrote on the corrupted prompt.

    Per example, as a share of the gap between the clean and the corrupted metric: 1 if this alone
    does what corrupting everything does, 0 if nothing changes, below 0 if the metric improves.
    """
    model = subject.model
    written = subject.corrupt_run.writers[model.graph.writer_index[node]]
    logits = subject.replay.logits(layer_of(node), [_write(node, written)])
    gap = subject.clean_metric - subject.corrupt_metric
    if not gap:
        raise NotMeasurable("clean and corrupted prompts have the same metric")
    clean = subject.metric(subject.clean_run.logits)
    return (clean - subject.metric(logits)) / gap


def _write(node: Node, written: Float[Tensor, "batch pos d_model"]) -> Hook:
    """A hook that replaces what a node writes."""
    if node.kind == "mlp":
        return f"blocks.{node.layer}.hook_mlp_out", lambda value, hook: written
    layer, head = head_index(node)

    def hook(value: Tensor, hook: object) -> Tensor:
        changed = value.clone()
        changed[:, :, head] = written
        return changed

    return f"blocks.{layer}.attn.hook_result", hook


def ablation_effect(subject: Subject, nodes: Iterable[Node]) -> Measurement:
    """`ablation` of several nodes; each is measured once per subject."""
    wanted = tuple(nodes)
    samples = [subject.remember(f"ablation {n}", partial(ablation, subject, n)) for n in wanted]
    return Measurement("ablation_effect", wanted, torch.stack(samples))


# --- the vocabulary of role cards --------------------------------------------------------------

MEASURES: Mapping[str, Callable[[Subject], Measurement]] = {
    "previous_token_attention": previous_token_attention,
    "duplicate_token_attention": duplicate_token_attention,
    "induction_attention": induction_attention,
    "sink_attention": sink_attention,
    "first_value_norm": first_value_norm,
    "copying": copying,
    "negative_copying": negative_copying,
    "copying_strength": copying_strength,
    "answer_attention": answer_attention,
    "direct_effect": direct_effect,
}
"""Measures of all nodes at once. `ablation_effect` is the other one: it costs a run per node."""


def measure(name: str, subject: Subject) -> Measurement:
    """A measure of all nodes, computed once per subject. Raises NotMeasurable, KeyError."""
    return subject.remember(name, lambda: MEASURES[name](subject))


def measured(names: Iterable[str], subject: Subject) -> dict[str, Measurement]:
    """Those of several measures that have a meaning for the subject's task."""
    found = {}
    for name in names:
        with contextlib.suppress(NotMeasurable):
            found[name] = measure(name, subject)
    return found
