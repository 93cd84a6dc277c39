"""What all tables in a terminal share: the console, columns, numbers, verdicts and paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from ...output.terminal import PlainConsole, PlainTable
from ...records.circuit import in_order

if TYPE_CHECKING:
    from ...records.circuit import Node

STYLES = {
    "supported": "green",
    "matters": "",
    "untested": "dim",
    "pattern_only": "yellow",
    "causal_only": "yellow",
    "inconclusive": "dim",
    "refuted": "red",
}
NUMERIC = (
    "effect",
    *("score", "chance", "n", "confidence"),
    *("accuracy", "majority", "kind", "decoys", "passed", "shuffled", "precision", "recall"),
    *("labeled", "as blind", "decisive", "evidence", "index", "neither"),
    *("runs", "with it", "matches", "expected", "times", "z", "p"),
    *("edges", "tested", "metric", "faithfulness", "random", "seconds"),
)
"""Columns that are aligned to the right."""


def console() -> PlainConsole:
    """Standard output: as wide as the terminal, or 140 columns if it is a file or a pipe."""
    plain = PlainConsole(soft_wrap=False)
    return plain if plain.is_terminal else PlainConsole(width=140)


def new_table(*columns: str) -> PlainTable:
    """An empty table. With a column `description`, each row is cut to one line; --json is not."""
    one_line = "description" in columns
    table = PlainTable(
        box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=one_line
    )  # fmt: skip
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in NUMERIC else "left",
            overflow="ellipsis" if one_line else "fold",
            no_wrap=one_line,
            ratio=1 if column == "description" else None,
        )
    return table


def outcome_text(outcome: str | None) -> Text:
    """The outcome of a verdict in its color, or a dash."""
    return Text(outcome or "-", style=STYLES.get(outcome or "", ""))


def number_text(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash if there is none."""
    return "-" if value is None else format(value, form)


def path_text(nodes: Mapping[str, Node]) -> str:
    """Roles and nodes, in the order of the forward pass."""
    return ", ".join(
        f"{role} {node}" if role != str(node) else role for role, node in in_order(nodes)
    )
