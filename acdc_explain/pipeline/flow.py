"""task -> circuit -> evidence -> labels -> claims -> verdicts -> summary and motifs.

Each stage returns what it makes and stores each record as soon as it exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..labeling.labeler import LabelingStage
from ..labeling.summary import summary_of
from ..llm.batch import CacheOverlay, RecordingTransport, take
from ..llm.exchange import Exchange, NotAsked, Request, UnusableReply
from ..progress import Progress, silent
from ..records.circuit import Circuit, Node
from ..records.evidence import CLAIMS, Evidence
from ..records.label import LabelResult
from ..records.run.run import Run
from ..records.task import Task
from ..store.store import Store
from .claims import compose_claims, explain_components, has_claims
from .collect import collect
from .context import Found, RunContext
from .discover import discover
from .judge import judge_labels
from .label import label_components, stage
from .prepare import open_run, reopen
from .settings import Settings, settings_from
from .summarise import summarise

if TYPE_CHECKING:
    from ..models.model import Model


def explain(
    task: str | Task,
    model: str | Model = "mini",
    *,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Run:
    """Explain a behavior of a model: find its circuit, measure, label and test every component.

    Whatever the store holds already is used again, so a run that was stopped goes on from there.

    Args:
        task: The name of a task that a plugin brings (`ioi`), or a Task.
        model: What `load_model` takes, or a loaded model.
        store: The file that keeps every record, or an open Store.
        settings: Settings to start from; None: the defaults.
        progress: Called with the stage, how much is done, of how much, and a note.
        options: Fields of Settings by name (`help(acdc_explain.Settings)` lists them); any other
            name is a setting of the discoverer (`tau`, `max_edges`).

    Returns:
        The run: circuit, evidence, labels, verdicts, motifs and summary.

    Raises:
        UserError: in one sentence, for whatever cannot be done.
    """
    run = open_run(task, model, store, settings_from(options, settings), progress)
    if run.finished:
        return run.reused()
    run.begin(run.check_behavior())
    circuit = discover(run)
    evidence = _measured(run, circuit)
    results = label_components(run, circuit, evidence)
    return _finish(run, circuit, evidence, results)


def _measured(run: RunContext, circuit: Circuit) -> dict[Node, list[Evidence]]:
    """The evidence for every component: what it may be said to do, and what collectors measure."""
    composed = compose_claims(run, circuit)
    evidence = collect(run, circuit)
    for item in composed:
        evidence[item.node].append(item)
    return evidence


def _finish(
    run: RunContext,
    circuit: Circuit,
    evidence: Mapping[Node, Sequence[Evidence]],
    results: Sequence[LabelResult],
) -> Run:
    """labels -> claims -> verdicts -> summary and motifs."""
    labels = [label for result in results for label in result.labels]
    explanation = explain_components(run, circuit, evidence, labels)
    verdicts = judge_labels(run, labels, explanation.claims)
    summary, told = summarise(run, circuit, labels, verdicts, explanation.claims)
    motifs = run.store.match(run.header.id, run.plugins.patterns())
    run.writer.add_motifs(motifs)
    complete = told and not run.set_aside and all(result.labels for result in results)
    complete = complete and not run.waits
    found = Found(
        explanation.claims, explanation.components, explanation.algorithm, verdicts, summary, motifs
    )
    return run.close(circuit, evidence, results, found, complete=complete)


# --- from a stored run on ------------------------------------------------------------------------


def label(
    run: Run,
    store: Store,
    settings: Settings,
    progress: Progress = silent,
    *,
    judge: bool = True,
    answers: Path | None = None,
) -> Run:
    """Label a stored run's circuit with another labeler or LLM, from the evidence it has.

    The result is a run of its own, the same as if it had been asked for from the start. The model
    is loaded only for judges and for labelers that experiment.

    Args:
        run: A run of the store, with evidence.
        store: Where it is, and where the new run goes.
        settings: The labeler and its settings.
        progress: As for `explain`.
        judge: Whether to test the labels, too.
        answers: A batch file with the replies of an LLM. No LLM is asked then, and what the file
            does not answer stays open.

    Returns:
        The new run.

    Raises:
        UserError: in one sentence, for whatever cannot be done.
    """
    now = reopen(run, store, settings, progress, RecordingTransport() if answers else None)
    if now.finished and not settings.retry:
        return now.reused()
    assert run.circuit is not None
    evidence = evidence_of(run, now)
    taken = _taken(now, run.circuit, evidence, answers) if answers is not None else []
    now.begin(run.behavior)
    now.writer.add_evidence([item for items in evidence.values() for item in items])
    now.writer.add_exchanges(taken)
    results = label_components(now, run.circuit, evidence)
    if judge:
        return _finish(now, run.circuit, _with_claims(now, run.circuit, evidence), results)
    return now.close(run.circuit, evidence, results, complete=False)


def judge(run: Run, store: Store, settings: Settings, progress: Progress = silent) -> Run:
    """Test a stored run's labels, with more judges if the settings name some.

    Args:
        run: A run of the store, with labels.
        store: Where it is, and where the new run goes.
        settings: The judges.
        progress: As for `explain`.

    Returns:
        The new run; the same run with new verdicts, if the judges are its own.

    Raises:
        UserError: in one sentence, for whatever cannot be done.
    """
    now = reopen(run, store, settings, progress, relabel=False)
    now.begin(run.behavior)
    assert run.circuit is not None
    now.writer.add_labels_of(run)
    if now.earlier is None:
        now.earlier = replace(run, verdicts=[], motifs=[], summary=None)
    results = [LabelResult("", (label,)) for label in run.labels]
    results += [LabelResult("", ()) for node in run.circuit.components if not run.labels_of(node)]
    evidence = _with_claims(now, run.circuit, evidence_of(run, now))
    return _finish(now, run.circuit, evidence, results)


def _with_claims(
    run: RunContext, circuit: Circuit, evidence: dict[Node, list[Evidence]]
) -> dict[Node, list[Evidence]]:
    """The evidence with claims: those of a run that an earlier version made are composed now."""
    if not has_claims(evidence):
        for item in compose_claims(run, circuit):
            evidence[item.node].append(item)
    return evidence


def evidence_of(stored: Run, run: RunContext) -> dict[Node, list[Evidence]]:
    """A stored run's evidence by node: composed claims, and what its collectors measured."""
    assert stored.circuit is not None
    evidence: dict[Node, list[Evidence]] = {node: [] for node in stored.circuit.components}
    for item in stored.evidence:
        if item.collector in (CLAIMS, *run.plan.collectors) and item.node in evidence:
            evidence[item.node].append(item)
    return evidence


