"""Reports of progress, and their display on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .guard import stdout_to_stderr
from .output.text import shown


class Progress(Protocol):
    """Called whenever work has progressed."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report progress.

        Args:
            stage: The name of the stage.
            done: How many of its steps are finished.
            total: How many steps it has.
            note: A few words or numbers to show beside it.
        """
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report nothing."""


@contextmanager
def on_terminal() -> Iterator[Progress]:
    """Progress bars on standard error; one line for each stage if it is no terminal.

    Whatever plugins print in the meantime goes there as well: standard output is for results.
    """
    from rich import progress as rich

    from .output.terminal import PlainConsole

    err = PlainConsole(stderr=True)
    columns = (
        rich.TextColumn("{task.description:<18}", markup=False),
        rich.BarColumn(),
        rich.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
    )
    bar = rich.Progress(*columns, console=err, disable=not err.is_terminal)
    with stdout_to_stderr(), bar as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, note: str = "") -> None:
            stage, note = shown(stage), shown(note)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
                if not err.is_terminal:
                    words = f" {note}" if total == 1 and note else ""
                    err.print(f"{stage} ...{words}", soft_wrap=True)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield report
