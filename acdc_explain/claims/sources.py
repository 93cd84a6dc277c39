"""The direct effect of every component on answers or foils, by the position it comes from."""

from __future__ import annotations

from ..evidence.measurement import Measurement, NotMeasurable
from ..evidence.patching.direct import What, direct_of_heads, direct_of_mlps, logit_directions
from ..models.contrast import Contrast
from .checks import measured


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
