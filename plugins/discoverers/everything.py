"""Discoverer `everything`: keep every edge, so that every head and MLP is labeled and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Discoverer
from acdc_explain.records.graph import Discovery

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.progress import Progress


def everything(contrast: Contrast, progress: Progress) -> Discovery:
    """Keep every edge of the model: for small models, or to see what a circuit leaves out."""
    return Discovery(tuple(contrast.model.graph.edges()), 0)


@hookimpl
def register_discoverers() -> dict[str, Discoverer]:
    return {"everything": Discoverer(everything)}
