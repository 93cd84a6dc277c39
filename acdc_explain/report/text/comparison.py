"""What several runs share: two runs side by side, or one task on several draws of prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ...records.run.behavior import doubt
from .tables import new_table, number_text

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...records.run.run import Run
    from ...records.run.stability import LabelStability, Stability
    from ..comparison import Comparison, Shared


def show_comparison(runs: tuple[Run, Run], comparison: Comparison, out: PlainConsole) -> None:
    """Print what two runs share, and the components that are labeled differently."""
    for name, run in zip(("first", "second"), runs):
        out.print(f"{name}: run {run.id}, {run.header.task} on {run.header.model_as_loaded}")
    if not comparison.same_model:
        out.print("two models: components and edges of one name are not the same ones")
    out.print(_shared_table(comparison))
    if comparison.changes:
        out.print()
        table = new_table("node", "in the first", "in the second")
        for change in comparison.changes:
            table.add_row(str(change.node), _roles(change.first), _roles(change.second))
        out.print(table)


def _shared_table(comparison: Comparison) -> Table:
    table = new_table("what", "both", "first", "second", "overlap", "shared")
    for what in ("components", "edges", "roles", "motifs"):
        shared: Shared = getattr(comparison, what)
        table.add_row(
            what,
            *(str(len(part)) for part in (shared.both, shared.first, shared.second)),
            number_text(shared.overlap, ".0%"),
            ", ".join(shared.both) if what != "edges" else "",
        )
    return table


def _roles(outcomes: Mapping[str, str]) -> str:
    return ", ".join(f"{role} {outcome}" for role, outcome in outcomes.items()) or "no label"


def show_stability(stability: Stability, out: PlainConsole) -> None:
    """Print what the circuits of several draws of prompts share, and the labels of each node."""
    first, n = stability.runs[0].header, len(stability.runs)
    seeds = ", ".join(str(run.header.seed) for run in stability.runs)
    out.print(
        f"{first.task} on {first.model_as_loaded}, {n} draws of prompts (seeds {seeds})",
        style="bold",
    )
    if stability.faithfulness:
        out.print(_faithfulness(stability))
    for what, counts in (("edges", stability.edges), ("components", stability.nodes)):
        always = sum(count == n for count in counts.values())
        out.print(f"{what}: {always} in all {n} circuits, {len(counts)} in at least one")
    doubtful = [str(run.header.seed) for run in stability.runs if doubt(run.behavior)]
    if doubtful:
        out.print(f"The model does not surely do the task with seed {', '.join(doubtful)}.")
    out.print()
    table = new_table("node", "role", "in circuit", "supported", "other verdicts")
    for label in stability.labels:
        table.add_row(*_label_row(label, n))
    out.print(table)


def _faithfulness(stability: Stability) -> str:
    """The mean over draws, its standard error if there are several, and each value."""
    shares, error = stability.faithfulness, stability.error
    return (
        f"faithfulness {sum(shares) / len(shares):.0%}"
        + ("" if error is None else f" ± {error:.0%} (standard error over draws)")
        + f": {', '.join(f'{share:.0%}' for share in shares)}"
    )


def _label_row(label: LabelStability, n: int) -> tuple[str | Text, ...]:
    """A label's row, out of `n` draws."""
    others = Counter(x for x in label.outcomes if x not in (None, "supported"))
    not_proposed = label.in_circuit - sum(x is not None for x in label.outcomes)
    words = [f"{outcome} {count}" for outcome, count in others.items()]
    words += [f"not proposed {not_proposed}"] if not_proposed else []
    style = "green" if label.stable else "red" if label.contradicted else ""
    supported = Text(f"{label.supported}/{label.in_circuit}", style=style)
    return str(label.node), label.role, f"{label.in_circuit}/{n}", supported, ", ".join(words)
