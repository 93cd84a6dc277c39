"""What an MLP does with the token it reads, and through which neurons."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.activations import layer_of, mlp_hooks
from ..models.contrast import Contrast
from ..models.functional.mlp import Mlp
from ..models.model import Model
from ..records.circuit import Node
from .effects import final_direction
from .measurement import Measurement, NotMeasurable
from .ov.copying import copying_words
from .patching.edges import tokens_at
from .patching.gradients import stream_gradients
from .patching.passes import Pass, clean_pass
from .patching.paths import exact_pass

CONTEXTS = 4  # texts for each word, of random tokens and then the word
ROWS = 128  # short texts that are run at a time
MOST_WORDS = 200
FEW = 10  # neurons


def token_share(contrast: Contrast) -> Measurement:
    """R^2 of an MLP's output as a function of the current token alone, in random contexts."""
    return contrast.once_for_clean(_token_share)


@torch.no_grad()
def _token_share(contrast: Contrast) -> Measurement:
    model, words = contrast.model, _words_and_others(contrast)
    if len(words) < 5 or not model.graph.has_mlps:
        raise NotMeasurable("it takes MLPs and five different tokens")
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(0, len(words), (CONTEXTS, len(words), 2), generator=generator).tolist()
    rows = [[*(words[i] for i in two), word] for row in before for two, word in zip(row, words)]
    parts = [_mlps_at_end(model, rows[at : at + ROWS]) for at in range(0, len(rows), ROWS)]
    outputs = torch.cat(parts, 1).view(
        model.graph.n_layers, CONTEXTS, len(words), -1
    )  # [layer context word d_model]
    mlps = tuple(node for node in model.graph.writers if node.kind == "mlp")
    shifted = torch.stack([x.roll(k, 1) for k, x in enumerate(outputs.unbind(1))], 1)
    return Measurement("token_share", mlps, _explained(outputs), _explained(shifted))


def _mlps_at_end(model: Model, rows: Sequence[Sequence[int]]) -> Float[Tensor, "layer row d_model"]:
    """What every MLP writes at the last token of short texts."""
    batch, at_end = model.batch_ids(rows), list[Tensor]()
    model.forward(batch, mlp_hooks(model.graph, lambda x: at_end.append(batch.at_end(x))))
    return torch.stack(at_end)


def _words_and_others(contrast: Contrast) -> list[int]:
    """The task's words, and random tokens until there are MOST_WORDS."""
    model, words = contrast.model, copying_words(contrast, most=MOST_WORDS)
    excluded = {*words, *model.tokenizer.all_special_ids}
    order = torch.randperm(model.n_tokens, generator=torch.Generator().manual_seed(0)).tolist()
    return [*words, *(i for i in order if i not in excluded)][:MOST_WORDS]


def _explained(
    outputs: Float[Tensor, "layer context word d_model"],
) -> Float[Tensor, "layer word"]:
    """R^2 of outputs as a function of the word alone, by word."""
    within = (outputs - outputs.mean(1, keepdim=True)).square().sum((1, 3))
    deviations = outputs - outputs.mean((1, 2), keepdim=True)
    total = deviations.square().sum((1, 3)).mean(1, keepdim=True)
    return torch.where(total > 0, 1 - within / total.clamp_min(1e-12), 0.0)


@torch.no_grad()
def neuron_effects(contrast: Contrast, node: Node) -> Float[Tensor, "batch d_mlp"]:
    """What each neuron of an MLP adds directly to the logits, answers minus foils.

    Raises:
        NotMeasurable: The layers of the model cannot be computed from its weights here.
    """
    clean, layer = contrast.once_for_clean(exact_pass), layer_of(node)
    mlp, stream = clean.runner.layers.mlp[layer], clean.mlp_stream(layer)
    if not isinstance(mlp, Mlp) or mlp.post.scaled:
        raise NotMeasurable("its MLPs have no hidden layer that writes straight to the stream")
    x = contrast.clean.at_end(stream)
    neurons = mlp.neurons(mlp.mapped(x))
    return neurons * (final_direction(contrast) @ mlp.out.matrix.T)


def mean_neuron_effects(
    contrast: Contrast, nodes: Sequence[Node]
) -> dict[Node, Float[Tensor, "d_mlp"]]:
    """The means of `neuron_effects` over the prompts, on the CPU, for MLPs that have them."""
    means = {}
    for node in nodes:
        with contextlib.suppress(NotMeasurable):
            means[node] = neuron_effects(contrast, node).mean(0)
    if not means:
        return {}
    widths = [len(mean) for mean in means.values()]
    return dict(zip(means, torch.split(torch.cat([*means.values()]).cpu(), widths)))


def few_neurons(contrast: Contrast) -> Measurement:
    """The share of an MLP's direct effect, in absolute values, that its 10 largest neurons have."""
    mlps = tuple(node for node in contrast.model.graph.writers if node.kind == "mlp")
    if not mlps:
        raise NotMeasurable("the model has no MLPs")
    samples, even = [], []
    for node in mlps:
        sizes = neuron_effects(contrast, node).abs()
        few = min(FEW, sizes.shape[1])
        samples.append(sizes.topk(few).values.sum(1) / sizes.sum(1).clamp_min(1e-12))
        even.append(torch.full_like(samples[-1], few / sizes.shape[1]))  # of neurons all alike
    return Measurement("few_neurons", mlps, torch.stack(samples), torch.stack(even))


