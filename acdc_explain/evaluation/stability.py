"""One question asked on several draws of prompts: what stays the same?

An interval over one draw of prompts is not the uncertainty of a claim: with other prompts the
circuit is another, and so are the labels and the verdicts. Each draw is a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import WrongUsage
from ..pipeline.flow import explain, settings_from
from ..pipeline.prepare import load_model
from ..progress import Progress, silent
from ..records.run.stability import Stability

if TYPE_CHECKING:
    from pathlib import Path

    from ..models.model import Model
    from ..pipeline.settings import Settings
    from ..records.task import Task
    from ..store.store import Store


def stability(
    task: str | Task,
    model: str | Model = "mini",
    *,
    seeds: int | Sequence[int] = 5,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Stability:
    """Explain a behavior on several draws of prompts, and see what stays the same.

    Args:
        task: The name of a task whose prompts are drawn by a seed.
        model: As for `explain`; loaded once.
        seeds: How many draws, from the settings' seed on; or the seeds themselves.
        store, settings, progress, options: As for `explain`.

    Returns:
        The runs, with the frequency of edges, nodes and verdicts over them.

    Raises:
        UserError: if the prompts are given and cannot be drawn anew, or a run fails.
    """
    chosen = settings_from(options, settings)
    if not isinstance(task, str) or chosen.prompts is not None:
        raise WrongUsage(
            "`seeds=` draws other prompts, and these prompts are given; "
            "use a task that writes its own, or leave out `seeds=`."
        )
    numbers = range(chosen.seed, chosen.seed + seeds) if isinstance(seeds, int) else seeds
    if not numbers:
        raise WrongUsage("`seeds=` is 0; at least 1 draw is needed.")
    if isinstance(model, str):
        model = load_model(model, progress=progress)
    return Stability(
        tuple(
            explain(
                task,
                model,
                store=store,
                settings=replace(chosen, seed=number),
                progress=_of_draw(progress, number, numbers),
            )
            for number in numbers
        )
    )


def _of_draw(progress: Progress, number: int, numbers: Sequence[int]) -> Progress:
    """The progress of one run among several."""
    if len(numbers) == 1:
        return progress

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"seed {number}: {stage}", done, total, note)

    return report


def share_stable(found: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Of labels as in `as_dict`: how many were supported once, in all circuits that have the node,
    and how many are supported in one draw and refuted in another. `other` claims nothing."""
    telling = [x for x in found if x["role"] != "other" and x["supported"]]
    stable = [x for x in telling if x["supported"] == x["in_circuit"]]
    return len(telling), len(stable), sum("refuted" in x["outcomes"] for x in telling)
