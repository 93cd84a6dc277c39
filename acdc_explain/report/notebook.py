"""How a notebook shows circuits and runs: the drawing, with the roles of the run."""

from __future__ import annotations

from ..records.circuit import Circuit
from ..records.display import as_html
from ..records.run.run import Run
from .html import circuit_html


@as_html.register
def _circuit(circuit: Circuit) -> str:
    return circuit_html(circuit)


@as_html.register
def _run(run: Run) -> str:
    return circuit_html(run.circuit, run) if run.circuit else f"run {run.id}: no circuit yet"