# --- what an MLP writes when it keeps a part -----------------------------------------------------


def neurons_of(contrast: Contrast, node: Node) -> int:
    """The number of neurons of an MLP. Raises NotMeasurable if it has no hidden layer."""
    return _with_neurons(contrast.once_for_clean(clean_pass), node).out.matrix.shape[0]


def _with_neurons(run: Pass, node: Node) -> Mlp:
    mlp = run.runner.layers.mlp[layer_of(node)] if node.kind == "mlp" else None
    if not isinstance(mlp, Mlp) or mlp.post.scaled:
        raise NotMeasurable(f"{node} has no hidden layer that writes straight to the stream")
    return mlp


@torch.no_grad()
def neuron_change(
    contrast: Contrast, other: Pass, node: Node, at: str, kept: Sequence[int]
) -> Float[Tensor, "batch token d_model"]:
    """What an MLP writes at a place if only some neurons stay as they are, minus what it writes.

    All others compute what they do in another run of the prompts. Raises NotMeasurable if it has no
    hidden layer.
    """
    mlp, change = _hidden_change(contrast, other, node, at)
    change[..., list(kept)] = 0
    return change @ mlp.out.matrix.to(change.dtype)


def _hidden_change(
    contrast: Contrast, other: Pass, node: Node, at: str
) -> tuple[Mlp, Float[Tensor, "batch token d_mlp"]]:
    """An MLP, and what its neurons compute at a place in another run, minus what they compute."""
    clean, tokens = contrast.once_for_clean(clean_pass), contrast.once(tokens_at, at)
    mlp = _with_neurons(clean, node)
    here, there = (
        mlp.neurons(mlp.mapped(tokens.of(run.mlp_stream(layer_of(node))))) for run in (clean, other)
    )
    return mlp, there - here


@torch.no_grad()
def likely_neurons(contrast: Contrast, other: Pass, node: Node, at: str) -> tuple[list[int], float]:
    """The neurons whose change in another run of the prompts changes the metric most.

    By the gradient of the metric.

    Returns:
        The FEW neurons with the largest means, and their share of the sum over all.
    """
    (mlp, change), tokens = _hidden_change(contrast, other, node, at), contrast.once(tokens_at, at)
    gradient = tokens.of(contrast.once(stream_gradients).at_output(node))
    pulled = gradient @ mlp.out.matrix.T.to(gradient.dtype)
    lost = (change * pulled * tokens.valid[..., None]).sum(1).mean(0)
    few = lost.abs().topk(min(FEW, len(lost))).indices
    total = float(lost.sum())
    return sorted(few.tolist()), float(lost[few].sum()) / total if total else 0.0


def token_change(
    contrast: Contrast, node: Node, at: str, seed: int | None
) -> Float[Tensor, "batch token d_model"]:
    """What an MLP writes on average for the tokens at a place, minus what it writes there.

    With a seed, for the tokens of other prompts. Raises NotMeasurable for a head.
    """
    if node.kind != "mlp":
        raise NotMeasurable(f"{node} is no MLP")
    clean, tokens = contrast.once_for_clean(clean_pass), contrast.once(tokens_at, at)
    means = contrast.once(_token_means, at)[layer_of(node)]
    if seed is not None:
        means = means.roll(1 + seed, 0)
    return means.to(clean.mlps[0].dtype) - clean.written_at(node, tokens.index)


@torch.no_grad()
def _token_means(contrast: Contrast, at: str) -> Float[Tensor, "layer batch token d_model"]:
    """What every MLP writes for each token at a place, averaged over random tokens before it."""
    words = _words_and_others(contrast)
    tokens = contrast.once(tokens_at, at).of(contrast.clean.tokens)
    ids, number = torch.unique(tokens, return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(0, len(words), (len(ids), CONTEXTS, 2), generator=generator).tolist()
    rows = [
        [*(words[i] for i in two), word] for word, some in zip(ids.tolist(), before) for two in some
    ]
    starts = range(0, len(rows), ROWS)  # a multiple of CONTEXTS
    means = [_mean_outputs(contrast.model, rows[start : start + ROWS]) for start in starts]
    return torch.cat(means, 1)[:, number]


def _mean_outputs(
    model: Model, rows: Sequence[Sequence[int]]
) -> Float[Tensor, "layer word d_model"]:
    """What every MLP writes at the last token, averaged over the CONTEXTS of each word."""
    batch, at_end = model.batch_ids(rows), []
    model.forward(batch, mlp_hooks(model.graph, lambda output: at_end.append(batch.at_end(output))))
    return torch.stack(at_end).view(len(at_end), -1, CONTEXTS, at_end[0].shape[-1]).mean(2)
