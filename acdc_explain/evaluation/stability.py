"""One question asked on several draws of prompts: what stays the same?

An interval over one draw of prompts is not the uncertainty of a claim: with other prompts the
circuit is another, and so are the labels and the verdicts. Each draw is a run of its own.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import WrongUsage
from ..ids import plain
from ..pipeline.flow import explain, settings_from
from ..progress import Progress, silent
from ..records.circuit import Node, depth
from ..records.verdict import worst

if TYPE_CHECKING:
    from pathlib import Path

    from ..models.model import Model
    from ..pipeline.settings import Settings
    from ..records.run.run import Run
    from ..records.task import Task
    from ..store.store import Store


@dataclass(frozen=True, slots=True)
class LabelStability:
    """A role of a node over all draws: the outcome in each, None where it was not proposed.

    `in_circuit`: the draws whose circuit has the node.
    """

    node: Node
    role: str
    outcomes: tuple[str | None, ...]
    in_circuit: int

    @property
    def supported(self) -> int:
        return self.outcomes.count("supported")

    @property
    def stable(self) -> bool:
        """Whether it is supported wherever the circuit has the node."""
        return self.supported == self.in_circuit > 0

    @property
    def contradicted(self) -> bool:
        """Whether one draw supports it and another refutes it."""
        return {"supported", "refuted"} <= set(self.outcomes)


@dataclass(frozen=True, slots=True)
class Stability:
    """Runs of the same question on different draws of prompts."""

    runs: tuple[Run, ...]

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """Of the draws in which there is a gap to be a share of."""
        shares = [run.circuit.faithfulness.share for run in self.runs if run.circuit]
        return tuple(share for share in shares if share is not None)

    @property
    def error(self) -> float | None:
        """The standard error of the mean faithfulness over draws."""
        shares = self.faithfulness
        return statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else None

    @property
    def nodes(self) -> dict[str, int]:
        """In how many circuits each component is, in the order of the forward pass."""
        found = Counter(node for run in self.runs if run.circuit for node in run.circuit.components)
        return {str(node): found[node] for node in sorted(found, key=depth)}

    @property
    def edges(self) -> dict[str, int]:
        """In how many circuits each edge is, those of most circuits first."""
        found = Counter(str(e) for run in self.runs if run.circuit for e in run.circuit.edges)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def labels(self) -> tuple[LabelStability, ...]:
        """Every role that was proposed, node by node."""
        outcomes = [_outcomes(run) for run in self.runs]
        keys = dict.fromkeys(key for found in outcomes for key in found)
        nodes = self.nodes
        return tuple(
            LabelStability(
                node, role, tuple(o.get((node, role)) for o in outcomes), nodes[str(node)]
            )
            for node, role in sorted(keys, key=lambda key: (depth(key[0]), key[1]))
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON: the runs, and what of them stays the same."""
        shares = self.faithfulness
        return {
            "seeds": [run.header.seed for run in self.runs],
            "runs": [run.id for run in self.runs],
            "faithfulness": {
                "mean": statistics.fmean(shares) if shares else None,
                "error": self.error,
                "each": list(shares),
            },
            "nodes": self.nodes,
            "edges": self.edges,
            "labels": [
                {
                    **plain({"node": x.node, "role": x.role, "outcomes": x.outcomes}),
                    "supported": x.supported,
                    "in_circuit": x.in_circuit,
                }
                for x in self.labels
            ],
        }


def _outcomes(run: Run) -> dict[tuple[Node, str], str]:
    """What became of every label of a run; of a role proposed twice, the worst."""
    by_label: dict[tuple[Node, str], list[Any]] = {}
    for label in run.labels:
        by_label.setdefault((label.node, label.role), []).extend(run.verdicts_of(label))
    worsts = {key: worst(verdicts) for key, verdicts in by_label.items()}
    return {key: found.outcome if found else "untested" for key, found in worsts.items()}


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
            "--seeds draws other prompts, and these prompts are given; "
            "use a task that writes its own, or leave out --seeds."
        )
    numbers = range(chosen.seed, chosen.seed + seeds) if isinstance(seeds, int) else seeds
    if not numbers:
        raise WrongUsage("--seeds is 0; at least 1 draw is needed.")
    if isinstance(model, str):
        model = _loaded(model, progress)
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


def _loaded(model: str, progress: Progress) -> Model:
    from ..models.loading import load_model
    from ..plugins import load_plugins

    progress("load", 0, 1, model)
    loaded = load_model(model, sources=load_plugins().models())
    progress("load", 1, 1, loaded.name)
    return loaded


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
