"""What a notebook shows: circuits and runs as drawings, attention as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..output.files import write_text
from ..records.circuit import Circuit
from ..records.run.display import as_html
from ..records.run.run import Run
from ..store.store import Store
from .html import circuit_html, page, render


@as_html.register
def _circuit(circuit: Circuit) -> str:
    return circuit_html(circuit)


@as_html.register
def _run(run: Run) -> str:
    return circuit_html(run.circuit, run) if run.circuit else f"run {run.id}: no circuit yet"


@dataclass(frozen=True, repr=False)
class Picture:
    """A drawing that a notebook shows."""

    html: str

    def __repr__(self) -> str:
        return f"a picture of {len(self.html)} characters of HTML; a notebook shows it"

    def _repr_html_(self) -> str:
        return self.html


def draw(what: Circuit | Run, file: str | Path | None = None) -> Picture:
    """Draw a circuit, or a run's circuit with the roles that it gave.

    Args:
        what: The circuit or the run.
        file: Where to write the drawing as well, as HTML.

    Returns:
        The picture; a notebook shows it.

    Raises:
        UserError: if the file cannot be written, or is not named `.html`.
    """
    picture = Picture(as_html(what) or "")
    if file is not None:
        if Path(file).suffix != ".html":
            raise UserError(f"{file}: a drawing is written as HTML; name a file ending in .html.")
        write_text(Path(file), picture.html)
    return picture


def write_report(run: Run, file: str | Path, store: Store | None = None) -> Path:
    """Write a run as one HTML page that needs nothing else.

    Args:
        run: The run.
        file: Where to.
        store: With it the page also shows other circuits of the same task and model by size.

    Returns:
        The file.

    Raises:
        UserError: if it cannot be written.
    """
    sizes = store.sizes(run.circuit) if store is not None and run.circuit is not None else ()
    write_text(Path(file), page(run, sizes))
    return Path(file)


def heatmap(tokens: Sequence[str], attention: Sequence[Sequence[float]]) -> str:
    """An attention pattern as HTML: a row for each token that attends."""
    return render("attention.html.j2", tokens=tokens, attention=attention)
