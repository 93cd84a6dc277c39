"""What a notebook shows of circuits and runs: the drawing, with the roles that a run gave."""

from __future__ import annotations

from ..records.circuit import Circuit
from ..records.display import as_html
from ..records.run.run import Run
from .html import drawn


@as_html.register
def _circuit(circuit: Circuit) -> str:
    return drawn(circuit)


@as_html.register
def _run(run: Run) -> str:
    return drawn(run.circuit, run) if run.circuit else f"run {run.id}: no circuit yet"
