"""How long work tells whoever waits for it where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .guard import printing_aside
from .output.text import shown


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` steps of a stage are finished; `note` is the number people watch."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """The progress of programs that nobody watches."""


@contextmanager
def on_terminal() -> Iterator[Progress]:
    """A progress bar on standard error; a line a stage where that is no terminal.

    Whatever plugins print in the meantime goes there, too: standard output is for results.
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
    with printing_aside(), bar as bars:
        stages: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, note: str = "") -> None:
            stage, note = shown(stage), shown(note)
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total, note=note)
                if not err.is_terminal:
                    words = f" {note}" if total == 1 and note else ""
                    err.print(f"{stage} ...{words}", soft_wrap=True)
            bars.update(stages[stage], completed=done, total=total, note=note)

        yield report
