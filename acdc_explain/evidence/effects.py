"""What a component does to the metric: straight into the logits, and when it is ablated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.contrast import Contrast
from ..models.model import Hook, Model, head_index, layer_of
from ..records.circuit import Node
from .attention import at_position
from .measurement import Measurement, NotMeasurable
from .ov import copying_words
from .path_patching import PathPatching


def final_direction(contrast: Contrast) -> Float[Tensor, "batch d_model"]:
    """The direction of answers minus foils, pulled back through the final norm.

    The norm's scale is that of the clean run, so that writers' shares add up.
    """
    return through_final_norm(contrast, contrast.direction)


def through_final_norm(
    contrast: Contrast, direction: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "batch d_model"]:
    """A direction of the logits as one of the stream that the final norm reads."""
    direction = direction * norm_weight(contrast)
    if contrast.model.cfg.normalization_type in ("LN", "LNPre"):
        direction = direction - direction.mean(-1, keepdim=True)
    return direction


def norm_weight(contrast: Contrast) -> Float[Tensor, "batch d_model"]:
    """What the final norm multiplies each residual stream by, once the mean is gone."""
    weight = getattr(contrast.model.bridge.ln_final, "weight", None)
    scale = _norm_scale(contrast.model, contrast.clean_run.final)
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


def direct_effect(contrast: Contrast) -> Measurement:
    """What a node writes at the last token, straight to the logits: answers minus foils.

    Its control is what the same output does to the answers and foils of the other prompts: an
    effect that does not depend on the prompt is a bias, and tells nothing.
    """
    written = _at_end(contrast, contrast.clean_run.writers)[1:]
    samples = straight(contrast, written)
    return Measurement(
        "direct_effect", contrast.model.graph.writers[1:], samples, _on_others(contrast, written)
    )


def _on_others(
    contrast: Contrast, written: Float[Tensor, "writer batch d_model"]
) -> Float[Tensor, "writer batch"]:
    """`straight` with the mean direction of all other prompts; 0 where there are none."""
    n, own = len(contrast), contrast.direction
    others = (own.sum(0) - own) / max(n - 1, 1)
    return (written * through_final_norm(contrast, others)).sum(-1)


def _at_end(contrast: Contrast, writers: Float[Tensor, "writer batch pos d_model"]) -> Tensor:
    return writers[:, contrast.clean.rows, contrast.clean.end]


def straight(
    contrast: Contrast, written: Float[Tensor, "*any batch d_model"]
) -> Float[Tensor, "*any batch"]:
    """What something written at the last token adds to answers minus foils by itself."""
    return (written * final_direction(contrast)).sum(-1)


def staircase(contrast: Contrast) -> Measurement:
    """How well a node's direct logits part the right tokens from the wrong, where these are many.

    The chance that a right one is higher than a wrong one: 0.5 for noise. As the border between
    them lies elsewhere in every prompt, only a staircase that moves along is near 1.
    """
    answers, foils = contrast.answers, contrast.foils
    if min(int(answers.present.sum(1).min()), int(foils.present.sum(1).min())) < 3:
        raise NotMeasurable("it takes three right and three wrong tokens in every prompt")
    written = _at_end(contrast, contrast.clean_run.writers) * norm_weight(contrast)
    right, wrong = (
        torch.einsum("wbd,btd->wbt", written, contrast.model.unembedding.T[sets.ids])
        for sets in (answers, foils)
    )
    both = answers.present[:, :, None] & foils.present[:, None]
    higher = ((right[..., None] > wrong[..., None, :]) & both).sum((-2, -1)) / both.sum((-2, -1))
    coin = torch.full_like(higher[1:], 0.5)
    return Measurement("staircase", contrast.model.graph.writers[1:], higher[1:], coin)


@torch.no_grad()
def top_logits(contrast: Contrast, node: Node, most: int) -> tuple[list[str], list[str]]:
    """The tokens a node's output at the last token promotes and suppresses most, on average."""
    model = contrast.model
    written = contrast.clean_run.writers[model.graph.writer_index[node]]
    at_end = contrast.clean.at_end(written) * norm_weight(contrast)
    known = model.unembedding[:, : len(model.tokenizer)]  # some models pad their vocabulary
    logits = (at_end.mean(0) @ known).float()
    best = logits.topk(most).indices.tolist()
    worst = (-logits).topk(most).indices.tolist()
    return [model.piece(i) for i in best], [model.piece(i) for i in worst]


