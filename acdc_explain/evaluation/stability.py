"""A behavior explained on several draws of prompts: what stays the same?

An interval over one draw of prompts is not the uncertainty of a claim. Other prompts give another
circuit, other labels and other verdicts. Each draw is a run of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import WrongUsage
from ..pipeline.flow import explain
from ..pipeline.inputs.model import load_for
from ..pipeline.settings import settings_from
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
    """Explain a behavior on several draws of prompts, and count what stays the same.

    Args:
        task: The name of a task whose prompts are drawn by a seed.
        model: As for `explain`; loaded once.
        seeds: How many draws, from the settings' seed on; or the seeds themselves.
        store, settings, progress, options: As for `explain`.

    Returns:
        The runs, with the frequency of edges, nodes and verdicts over them.

    Raises:
        UserError: if the task has fixed prompts, or a run fails.
    """
    resolved = settings_from(options, settings)
    if not isinstance(task, str) or resolved.prompts is not None:
        raise WrongUsage(
            "`seeds=` draws prompts, and the prompts of this task are fixed; "
            "use a task that writes its own, or leave out `seeds=`."
        )
    draws = range(resolved.seed, resolved.seed + seeds) if isinstance(seeds, int) else seeds
    if not draws:
        raise WrongUsage("`seeds=` is 0; at least 1 draw is needed.")
    model, _ = load_for(model, resolved, progress)
    return Stability(
        tuple(
            explain(
                task,
                model,
                store=store,
                settings=replace(resolved, seed=seed),
                progress=_progress_of_draw(progress, seed, draws),
            )
            for seed in draws
        )
    )


def _progress_of_draw(progress: Progress, seed: int, draws: Sequence[int]) -> Progress:
    """The progress of one run among several, which names its seed."""
    if len(draws) == 1:
        return progress

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        progress(f"seed {seed}: {stage}", done, total, note)

    return report


def share_stable(labels: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Count stable and contradicted labels.

    Args:
        labels: The labels of `Stability.as_dict`. Those with the role `other` are not counted,
            since they claim nothing.

    Returns:
        How many labels are supported in at least one draw; how many of them are supported in every
        draw whose circuit has the node; and how many are refuted in another draw.
    """
    supported = [x for x in labels if x["role"] != "other" and x["supported"]]
    stable = [x for x in supported if x["supported"] == x["in_circuit"]]
    return len(supported), len(stable), sum("refuted" in x["outcomes"] for x in supported)
