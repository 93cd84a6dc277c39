"""How the model does, and what several draws of prompts agree on, as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from ...output.terminal import PlainConsole, PlainTable
from ...records.run.behavior import behavior_sentences, doubt

if TYPE_CHECKING:
    from ...records.run.run import Run
    from ...records.run.stability import LabelStability, Stability


def show_behavior(run: Run, out: PlainConsole) -> None:
    """How the model does on the prompts: a line a split."""
    for line in behavior_sentences(run.behavior):
        out.print(line)
    if reason := doubt(run.behavior):
        out.print(
            f"The model does not surely do this task: {reason}. No label is supported.",
            style="bold red",
        )


def show_stability(found: Stability, out: PlainConsole) -> None:
    """What several draws of prompts agree on, and where they do not."""
    first, n = found.runs[0].header, len(found.runs)
    seeds = ", ".join(str(run.header.seed) for run in found.runs)
    out.print(f"{first.task} on {first.model}, {n} draws of prompts (seeds {seeds})", style="bold")
    shares = [f"{share:.0%}" for share in found.faithfulness]
    if shares:
        mean, error = sum(found.faithfulness) / len(shares), found.error
        out.print(
            f"faithfulness {mean:.0%}"
            + ("" if error is None else f" ± {error:.0%} (standard error over draws)")
            + f": {', '.join(shares)}"
        )
    for what, counts in (("edges", found.edges), ("components", found.nodes)):
        always = sum(count == n for count in counts.values())
        out.print(f"{what}: {always} in all {n} circuits, {len(counts)} in at least one")
    doubtful = [str(run.header.seed) for run in found.runs if doubt(run.behavior)]
    if doubtful:
        out.print(f"The model does not surely do the task with seed {', '.join(doubtful)}.")
    out.print()
    columns = ("node", "role", "in circuit", "supported", "other verdicts")
    table = PlainTable(
        *columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0)
    )
    for label in found.labels:
        table.add_row(*_label_row(label, n))
    out.print(table)


def _label_row(label: LabelStability, n: int) -> tuple[str | Text, ...]:
    others = Counter(x for x in label.outcomes if x not in (None, "supported"))
    unsaid = label.in_circuit - sum(x is not None for x in label.outcomes)
    words = [f"{outcome} {count}" for outcome, count in others.items()]
    words += [f"not proposed {unsaid}"] if unsaid else []
    style = "green" if label.stable else "red" if label.contradicted else ""
    supported = Text(f"{label.supported}/{label.in_circuit}", style=style)
    return str(label.node), label.role, f"{label.in_circuit}/{n}", supported, ", ".join(words)
