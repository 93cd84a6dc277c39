"""How much each component matters by itself, and which ones surely do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..evidence.measurement import Measurement
from ..evidence.patching.edges import unit
from ..evidence.patching.rerun import Patch, metric_with, outputs_of
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.claim import ClaimResult, ComponentResult, is_explained
from .ablations import ablations
from .paths import CORRUPT

IDLE = 0.01  # of the gap: a component whose effect is surely smaller everywhere is idle


def component_results(
    contrast: Contrast, nodes: Sequence[Node], claims: Mapping[Node, Sequence[ClaimResult]]
) -> list[ComponentResult]:
    """The effect of every component, whether it is idle, and whether its claims explain it.

    Args:
        contrast: Held-out prompts.
        nodes: The components of a circuit.
        claims: The tested claims about each.
    """
    idle = idle_components(contrast, nodes)
    results = []
    for node in nodes:
        value, low, high = _effect(contrast, node, None, CORRUPT)
        explained = is_explained(claims.get(node, ()))
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
    outputs = outputs_of(contrast.model, contrast.corrupt, left)
    clean = contrast.metric(contrast.clean_logits)
    while len(left) > 1:
        patch = Patch({node: outputs[node] for node in left}, contrast.clean.within)
        lost = ((clean - metric_with(contrast, [patch])[0]) / unit(contrast)).cpu()
        low, high = Measurement("effect", (left[0],), lost[None]).interval(left[0])
        if low > -IDLE and high < IDLE:
            break
        left.pop()
    return set(left)
