"""What is installed, as tables: plugins, and lists of names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ...output.terminal import Lines
from .tables import new_table

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...plugins import Plugins


def show_plugins(plugins: Plugins, out: PlainConsole) -> None:
    """Print what each plugin brings, and why others are broken."""
    table = new_table("plugin", "brings")
    for name in plugins.names:
        lines = [
            f"{hook.removeprefix('register_')}: {', '.join(names)}"
            for hook, names in plugins.brings(name).items()
        ]
        table.add_row(name, Lines(lines or ["nothing"]))
    for name, error in sorted(plugins.broken.items()):
        table.add_row(name, Text(f"BROKEN: {error}", style="red"))
    out.print(table)


def show_names(
    rows: Iterable[Sequence[str | Lines]], columns: Sequence[str], out: PlainConsole
) -> None:
    """Print a plain table of names and what they are."""
    table = new_table(*columns)
    for row in rows:
        table.add_row(*row)
    out.print(table)
