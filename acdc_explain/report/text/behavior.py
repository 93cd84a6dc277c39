"""How well the model does the task, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...records.run.behavior import behavior_sentences, doubt

if TYPE_CHECKING:
    from ...output.terminal import PlainConsole
    from ...records.run.run import Run


def show_behavior(run: Run, out: PlainConsole) -> None:
    """Print how well the model does on the prompts: a line for each split."""
    for line in behavior_sentences(run.behavior):
        out.print(line)
    if reason := doubt(run.behavior):
        out.print(
            f"The model does not surely do this task: {reason}. No label is supported.",
            style="bold red",
        )
