"""What a search found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from .tables import new_table, number_text, outcome_text, path_text

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...store.search.matches import Match


def show_matches(matches: Sequence[Match], out: PlainConsole) -> None:
    """Print one row a match; verdict and confidence are only shown for single components."""
    if not matches:
        out.print("Nothing found.")
        return
    scored = any(match.score is not None for match in matches)
    columns = ["run", "task", "model", "match", "verdict", "confidence", "description"]
    table = new_table(*(["score"] if scored else []), *columns)
    for match in matches:
        single = len(match.nodes) == 1
        table.add_row(
            *([number_text(match.score)] if scored else []),
            match.run_id,
            match.task,
            match.model,
            path_text(match.nodes),
            outcome_text(match.outcome) if single else Text(""),
            number_text(match.confidence) if single else "",
            Text(match.description),
        )
    out.print(table)
