"""rich without markup: texts are printed as they are, and control characters are escaped."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .text import shown


class Lines(tuple[str, ...]):
    """A cell with several lines."""


class PlainTable(Table):
    """A table whose cells are plain texts; a line end in a text is printed as an escape."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_cell, cells), **options)


class PlainConsole(Console):
    """A console that prints texts and tables without markup, emoji codes or highlighting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *things: Any, **options: Any) -> None:
        super().print(*map(_line, things), **options)

    def print_lines(self, text: str) -> None:
        """Print a text of several lines; only its line ends and tabs are kept."""
        super().print(Text(shown(text, lines=True)))

    def rule(self, title: Any = "", **options: Any) -> None:
        super().rule(Text(shown(title)), **options)


def _cell(cell: Any) -> Any:
    if isinstance(cell, Lines):
        return Text("\n".join(map(shown, cell)))
    if isinstance(cell, Text):
        return Text(shown(cell.plain), style=cell.style)
    return Text(shown(cell)) if isinstance(cell, str) else cell


def _line(thing: Any) -> Any:
    """Escape a text; line ends at its start are meant and stay."""
    if not isinstance(thing, str):
        return thing
    inner = thing.lstrip("\n")
    return "\n" * (len(thing) - len(inner)) + shown(inner)
