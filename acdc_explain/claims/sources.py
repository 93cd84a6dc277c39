"""The direct effect of every component on answers or foils, by the position it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..evidence.composition import direct_without
from ..evidence.measurement import Measurement, NotMeasurable
from ..evidence.patching.direct import What, direct_of_heads, direct_of_mlps, logit_directions
from ..models.contrast import Contrast
from ..records.circuit import Node
from .checks import measured

MAIN = 8  # writers, at most,
MOST = 0.9  # of what is written to the logits in one direction


def direct_from(
    contrast: Contrast, kind: str, what: What, source: str | None, sign: int
) -> Measurement:
    """What every component of a kind adds to some logits, times a sign.

    The control is what it adds to the answers (or foils) of the other prompts.

    Args:
        contrast: The prompts.
        kind: "head" or "mlp".
        what: Whose logits.
        source: Of heads, the place that they read it from; None: all together.
        sign: 1, or -1 for what is taken away.

    Raises:
        NotMeasurable: There are no such tokens or no such place.
    """
    return contrast.once(_direct_from, kind, what, source, sign)


def _direct_from(
    contrast: Contrast, kind: str, what: What, source: str | None, sign: int
) -> Measurement:
    places = contrast.place_names
    if source is not None and (source not in places or kind != "head"):
        raise NotMeasurable(f"a {kind} reads nothing from {source!r} by attention")
    nodes = [node for node in contrast.model.graph.writers if node.kind == kind]
    if not nodes:
        raise NotMeasurable(f"the model has no {kind}")
    mask = None if source is None else contrast.place_masks(places)[places.index(source)]
    effects, control = (
        direct_of_heads(contrast, direction, mask)
        if kind == "head"
        else direct_of_mlps(contrast, direction)
        for direction in logit_directions(contrast, what)
    )
    return measured(
        f"direct effect on {what}", nodes, list(sign * effects.cpu()), list(sign * control.cpu())
    )


# --- without the main writers ------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a component does directly when others are ablated, in logits.

    Everything has the sign that makes what these others do positive.

    Attributes:
        node: The component.
        own: Its direct effect, beyond what it adds for other prompts.
        mean, error: What the ablation adds in their direction, and the standard error.
        raises: Whether the others raise the logits.
    """

    node: Node
    own: float
    mean: float
    error: float
    raises: bool


def without_main_writers(
    contrast: Contrast, nodes: tuple[Node, ...], what: What
) -> tuple[list[Node], list[Change]]:
    """The main writers to some logits, and what later components do when these are ablated.

    Args:
        contrast: The prompts.
        nodes: The components of a circuit.
        what: Whose logits.

    Raises:
        NotMeasurable: There are no such tokens, or nobody writes to them.
    """
    graph = contrast.model.graph
    effects = {x: _beyond_others(contrast, x, what) for x in nodes}
    sign = 1 if sum(effects.values()) > 0 else -1
    main = _main_writers({x: sign * effect for x, effect in effects.items()})
    if not main:
        raise NotMeasurable(f"no component writes to the {what}")
    added = sign * direct_without(contrast, tuple(main), what)
    changes = []
    for node in nodes:
        if node not in main and any(graph.reads(node, x) for x in main):
            samples = added[graph.writer_index[node]]
            error = float(samples.std()) / len(samples) ** 0.5
            own = sign * effects[node]
            changes.append(Change(node, own, float(samples.mean()), error, sign > 0))
    return main, changes


def _beyond_others(contrast: Contrast, node: Node, what: What) -> float:
    """The direct effect without what the same output adds for other prompts: a bias is no job."""
    measurement = direct_from(contrast, node.kind, what, None, 1)
    return measurement.value(node) - measurement.chance(node)


def _main_writers(effects: Mapping[Node, float]) -> list[Node]:
    """The fewest components, at most MAIN, with MOST of what is written in one direction."""
    largest = sorted((x for x in effects if effects[x] > 0), key=lambda x: -effects[x])
    total, main = sum(effects[x] for x in largest), list[Node]()
    for node in largest[:MAIN]:
        if sum(effects[x] for x in main) < MOST * total:
            main.append(node)
    return main
