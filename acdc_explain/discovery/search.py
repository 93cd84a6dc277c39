"""A discoverer at work: from the prompts to a circuit that knows how faithful it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..guard import Unfit, must_work
from ..hookspecs import Discoverer
from ..models.contrast import Contrast
from ..models.options import DEFAULT_DTYPE
from ..progress import Progress
from ..records.circuit import Circuit
from ..records.graph import Discovery
from ..records.run.header import RESULTS
from .faithfulness import faithfulness


def recorded_settings(
    contrast: Contrast, settings: Mapping[str, Any], code: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides what a discoverer finds, as it is kept with the circuit.

    `code`: the digest of a discoverer of another package (`Plugins.code`).
    """
    return {
        **settings,
        "metric": contrast.metric_name,
        "ablation": contrast.ablation,
        "results": RESULTS,
        **unusual_dtype(contrast),
        **code,
    }


def unusual_dtype(contrast: Contrast) -> dict[str, str]:
    """The type of the weights where it is not float32: what it finds is not shared.

    The same weights have the same id in every type that holds their values.
    """
    dtype = contrast.model.dtype_name
    return {} if dtype == DEFAULT_DTYPE else {"dtype": dtype}


def find_circuit(
    name: str,
    discoverer: Discoverer,
    contrast: Contrast,
    held_out: Contrast,
    settings: Mapping[str, Any],
    *,
    recorded: Mapping[str, Any],
    owner: str,
    progress: Progress,
) -> Circuit:
    """Run a discoverer, and measure how faithful its circuit is.

    Args:
        name: The discoverer's name.
        discoverer: Chooses the edges.
        contrast: The prompts it sees.
        held_out: The prompts on which faithfulness is measured.
        settings: All settings of the discoverer.
        recorded: The same with all that decides the result besides (`recorded_settings`).
        owner: The plugin that brings the discoverer, for errors.
        progress: Told how far the search is.

    Raises:
        UserError: if the discoverer fails.
    """
    started = time.monotonic()
    with must_work(f"discoverer {name!r} of plugin {owner!r}"):
        discovery = discoverer.function(contrast, progress, **settings)
        if not isinstance(discovery, Discovery):
            raise Unfit(f"it returned {type(discovery).__name__}, not Discovery")
    seconds = time.monotonic() - started
    contrast.forget()
    faithful = faithfulness(held_out, discovery.edges)
    held_out.forget()
    graph = contrast.model.graph
    return Circuit(
        task_id=contrast.task.id,
        model_id=contrast.model.id,
        discoverer=name,
        settings=recorded,
        edges=tuple(discovery.edges),
        n_edges_total=discovery.n_edges_total or graph.n_edges,
        n_edges_tested=discovery.n_edges_tested,
        faithfulness=faithful,
        seconds=round(seconds, 3),
        forward_seconds=contrast.model.forward_seconds(contrast.clean),
        alternatives=discovery.alternatives,
        n_layers=graph.n_layers,
    )
