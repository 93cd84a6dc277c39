"""How much components matter, alone, at one place and together, and which ones surely do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..evidence.measurement import Measurement
from ..evidence.patching.ablations import Ablated, lost_when_ablated, tokens_that_change
from ..evidence.patching.edges import place_weights, unit
from ..evidence.patching.gradients import stream_gradients
from ..evidence.patching.passes import clean_pass
from ..evidence.patching.rerun import Patch, metric_lost, outputs_of
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.claim import ClaimResult, ComponentResult, is_explained
from .paths import CORRUPT, corrupted_pass, prompts_of

IDLE = 0.01  # of the gap: a component whose effect is surely smaller everywhere is idle


def component_results(
    contrast: Contrast, nodes: Sequence[Node], explanations: Sequence[Sequence[ClaimResult]]
) -> list[ComponentResult]:
    """The effect of every component, whether it is idle, and whether claims explain it.

    The claims of one author must do so: what another one says wrongly of it takes nothing away. Of
    an idle component nothing is explained: what is claimed of it would be a story.

    Args:
        contrast: Held-out prompts.
        nodes: The components of a circuit.
        explanations: The tested claims of each author, about all components.
    """
    idle = idle_components(contrast, nodes)
    results = []
    for node in nodes:
        value, low, high = _effect(contrast, node, None, CORRUPT)
        about = ([result for result in some if result.node == node] for some in explanations)
        explained = node not in idle and any(map(is_explained, about))
        results.append(ComponentResult(node, value, low, high, node in idle, explained))
    return results


def idle_components(contrast: Contrast, nodes: Sequence[Node]) -> set[Node]:
    """Components that surely matter less than IDLE, alone and all of them together.

    An equivalence test: the whole 95 % interval of every effect lies within the bound, ablated
    everywhere and at each place alone, by the task's corruption and by its other schemes.
    """
    corruptions = (CORRUPT, *contrast.task.schemes)
    left = list(nodes)
    for at in (None, *contrast.place_names):
        for prompts in corruptions:
            ablations(contrast, [(node, at) for node in left], prompts)  # all at once
            left = [node for node in left if _within(contrast, node, at, prompts)]
    return _together(contrast, left)


def _effect(
    contrast: Contrast, node: Node, at: str | None, prompts: str
) -> tuple[float, float, float]:
    """The mean effect and its 95 % interval."""
    samples = ablations(contrast, [(node, at)], prompts)[node, at]
    measurement = Measurement("effect", (node,), samples[None], None)
    low, high = measurement.interval(node)
    return round(measurement.value(node), 6), round(low, 6), round(high, 6)


def _within(contrast: Contrast, node: Node, at: str | None, prompts: str) -> bool:
    _, low, high = _effect(contrast, node, at, prompts)
    return low > -IDLE and high < IDLE


def _together(contrast: Contrast, nodes: Sequence[Node]) -> set[Node]:
    """Without the largest ones, until all that are left matter as little when ablated together."""
    size = {node: abs(_effect(contrast, node, None, CORRUPT)[0]) for node in nodes}
    left = sorted(nodes, key=lambda node: size[node])
    outputs = outputs_of(contrast, contrast.corrupt, left)
    at = tokens_that_change(contrast, contrast.corrupt)
    while len(left) > 1:
        patch = Patch({node: outputs[node] for node in left}, at)
        lost = (metric_lost(contrast, [patch])[0] / unit(contrast)).cpu()
        low, high = Measurement("effect", (left[0],), lost[None]).interval(left[0])
        if low > -IDLE and high < IDLE:
            break
        left.pop()
    return set(left)


def joint_effects(contrast: Contrast, groups: Sequence[Sequence[Node]]) -> list[float]:
    """The share of the gap that is lost when all components of each group are ablated together."""
    outputs = outputs_of(contrast, contrast.corrupt, list({x for some in groups for x in some}))
    at = tokens_that_change(contrast, contrast.corrupt)
    patches = [Patch({node: outputs[node] for node in some}, at) for some in groups]
    lost = (metric_lost(contrast, patches) / unit(contrast)).mean(1)
    return [round(value, 6) for value in lost.tolist()]


def lost_by_place(contrast: Contrast, node: Node) -> Float[Tensor, "place batch"]:
    """The share of the gap that is lost when a component is ablated, by the gradient."""
    clean, gradients = contrast.once_for_clean(clean_pass), contrast.once(stream_gradients)
    other = corrupted_pass(contrast)
    change = (other.written(node) - clean.written(node)) * gradients.at_output(node)
    masks = contrast.once(place_weights).to(change.dtype)
    lost = -torch.einsum("bq,pbq->pb", change.sum(-1), masks) / unit(contrast)
    return lost.double().cpu()


def ablations(
    contrast: Contrast, wanted: Iterable[Ablated], prompts: str
) -> Mapping[Ablated, Float[Tensor, " sample"]]:
    """The share of the gap that is lost when components write what they write on other prompts.

    Each is measured once per contrast.

    Args:
        contrast: The prompts; its own gap is the unit, whatever the other prompts are.
        wanted: The components with their places.
        prompts: A corruption, see `paths.prompts_of`.

    Returns:
        By component and place: a number for each prompt, on the CPU.
    """
    asked = list(dict.fromkeys(wanted))
    lost = lost_when_ablated(contrast, asked, prompts_of(contrast, prompts))
    gap = unit(contrast)
    return {item: lost[item] / gap for item in asked}
