"""Labels -> verdicts: every judge tests every label on held-out prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..guard import until_fault
from ..hookspecs import Judge
from ..ids import content_id
from ..labeling.checked import check_verdict
from ..plugins import pick
from ..records.circuit import Node
from ..records.claim import ClaimResult, ClaimsOf
from ..records.label import Label
from ..records.run.behavior import doubt
from ..records.verdict import JudgeResult, Verdict
from ..store.buffer import WriteBuffer
from .context import RunContext


def judge_labels(
    run: RunContext, labels: Sequence[Label], claims: Sequence[ClaimResult]
) -> list[Verdict]:
    """The verdicts of all judges of the run, those that the store holds already too."""
    by_node: dict[Node, list[ClaimResult]] = defaultdict(list)
    for result in claims:
        by_node[result.node].append(result)
    return [
        verdict
        for name, settings in run.plan.judges.items()
        for verdict in _by_judge(run, labels, by_node, name, settings)
    ]


def _by_judge(
    run: RunContext,
    labels: Sequence[Label],
    claims: ClaimsOf,
    name: str,
    settings: Mapping[str, Any],
) -> list[Verdict]:
    """The verdicts of one judge; each new one is stored as soon as it is there."""
    judge: Judge = pick("judge", run.plugins.judges(), name)
    about = {label.id: claims.get(label.node, ()) for label in labels if judge.reads_claims}
    questions = {
        label.id: _question_id(run, name, settings, label, about.get(label.id, ()))
        for label in labels
    }
    stored = run.store.find_judge_results(questions.values())
    answered = {result.question_id for result in stored}
    missing = [label for label in labels if questions[label.id] not in answered]
    verdicts = [result.verdict for result in stored]
    with WriteBuffer(run.writer.add_judge_results) as buffer:
        for result in stored:
            buffer.put(result)
        if missing:
            for new in _test(run, missing, claims, name, settings):
                verdict = _unless_doubtful(run, new)
                buffer.put(JudgeResult(questions[verdict.label_id], verdict))
                verdicts.append(verdict)
                run.progress(f"judge {name}", len(verdicts), len(labels), verdict.outcome)
    return verdicts


def _question_id(
    run: RunContext,
    judge: str,
    settings: Mapping[str, Any],
    label: Label,
    claims: Sequence[ClaimResult],
) -> str:
    """A label is judged again if the judge's settings, the role's card or the claims changed."""
    question = {
        "label_id": label.id,
        "judge": judge,
        "settings": {**settings, **run.plugins.code("register_judges", judge)},
        "card": run.plugins.roles().get(label.role),
        **({"claims": claims} if claims else {}),
    }
    return content_id("judging", question)


def _test(
    run: RunContext,
    labels: Sequence[Label],
    claims: ClaimsOf,
    name: str,
    settings: Mapping[str, Any],
) -> Iterator[Verdict]:
    """What a judge yields, checked; up to its first fault, which is noted in `set_aside`."""
    judge: Judge = pick("judge", run.plugins.judges(), name)
    by_id, held_out, roles = (
        {label.id: label for label in labels},
        run.held_out,
        run.plugins.roles(),
    )
    session = {"session": lambda: run.session} if judge.asks_llm else {}

    def checked_verdicts() -> Iterator[Verdict]:
        for verdict in judge.verdicts(held_out, labels, roles, claims, **session, **settings):
            yield check_verdict(verdict, name, by_id)

    return until_fault(checked_verdicts, run.name_of("judge", name), run.set_aside.append)


def _unless_doubtful(run: RunContext, verdict: Verdict) -> Verdict:
    """No label is supported where the model does not surely do the task."""
    reason = doubt(run.behavior)
    if reason is None or verdict.outcome != "supported":
        return verdict
    words = f"the model does not surely do the task ({reason}); {verdict.reason}"
    return replace(verdict, outcome="inconclusive", reason=words)