# --- what would be asked of an LLM ---------------------------------------------------------------


def dry_run(
    task: str | Task, model: str | Model, store: Store, settings: Settings, progress: Progress
) -> tuple[RunContext, list[Request]]:
    """Everything up to the evidence, and then the questions instead of the answers.

    Raises:
        UserError: as `explain` does.
    """
    run = open_run(task, model, store, settings, progress, RecordingTransport())
    run.begin(run.check_behavior())
    circuit = discover(run)
    return run, would_ask(run, circuit, _measured(run, circuit))


def would_ask(
    run: RunContext, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
) -> list[Request]:
    """The requests that labeling would send now; nothing is sent and nothing stored.

    The run must have been opened with a `RecordingTransport`.
    """
    return list(_requests(run, circuit, evidence, CacheOverlay(run.store.replies)).values())


def _requests(
    run: RunContext,
    circuit: Circuit,
    evidence: Mapping[Node, Sequence[Evidence]],
    cache: CacheOverlay,
) -> dict[str, Request]:
    """What would be asked if the replies of this cache had been given."""
    transport = run.session.transport
    assert isinstance(transport, RecordingTransport)
    transport.requests.clear()
    labeler = stage(run, replace(run.session, cache=cache))
    questions = labeler.questions(circuit, evidence)
    stored = run.store.find_label_results([question.id for question in questions])
    answered = {result.question_id for result in stored}
    labeler.answer([x for x in questions if x.id not in answered], lambda result: None)
    if not transport.requests:
        _ask_judges(run, cache)
        _ask_summary(run, labeler, circuit)
    return dict(transport.requests)


def _ask_judges(run: RunContext, cache: CacheOverlay) -> None:
    """The questions of judges that ask an LLM; those with a reply are not asked again."""
    stored, session = run.earlier, replace(run.session, cache=cache)
    for name, settings in run.plan.judges.items():
        judge = run.plugins.judges()[name]
        if stored is None or not judge.asks_llm:
            continue
        about = {node: stored.claims_of(node) for node in {x.node for x in stored.claims}}
        asked = {"session": lambda: session, **settings}
        for _ in judge.verdicts(run.held_out, stored.labels, run.plugins.roles(), about, **asked):
            pass


def _ask_summary(run: RunContext, labeler: LabelingStage, circuit: Circuit) -> None:
    """The question about the whole comes last, where a run has the rules' words instead."""
    stored = run.earlier
    if stored is None or stored.summary is None or stored.summary.labeler == labeler.name:
        return
    with suppress(NotAsked, UnusableReply):
        summary_of(labeler, circuit, stored.labels, stored.verdicts, stored.claims)


def _taken(
    run: RunContext, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]], file: Path
) -> list[Exchange]:
    """The answers in a batch file, if all of them are to questions of this run."""
    cache = CacheOverlay(run.store.replies)
    return take(file, cache, run.session.prices, lambda: _requests(run, circuit, evidence, cache))
