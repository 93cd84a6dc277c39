"""What a component does to the metric: directly through the logits, and when it is ablated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.activations import LayerInputs, layer_of, replacement
from ..models.contrast import Contrast
from ..models.network.hooks import Hook
from ..records.circuit import Node
from .attention import at_position
from .measurement import Measurement, NotMeasurable
from .patching.ablations import lost_when_ablated
from .patching.rerun import outputs_of


def final_direction(contrast: Contrast) -> Float[Tensor, "batch d_model"]:
    """The direction of the stream, before the final norm, that raises answers minus foils.

    The norm's scale is that of the clean run, so that the direct effects of all writers add up.
    """
    return through_final_norm(contrast, contrast.direction)


def through_final_norm(
    contrast: Contrast, direction: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "batch d_model"]:
    """A direction after the final norm as the direction before it with the same effect."""
    direction = direction * norm_weight(contrast)
    if contrast.model.norm_is_centred:
        direction = direction - direction.mean(-1, keepdim=True)
    return direction


def norm_weight(contrast: Contrast) -> Float[Tensor, "batch d_model"]:
    """What the final norm multiplies each clean stream by, once the mean is gone."""
    return contrast.model.final_norm_factor(contrast.clean_run.final)


def direct_effect(contrast: Contrast) -> Measurement:
    """What a node's output at the last token adds directly to the logits, answers minus foils.

    The control is what the same output adds to the answers and foils of the other prompts: an
    effect that does not depend on the prompt is a bias.
    """
    written = contrast.clean_run.at_end[1:]
    samples = direct_logits(contrast, written)
    return Measurement(
        "direct_effect", contrast.model.graph.writers[1:], samples, _on_others(contrast, written)
    )


def _on_others(
    contrast: Contrast, written: Float[Tensor, "writer batch d_model"]
) -> Float[Tensor, "writer batch"]:
    """`direct_logits` with the mean direction of all other prompts; 0 where there are none."""
    directions = contrast.direction
    others = (directions.sum(0) - directions) / max(len(contrast) - 1, 1)
    return (written * through_final_norm(contrast, others)).sum(-1)


def direct_logits(
    contrast: Contrast, written: Float[Tensor, "*any batch d_model"]
) -> Float[Tensor, "*any batch"]:
    """What an output at the last token adds directly to the logits, answers minus foils."""
    return (written * final_direction(contrast)).sum(-1)


def staircase(contrast: Contrast) -> Measurement:
    """How well a node's direct logits separate right from wrong tokens, where there are many.

    The probability that a right token gets a higher logit than a wrong one; 0.5 for noise. The
    border between right and wrong (the year in greater-than) differs between prompts, so only a
    node whose step of logits moves with it comes near 1 on all.
    """
    answers, foils = contrast.answers, contrast.foils
    if min(int(answers.present.sum(1).min()), int(foils.present.sum(1).min())) < 3:
        raise NotMeasurable("it takes three right and three wrong tokens in every prompt")
    written = contrast.clean_run.at_end * norm_weight(contrast)
    right, wrong = (
        torch.einsum("wbd,btd->wbt", written, contrast.model.unembedding.T[sets.ids])
        for sets in (answers, foils)
    )
    both = answers.present[:, :, None] & foils.present[:, None]
    higher = ((right[..., None] > wrong[..., None, :]) & both).sum((-2, -1)) / both.sum((-2, -1))
    noise = torch.full_like(higher[1:], 0.5)
    return Measurement("staircase", contrast.model.graph.writers[1:], higher[1:], noise)


@torch.no_grad()
def top_logits(
    contrast: Contrast, nodes: Sequence[Node], most: int
) -> dict[Node, tuple[list[str], list[str]]]:
    """The `most` tokens that each node's output at the last token promotes and suppresses most.

    Returns:
        By node, promoted and suppressed tokens as text, the strongest first, on average over the
        prompts.
    """
    model, strongest = contrast.model, []
    vocabulary = model.unembedding[:, : model.n_tokens]
    for node in nodes:
        at_end = contrast.clean.at_end(clean_output(contrast, node)) * norm_weight(contrast)
        logits = (at_end.mean(0) @ vocabulary).float()
        strongest += [logits.topk(most).indices, (-logits).topk(most).indices]
    tokens = [[model.piece(i) for i in ids] for ids in torch.stack(strongest).tolist()]
    return dict(zip(nodes, zip(tokens[::2], tokens[1::2])))


# --- interventions -----------------------------------------------------------------------------

Outputs = Mapping[Node, Float[Tensor, "batch pos d_model"]]


def logits_with(
    contrast: Contrast, outputs: Outputs, watching: Sequence[Hook] = ()
) -> Float[Tensor, "batch vocab"]:
    """The logits on the clean prompts when some nodes write something else.

    Args:
        contrast: The prompts.
        outputs: What heads and MLPs write instead; everything after them is computed again.
        watching: Hooks that change nothing.
    """
    first = min(layer_of(node) for node in outputs)
    hooks = [replacement(node, output) for node, output in outputs.items()]
    return contrast.model.run_from(first, contrast.clean_inputs, [*hooks, *watching])


def clean_output(contrast: Contrast, node: Node) -> Float[Tensor, "batch pos d_model"]:
    """What a node writes on the clean prompts."""
    return outputs_of(contrast, contrast.clean, [node])[node]


def ablated_output(
    contrast: Contrast,
    node: Node,
    how: Literal["resample", "mean"] = "resample",
    positions: Sequence[str] = (),
) -> Float[Tensor, "batch pos d_model"]:
    """What a node writes when it is ablated.

    Args:
        contrast: The prompts.
        node: A head or MLP.
        how: "resample": what it writes on the corrupted prompts; "mean": the mean of that over
            prompts and tokens.
        positions: Named positions at which it is ablated; elsewhere it writes its clean output.
            At all tokens if empty.

    Raises:
        NotMeasurable: The task names no such position.
    """
    clean = clean_output(contrast, node)
    corrupt = outputs_of(contrast, contrast.corrupt, [node])[node]
    if how == "mean":
        corrupt = corrupt[contrast.clean.within_indices].mean(0).expand_as(clean)
    if not positions:
        return corrupt
    mask = torch.stack([at_position(contrast, name) for name in positions]).amax(0).bool()
    return torch.where(mask[..., None], corrupt, clean)


def share_lost(contrast: Contrast, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
    """The share of the gap between clean and corrupted metric that is lost with some logits.

    Returns:
        By example: 1 for the loss of a fully corrupted run, 0 for none, below 0 where the metric
        improved. The mean gap is the unit of all examples.

    Raises:
        NotMeasurable: There is no gap.
    """
    gap = contrast.clean_metric - contrast.corrupt_metric
    if not gap:
        raise NotMeasurable("clean and corrupted prompts have the same metric")
    return (contrast.metric(contrast.clean_logits) - contrast.metric(logits)) / gap


def ablation(
    contrast: Contrast,
    node: Node,
    how: Literal["resample", "mean"] = "resample",
    positions: Sequence[str] = (),
) -> Float[Tensor, "sample"]:
    """The share of the gap that is lost when a node is ablated, by example.

    Arguments and errors are those of `ablated_output` and `share_lost`.
    """
    output = ablated_output(contrast, node, how, positions)
    return share_lost(contrast, logits_with(contrast, {node: output}))


def restored_at_subject(contrast: Contrast, node: Node) -> Float[Tensor, "sample"]:
    """The share of the gap that a node's clean output at the position `subject` restores.

    Everything else runs on the corrupted prompts (causal tracing, Meng et al. 2022).
    """
    mask = at_position(contrast, "subject").bool()[..., None]
    corrupt = outputs_of(contrast, contrast.corrupt, [node])[node]
    hook = replacement(node, torch.where(mask, clean_output(contrast, node), corrupt))
    logits = contrast.model.run_from(layer_of(node), contrast.once(_corrupt_inputs), [hook])
    return 1 - share_lost(contrast, logits)


def _corrupt_inputs(contrast: Contrast) -> LayerInputs:
    return contrast.model.layer_inputs(contrast.corrupt)


def standing_in(contrast: Contrast, node: Node, other: Node) -> Float[Tensor, "sample"]:
    """Jensen-Shannon divergence (nats) from the clean output when `node` writes what `other` does.

    Only one of the two is replaced: swapping both within a layer would leave their sum unchanged.
    """
    logits = logits_with(contrast, {node: clean_output(contrast, other)})
    p, q = contrast.clean_logits.log_softmax(-1), logits.log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    divergences = [(x.exp() * (x - middle)).sum(-1) for x in (p, q)]
    return (divergences[0] + divergences[1]) / 2


NODE_MEASURES = ("ablation_effect", "restored_at_subject")
"""Measures that cost a run per node: shares of the gap, 0 where nothing changes."""


def of_nodes(name: str, contrast: Contrast, nodes: Iterable[Node]) -> Measurement:
    """One of NODE_MEASURES for several nodes; each node is measured once per contrast.

    Raises:
        KeyError: There is no such measure.
        NotMeasurable: It has no meaning for the contrast's task or model.
    """
    chosen = tuple(nodes)
    function = {"ablation_effect": _ablations, "restored_at_subject": _restorations}[name]
    samples = torch.stack(function(contrast, chosen)).cpu()
    return Measurement(name, chosen, samples, torch.zeros_like(samples), contrast.once(gaps))


def _ablations(contrast: Contrast, nodes: Sequence[Node]) -> list[Float[Tensor, "sample"]]:
    """`ablation` of each node; those not measured yet, all in one batch."""
    gap = contrast.clean_metric - contrast.corrupt_metric
    if not gap:
        raise NotMeasurable("clean and corrupted prompts have the same metric")
    lost = lost_when_ablated(contrast, [(node, None) for node in nodes], contrast.corrupt)
    return [lost[node, None] / gap for node in nodes]


def _restorations(contrast: Contrast, nodes: Sequence[Node]) -> list[Float[Tensor, "sample"]]:
    return [contrast.once(restored_at_subject, node) for node in nodes]


def gaps(contrast: Contrast) -> Float[Tensor, "sample"]:
    """Each prompt's gap between clean and ablated metric, over the mean gap; on the CPU."""
    clean, ablated = (contrast.metric(x) for x in (contrast.clean_logits, contrast.ablated_logits))
    return ((clean - ablated) / (clean - ablated).mean()).cpu()
