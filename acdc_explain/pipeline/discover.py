"""Task -> circuit: found by a discoverer, or taken from the store if it was found before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..ids import content_id
from ..progress import Progress, silent
from ..records.circuit import Circuit
from ..records.run.header import results_of
from ..records.task import Task
from ..store.store import Store
from .context import RunContext
from .prepare import open_run
from .settings import Settings, settings_from

if TYPE_CHECKING:
    from ..models.model import Model

SHARES = (0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)  # thresholds of a sweep, of the gap
SIZES = (20, 50, 100, 200, 500, 1000, 2000)  # most edges, where a discoverer has no threshold


@dataclass(frozen=True)
class StoredCheckpoints:
    """How far a search is, kept in the store: a search that was stopped goes on from there.

    `search_id` is a hash of whatever decides what the search measures.
    """

    store: Store
    search_id: str

    @staticmethod
    def of(run: RunContext) -> StoredCheckpoints:
        from ..discovery.search import unusual_dtype  # torch, only when it is needed

        decisive = {
            "task_id": run.header.task_id,
            "model_id": run.header.model_id,
            "metric": run.contrast.metric_name,
            "ablation": run.contrast.ablation,
            "version": results_of(run.header.versions),
            **unusual_dtype(run.contrast),
        }
        return StoredCheckpoints(run.store, content_id("book", decisive))

    def read(self, name: str) -> Any:
        return self.store.read_checkpoint(self.search_id, name)

    def write(self, name: str, content: Any) -> None:
        self.store.write_checkpoint(self.search_id, name, content)


WAYS_TO_MORE = {"max_edges": "allow more edges (`max_edges=`)", "tau": "lower `tau=`"}
"""How to get more edges, by the settings that a discoverer has."""


def discover(run: RunContext) -> Circuit:
    """The run's circuit.

    Raises:
        UserError: if the discoverer keeps no path from the input to the logits. The empty circuit
            is stored all the same, so that the same search is not made again.
    """
    circuit = circuit_by(run, run.plan.discoverer_settings)
    if not circuit.edges:
        known = run.plan.discoverer_settings
        ways = [way for name, way in WAYS_TO_MORE.items() if name in known]
        raise UserError(
            f"Discoverer {circuit.discoverer!r} found no path from the input to the logits "
            f"that it would keep; {' or '.join(ways) or 'try another'}."
        )
    run.header = replace(run.header, circuit_id=circuit.id)
    run.writer.write_header(run.header)
    return circuit


def circuit_by(run: RunContext, discoverer_settings: Mapping[str, Any]) -> Circuit:
    """The circuit that the run's discoverer finds with some settings; it may have no edge."""
    from ..discovery import search  # torch, only when it is needed

    name, header, contrast = run.plan.discoverer, run.header, run.contrast
    code = run.plugins.code("register_discoverers", name)
    recorded = search.recorded_settings(contrast, discoverer_settings, code)
    circuit = run.store.find_circuit(header.task_id, header.model_id, name, recorded)
    if circuit is None:
        contrast.checkpoints = StoredCheckpoints.of(run)
        circuit = search.find_circuit(
            name,
            run.plugins.discoverers()[name],
            contrast,
            run.held_out,
            discoverer_settings,
            recorded=recorded,
            owner=run.plugins.owner("register_discoverers", name),
            progress=run.progress,
        )
        run.store.add_circuit(circuit)
    return circuit


def sweep_points(run: RunContext) -> list[dict[str, Any]]:
    """Settings of the discoverer that give circuits from small to large.

    Raises:
        UserError: if it has neither a threshold nor a size to set.
    """
    known = run.plan.discoverer_settings
    if "tau" in known:
        gap = abs(run.contrast.clean_metric - run.contrast.corrupt_metric)
        return [{**known, "tau": share * gap} for share in SHARES]
    if "max_edges" in known:
        return [{**known, "max_edges": size} for size in SIZES]
    raise UserError(
        f"Discoverer {run.plan.discoverer!r} has neither tau nor max_edges to sweep over."
    )


# --- circuits of several sizes -------------------------------------------------------------------


def sweep(
    task: str | Task,
    model: str | Model = "mini",
    *,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> list[Circuit]:
    """Find circuits from small to large, to see what faithfulness costs in edges.

    Args:
        task, model, store, settings, progress, options: As for `explain`.

    Returns:
        The circuits, each stored: by thresholds that are shares of the gap between the clean and
        the ablated metric, or else by the discoverer's `max_edges`.

    Raises:
        UserError: if the discoverer has neither, or for whatever cannot be done.
    """
    run = open_run(task, model, store, settings_from(options, settings), progress)
    points = sweep_points(run)
    run.check_behavior()
    circuits = []
    for number, point in enumerate(points):
        progress("sweep", number, len(points), str(point))
        circuits.append(circuit_by(run, point))
    progress("sweep", len(points), len(points))
    return circuits
