"""How good the results are, as tables: labels on known roles, and the firewall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from .tables import new_table, number_text

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole

Scores = Mapping[str, Mapping[str, Any]]


def show_bench(sets: Scores, skipped: Mapping[str, str], out: PlainConsole) -> None:
    """Print one row a set of known roles, one row a role, and every mistake.

    Args:
        sets: The scores of each set, as JSON has them.
        skipped: Why a set was left out.
        out: Where to print.
    """
    out.print(_sets_table(sets))
    out.print()
    out.print(_roles_table(sets))
    for name, score in sets.items():
        for mistake in score["mistakes"]:
            out.print(f"{name}: {mistake}")
    for name, reason in skipped.items():
        out.print(f"{name} was left out: {reason}")


def _sets_table(sets: Scores) -> Table:
    table = new_table(
        "set", "n", "accuracy", "majority", "kind", "decoys", "passed", "shuffled", "passed"
    )
    for name, score in sets.items():
        shares = (score[x] for x in ("accuracy", "majority_baseline", "kind_baseline"))
        counts = ("decoys", "decoys_supported", "shuffled", "shuffled_supported")
        table.add_row(
            name,
            str(score["n"]),
            *(number_text(share, ".0%") for share in shares),
            *(str(score[count]) for count in counts),
        )
    return table


def _roles_table(sets: Scores) -> Table:
    table = new_table("set", "role", "n", "precision", "recall")
    for name, score in sets.items():
        for role, counts in score["roles"].items():
            shares = (number_text(counts[x], ".0%") for x in ("precision", "recall"))
            table.add_row(name, role, str(counts["n"]), *shares)
    return table


def show_firewall(counts: Mapping[str, Any], out: PlainConsole) -> None:
    """Print how often labels follow the evidence and how often the index shown with it."""
    out.print(
        f"{counts['labeler']} with {counts['llm']} on run {counts['run']}, {counts['n']} components"
    )
    table = new_table("shown", "labeled", "as blind", "decisive", "evidence", "index", "neither")
    for name, entry in counts["conditions"].items():
        table.add_row(
            name,
            str(entry["labeled"]),
            number_text(entry.get("as_blind"), ".0%"),
            *(str(entry.get(key, "-")) for key in ("decisive", "evidence", "index", "neither")),
        )
    out.print(table)
    out.print(
        "decisive: components where the evidence and the index they are shown with call for "
        "different roles; the rest cannot tell"
    )