# --- interventions -----------------------------------------------------------------------------

Written = Mapping[Node, Float[Tensor, "batch pos d_model"]]


def rewritten(
    contrast: Contrast, written: Written, watching: Sequence[Hook] = ()
) -> Float[Tensor, "batch vocab"]:
    """The logits when some nodes write something else; everything after them moves.

    `watching`: hooks that look on and change nothing.
    """
    first = min(layer_of(node) for node in written)
    hooks = [_write(node, value) for node, value in written.items()]
    return contrast.replay.logits(first, [*hooks, *watching])


def _write(node: Node, written: Float[Tensor, "batch pos d_model"]) -> Hook:
    """A hook that replaces what a node writes."""
    if node.kind == "mlp":
        return f"blocks.{node.layer}.hook_mlp_out", lambda value, hook: written
    layer, head = head_index(node)

    def hook(value: Tensor, hook: object) -> Tensor:
        value[:, :, head] = written  # several heads of a layer may be replaced, one after another
        return value

    return f"blocks.{layer}.attn.hook_result", hook


def clean_output(contrast: Contrast, node: Node) -> Float[Tensor, "batch pos d_model"]:
    return contrast.clean_run.writers[contrast.model.graph.writer_index[node]]


def ablated_output(
    contrast: Contrast,
    node: Node,
    how: Literal["resample", "mean"] = "resample",
    positions: Sequence[str] = (),
) -> Float[Tensor, "batch pos d_model"]:
    """What a node writes when ablated: as on the corrupted prompt, or its mean over prompts.

    With `positions` only at these named ones; elsewhere it writes what it wrote.
    """
    index, clean = contrast.model.graph.writer_index[node], clean_output(contrast, node)
    corrupt = contrast.corrupt_run.writers[index]
    if how == "mean":
        corrupt = corrupt[contrast.within].mean(0).expand_as(clean)
    if not positions:
        return corrupt
    here = torch.stack([at_position(contrast, name) for name in positions]).amax(0).bool()
    return torch.where(here[..., None], corrupt, clean)


