"""Evidence -> labels: the labeler is asked about every component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..labeling.labeler import LabelingStage
from ..llm.session import Session
from ..plugins import pick
from ..records.circuit import Circuit, Node
from ..records.evidence import Evidence
from ..records.label import LabelResult
from ..records.question import Question
from .context import RunContext

if TYPE_CHECKING:
    from ..labeling.experiments import ComponentExperiments

RULES = "rules"  # the labeler that only repeats what was supported


def label_components(
    run: RunContext,
    circuit: Circuit,
    evidence: Mapping[Node, Sequence[Evidence]],
) -> list[LabelResult]:
    """An answer for every component: labels, or why there are none."""
    return stage(run).label(circuit, evidence)


def stage(run: RunContext, session: Session | None = None) -> LabelingStage:
    """The run's labeler with all it needs; `session`: another one than the run's own."""
    name = run.plan.labeler
    if session is None and run.asks_llm:
        session = run.session

    def experiments(question: Question) -> ComponentExperiments:
        from ..labeling.experiments import ComponentExperiments

        return ComponentExperiments(question, run.task, lambda: run.contrast)

    return LabelingStage(
        name=name,
        labeler=pick("labeler", run.plugins.labelers(), name),
        settings=run.plan.labeler_settings,
        code=run.plugins.code("register_labelers", name),
        roles=run.plugins.roles(),
        task=run.task,
        model=run.header.model,
        writer=run.writer,
        find_results=run.store.find_label_results,
        progress=run.progress,
        session=session,
        experiments=experiments,
        plugin=run.plugins.owner("register_labelers", name),
        kinds=run.plugins.claims(),
        behavior=run.discovered_on,
    )


def rules_stage(run: RunContext) -> LabelingStage | None:
    """The rules in place of the run's labeler; None where they are not installed."""
    rules = run.plugins.labelers().get(RULES)
    if rules is None:
        return None
    return replace(stage(run), name=RULES, labeler=rules, settings={}, code={}, session=None)
