"""What a search found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from .tables import new_table, number_text, outcome_text, path_text

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...store.search.matches import Match
    from ...store.search.unnamed import SharedClaims

MOST_COMPONENTS = 6  # of a row


def show_unnamed(found: Sequence[SharedClaims], out: PlainConsole) -> None:
    """Print one row for components that read and do the same, with where they are."""
    if not found:
        out.print("No claims of components without a role occur in several tasks or models.")
        return
    table = new_table("reads", "does", "tasks and models", "components")
    for shared in found:
        places = [f"{task} on {model}" for task, model in shared.occurs_in]
        some = [f"{x.run_id[:8]}:{x.node}" for x in shared.components[:MOST_COMPONENTS]]
        more = len(shared.components) - len(some)
        cells = [shared.reads, shared.does, places, [*some, *([f"{more} more"] if more else [])]]
        table.add_row(*(Text("\n".join(cell)) for cell in cells))
    out.print(table)


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