def share_lost(contrast: Contrast, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
    """How much of the gap between clean and corrupted metric is gone.

    1 if this alone does what corrupting everything does, 0 if nothing changed, below 0 if the
    metric improved. Raises NotMeasurable where there is no gap.
    """
    gap = contrast.clean_metric - contrast.corrupt_metric
    if not gap:
        raise NotMeasurable("clean and corrupted prompts have the same metric")
    return (contrast.metric(contrast.clean_run.logits) - contrast.metric(logits)) / gap


def ablation(
    contrast: Contrast,
    node: Node,
    how: Literal["resample", "mean"] = "resample",
    positions: Sequence[str] = (),
) -> Float[Tensor, "sample"]:
    """The share of the gap that is lost when a node is ablated, per example."""
    written = ablated_output(contrast, node, how, positions)
    return share_lost(contrast, rewritten(contrast, {node: written}))


def restored_at_subject(contrast: Contrast, node: Node) -> Float[Tensor, "sample"]:
    """The share of the gap that a node's clean output at the position `subject` wins back.

    All else runs on the corrupted prompts.
    """
    here = at_position(contrast, "subject").bool()[..., None]
    index = contrast.model.graph.writer_index[node]
    written = torch.where(here, clean_output(contrast, node), contrast.corrupt_run.writers[index])
    logits = contrast.corrupt_replay.logits(layer_of(node), [_write(node, written)])
    return 1 - share_lost(contrast, logits)


def standing_in(contrast: Contrast, one: Node, other: Node) -> Float[Tensor, "sample"]:
    """Jensen-Shannon distance (nats) from the clean distribution when one node writes what another
    writes.

    Both at once would be no test: in one layer, swapping outputs leaves their sum as it was.
    """
    logits = rewritten(contrast, {one: clean_output(contrast, other)})
    p, q = contrast.clean_run.logits.log_softmax(-1), logits.log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    divergences = [(x.exp() * (x - middle)).sum(-1) for x in (p, q)]
    return (divergences[0] + divergences[1]) / 2


NODE_MEASURES: Mapping[str, Callable[[Contrast, Node], Float[Tensor, "sample"]]] = {
    "ablation_effect": ablation,
    "restored_at_subject": restored_at_subject,
}
"""Measures that cost a run per node. They are shares of the gap, and 0 where nothing happens."""


def of_nodes(name: str, contrast: Contrast, nodes: Iterable[Node]) -> Measurement:
    """One of NODE_MEASURES for several nodes; each is measured once per contrast."""
    wanted, function = tuple(nodes), NODE_MEASURES[name]
    samples = torch.stack(
        [contrast.remember(f"{name} {n}", partial(function, contrast, n)) for n in wanted]
    )
    return Measurement(name, wanted, samples, torch.zeros_like(samples), gaps(contrast))


def gaps(contrast: Contrast) -> Float[Tensor, "sample"]:
    """Each prompt's gap between clean and ablated metric, over the mean gap."""
    clean, ablated = (
        contrast.metric(x) for x in (contrast.clean_run.logits, contrast.ablated_logits)
    )
    return (clean - ablated) / (clean - ablated).mean()


# --- MLPs --------------------------------------------------------------------------------------

CONTEXTS = 4  # random ones, in which the same token is read
MOST_WORDS = 200


def token_share(contrast: Contrast) -> Measurement:
    """R^2 of an MLP's output from the current token alone, over random tokens before it."""
    return contrast.once_for_clean(_token_share)


@torch.no_grad()
def _token_share(contrast: Contrast) -> Measurement:
    model, words = contrast.model, _words_and_others(contrast)
    if len(words) < 5 or not model.graph.has_mlps:
        raise NotMeasurable("it takes MLPs and five different tokens")
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(0, len(words), (CONTEXTS, len(words), 2), generator=generator).tolist()
    rows = [[*(words[i] for i in two), word] for row in before for two, word in zip(row, words)]
    batch, outputs = model.batch_ids(rows), []
    hooks: list[Hook] = [
        (f"blocks.{layer}.hook_mlp_out", lambda value, hook: outputs.append(batch.at_end(value)))
        for layer in range(model.graph.n_layers)
    ]
    model.forward(batch, hooks)
    found = torch.stack(outputs).view(
        model.graph.n_layers, CONTEXTS, len(words), -1
    )  # [layer context word d]
    mlps = tuple(node for node in model.graph.writers if node.kind == "mlp")
    shifted = torch.stack([x.roll(k, 1) for k, x in enumerate(found.unbind(1))], 1)
    return Measurement("token_share", mlps, _explained(found), _explained(shifted))


def _words_and_others(contrast: Contrast) -> list[int]:
    """The task's words, and random tokens until there are enough: few words tell little."""
    words, tokenizer = copying_words(contrast, most=MOST_WORDS), contrast.model.tokenizer
    size = min(len(tokenizer), contrast.model.unembedding.shape[1])
    taken = {*words, *tokenizer.all_special_ids}
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
    return [*words, *(i for i in order if i not in taken)][:MOST_WORDS]


def _explained(
    found: Float[Tensor, "layer context word d_model"],
) -> Float[Tensor, "layer word"]:
    """R^2 of what is written from the word alone, by word."""
    within = (found - found.mean(1, keepdim=True)).square().sum((1, 3))
    total = (found - found.mean((1, 2), keepdim=True)).square().sum((1, 3)).mean(1, keepdim=True)
    return torch.where(total > 0, 1 - within / total.clamp_min(1e-12), 0.0)


@torch.no_grad()
def neuron_effects(contrast: Contrast, node: Node) -> Float[Tensor, "batch d_mlp"]:
    """What each neuron of an MLP writes straight into answers minus foils."""
    paths = contrast.once(PathPatching)
    mlp, read = paths.layers.mlp[layer_of(node)], paths.mlp_streams[layer_of(node)]
    assert mlp is not None
    x = contrast.clean.at_end(read)
    x = x * mlp.norm.inverse_scale(x)
    neurons = mlp.neurons([affine.scaled(x) for affine in mlp.maps])
    return neurons * (final_direction(contrast) @ mlp.out.matrix.T)


FEW = 10


def few_neurons(contrast: Contrast) -> Measurement:
    """The share of an MLP's direct effect, all signs counted, that its 10 largest neurons have."""
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
