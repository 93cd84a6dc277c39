"""Motifs: those found in one run, and their counts over all runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ...records.run.motif import MOST_MATCHES
from .tables import new_table, number_text, path_text

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...records.run.motif import Enrichment, MotifCount
    from ...records.run.run import Run


def motifs_table(run: Run) -> Table:
    """The motifs of one run, each with an example."""
    table = new_table("motif", "matches", "for example")
    for name in dict.fromkeys(motif.pattern for motif in run.motifs):
        matches = [motif for motif in run.motifs if motif.pattern == name]
        n = f"{MOST_MATCHES} or more" if len(matches) >= MOST_MATCHES else str(len(matches))
        table.add_row(name, n, path_text(matches[0].nodes))
    return table


def show_motifs(counts: Sequence[MotifCount], out: PlainConsole) -> None:
    """Print counts of motifs by task and model, beside those in randomised circuits.

    A motif has a row where it occurs or would be expected by chance. Motifs without any row are
    named below the table.
    """
    columns = ["motif", "task", "model", "run", "matches", "expected", "times", "z", "p"]
    table = new_table(*columns, "runs", "with it")
    present = set()
    for count in counts:
        enrichment = count.enrichment
        if not count.runs_with and (enrichment is None or not enrichment.expected):
            continue
        present.add(count.pattern)
        cells = [count.pattern, count.task, count.model, count.run[:8], str(count.matches)]
        cells += [*_enrichment_cells(enrichment), str(count.runs), str(count.runs_with)]
        table.add_row(*map(Text, cells))
    if present:
        out.print(table)
        out.print("one run speaks for a task and a model; runs: how many there are of them")
    absent = [x for x in dict.fromkeys(count.pattern for count in counts) if x not in present]
    if absent:
        out.print(f"nowhere: {', '.join(absent)}")
    if not counts:
        out.print("No run has labels yet.")


def _enrichment_cells(enrichment: Enrichment | None) -> list[str]:
    """Matches expected in randomised circuits, times as many, z score, p value."""
    if enrichment is None:
        return ["-"] * 4
    expected = enrichment.expected
    times = enrichment.found / expected if expected else None
    return [
        number_text(expected, ".1f"),
        number_text(times, ".1f"),
        number_text(enrichment.score, ".1f"),
        f"{enrichment.p_value:.2g}",
    ]
