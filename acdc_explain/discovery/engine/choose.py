"""The engine for a model: the fast one where it is proven exact, else the reference engine."""

from __future__ import annotations

from typing import TypeAlias

from ...errors import UserError
from ...models.contrast import Contrast
from ...progress import Progress, silent
from ...records.graph import SearchGraph
from .fast import Engine
from .proof import fast_trouble, require_exact_cuts
from .reference import ReferenceEngine

AnyEngine: TypeAlias = Engine | ReferenceEngine


def engine_for(
    contrast: Contrast, search_graph: SearchGraph, progress: Progress = silent, name: str = "auto"
) -> AnyEngine:
    """The fast engine where it is exact for the model, else the reference engine.

    Args:
        contrast: The model and the prompts.
        search_graph: The graph whose edges will be cut.
        progress: Receives the reason if the reference engine is used.
        name: "auto"; "fast" or "reference" for that engine alone; "single" for the fast engine,
            testing every edge alone (see `groups`).

    Raises:
        UserError: The engine is not exact for this model.
        TooLittleMemory: The fast engine needs more memory than the contrast allows.
    """
    trouble = "it was not asked for" if name == "reference" else fast_trouble(contrast)
    if trouble is None:
        return Engine(contrast, search_graph, in_groups=name != "single")
    if name in ("fast", "single"):
        raise UserError(f"The fast engine cannot do {contrast.model.name}: {trouble}.")
    require_exact_cuts(contrast)
    progress("reference engine", 1, 1, f"a forward pass an edge; the fast engine: {trouble}")
    return ReferenceEngine(contrast, search_graph)
