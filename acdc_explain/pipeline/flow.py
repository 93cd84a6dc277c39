"""task -> circuit -> evidence -> labels -> verdicts -> motifs, each record stored at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..guard import Unfit, must_work
from ..ids import content_id
from ..labeling.labeler import LabelingStage
from ..llm.batch import CacheOverlay, RecordingTransport, take
from ..llm.client import Transport, key_present
from ..llm.exchange import NotAsked, UnusableReply
from ..plugins import Plugins, load_plugins, pick
from ..progress import Progress, silent
from ..records.label import LabelResult
from ..records.run.header import RunHeader, results_of, run_id, versions
from ..records.run.run import Run
from ..records.task import Task, check_examples
from ..store.store import Store
from .context import LLM_SETTING, RunContext, templates
from .plan import Plan, default_labeler
from .prepare import load_model
from .settings import CHEAP_EXAMPLES, CHEAP_PARAMETERS, DEFAULT_EXAMPLES, Settings

if TYPE_CHECKING:
    from ..llm.exchange import Exchange, Request
    from ..models.model import Model
    from ..records.circuit import Circuit, Node
    from ..records.evidence import Evidence


def explain(
    task: str | Task,
    model: str | Model = "mini",
    *,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Run:
    """Explain a behavior of a model: find the circuit, measure, label, test, store, match.

    `options` are fields of Settings; any other is a setting of the discoverer (tau, max_edges).
    What the store holds already is not done again. Raises UserError.
    """
    work = prepare(task, model, store, settings_from(options, settings), progress)
    if work.finished:
        return replace(work.store.get(work.header.id), reused=True)
    work.begin(work.check_behavior())
    circuit = work.find_circuit()
    evidence = work.collect(circuit)
    answers = work.label(circuit, evidence)
    return finish(work, circuit, answers)


def finish(work: RunContext, circuit: Circuit, answers: Sequence[LabelResult]) -> Run:
    """labels -> verdicts -> summary and motifs."""
    labels = [label for answer in answers for label in answer.labels]
    work.judge(labels)
    told = work.summarise(circuit)
    motifs = work.store.match(work.header.id, work.plugins.patterns())
    work.writer.add_motifs(motifs)
    work.end(complete=told and not work.set_aside and all(answer.labels for answer in answers))
    return replace(work.store.get(work.header.id), set_aside=tuple(work.set_aside))


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
    is loaded only for judges and for labelers that experiment. With `answers`, a batch file, no
    LLM is asked; what the file does not answer stays open. Raises UserError.
    """
    work = reopen(run, store, settings, progress, RecordingTransport() if answers else None)
    if work.finished and not settings.retry:
        return replace(store.get(work.header.id), reused=True)
    assert run.circuit is not None
    evidence = evidence_of(run, work)
    taken = _taken(work, run.circuit, evidence, answers) if answers is not None else []
    work.begin(run.behavior)
    work.writer.add_evidence([item for items in evidence.values() for item in items])
    work.writer.add_exchanges(taken)
    labeled = work.label(run.circuit, evidence)
    if judge:
        return finish(work, run.circuit, labeled)
    work.end(complete=False)
    return replace(store.get(work.header.id), set_aside=tuple(work.set_aside))


def would_ask(
    work: RunContext, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
) -> list[Request]:
    """The requests that labeling would send now; nothing is sent and nothing stored.

    The work must have been prepared with `RecordingTransport` as its transport.
    """
    return list(_asked_now(work, circuit, evidence, CacheOverlay(work.store.replies)).values())


def _asked_now(
    work: RunContext,
    circuit: Circuit,
    evidence: Mapping[Node, Sequence[Evidence]],
    cache: CacheOverlay,
) -> dict[str, Request]:
    """What would be asked if the replies on this shelf had been given."""
    wanted = work.session.transport
    assert isinstance(wanted, RecordingTransport)
    wanted.requests.clear()
    labels = replace(work.labels, session=replace(work.session, cache=cache))
    asked = labels.questions(circuit, evidence)
    held = {answer.question_id for answer in work.store.find_label_results([x.id for x in asked])}
    labels.answer([x for x in asked if x.id not in held], lambda answer: None)
    if not wanted.requests:
        _ask_summary(work, labels, circuit)
    return dict(wanted.requests)


def _ask_summary(work: RunContext, labels: LabelingStage, circuit: Circuit) -> None:
    """The question about the whole comes last, where a run has the rules' words instead."""
    if work.store.status(work.header.id) is None:
        return
    run = work.store.get(work.header.id)
    if run.summary is not None and run.summary.labeler != labels.name:
        with suppress(NotAsked, UnusableReply):
            labels.summarise(circuit, run.labels, run.verdicts)


def _taken(
    work: RunContext, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]], file: Path
) -> list[Exchange]:
    """The answers in a batch file, if all of them are to questions of this work."""
    cache = CacheOverlay(work.store.replies)
    return take(
        file, cache, work.session.prices, lambda: _asked_now(work, circuit, evidence, cache)
    )


def judge(run: Run, store: Store, settings: Settings, progress: Progress = silent) -> Run:
    """Test a stored run's labels, with more judges if `settings` names some. Raises UserError."""
    work = reopen(run, store, settings, progress, relabel=False)
    work.begin(run.behavior)
    assert run.circuit is not None
    work.writer.add_labels_of(run)
    labels = [LabelResult("", (label,)) for label in run.labels]
    open_ = [LabelResult("", ()) for node in run.circuit.components if not run.labels_of(node)]
    return finish(work, run.circuit, [*labels, *open_])


SHARES = (0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)  # thresholds, of the gap
SIZES = (20, 50, 100, 200, 500, 1000, 2000)


def sweep(
    task: str | Task,
    model: str | Model = "mini",
    *,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> list[Circuit]:
    """Circuits from small to large, to see what faithfulness costs; each is stored.

    For `acdc` by thresholds, shares of the gap between the clean and the ablated metric; for
    other discoverers by their `max_edges`. Raises UserError.
    """
    work = prepare(task, model, store, settings_from(options, settings), progress)
    known = work.plan.discoverer_settings
    by_tau = "tau" in known
    if not by_tau and "max_edges" not in known:
        raise UserError(
            f"Discoverer {work.plan.discoverer!r} has neither tau nor max_edges to sweep over."
        )
    work.check_behavior()
    gap = abs(work.contrast.clean_metric - work.contrast.corrupt_metric)
    points: list[dict[str, Any]] = (
        [{"tau": share * gap} for share in SHARES] if by_tau else [{"max_edges": n} for n in SIZES]
    )
    circuits = []
    for number, point in enumerate(points):
        progress("sweep", number, len(points), str(point))
        at = copy.copy(work)  # with the same subjects, and what they remember
        at.plan = replace(work.plan, discoverer_settings={**known, **point})
        circuits.append(at.circuit())
    progress("sweep", len(points), len(points))
    return circuits


def settings_from(options: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Settings from keywords; those that Settings does not know go to the discoverer."""
    known = set(Settings.__slots__)
    own = {name: value for name, value in options.items() if name in known}
    rest = {name: value for name, value in options.items() if name not in known}
    settings = replace(base or Settings(), **own)
    return replace(settings, discoverer_settings={**settings.discoverer_settings, **rest})


def prepare(
    task: str | Task,
    model: str | Model,
    store: str | Path | Store,
    settings: Settings,
    progress: Progress,
    transport: Transport | None = None,
) -> RunContext:
    """Load the model, build the task, and settle every setting that was left open."""
    settings.check()
    plugins = load_plugins()
    store = store if isinstance(store, Store) else Store(store)
    plan = Plan.of(plugins, settings, settings.labeler or default_labeler())
    _check_labeler(plan, transport)
    if isinstance(model, str):
        model = load_model(model, progress=progress)
    task_from = "python" if isinstance(task, Task) else "file" if settings.prompts else "plugin"
    if isinstance(task, str):
        task = build_task(plugins, task, model, settings)
    else:
        check_examples(task, model)
    made_by = versions()
    resolved = {
        **plan.as_dict(),
        **plan.code(plugins),
        "task_from": task_from,
        "examples": len(task.discover),
        "metric": settings.metric or task.metric,
        "ablation": settings.ablation,
        "roles": content_id("roles", plugins.roles()),
        **_prompts(plan, plugins, settings),
    }
    header = RunHeader(
        id=run_id(task.id, model.id, resolved, made_by),
        task=task.name,
        task_id=task.id,
        model=model.name,
        model_id=model.id,
        circuit_id=None,
        status="unfinished",
        created_at=_now(),
        seed=settings.seed,
        settings=resolved,
        versions=made_by,
    )
    loaded = model
    work = RunContext(
        plugins, plan, store, header, task, lambda: loaded, settings, progress, transport
    )
    _ = work.contrast, work.held_out  # what is wrong with the task or metric is said before work
    _ = work.labels  # and with prices and the LLM
    plugins.patterns()  # and with what the circuit is matched against in the end
    return work


def reopen(
    run: Run,
    store: Store,
    settings: Settings,
    progress: Progress,
    transport: Transport | None = None,
    *,
    relabel: bool = True,
) -> RunContext:
    """A stored run with another labeler, or with more judges; no model is loaded yet.

    Raises UserError.
    """
    settings.check()
    header, plugins, made_by = run.header, load_plugins(), versions()
    if results_of(header.versions) != results_of(made_by):
        raise UserError(
            f"Run {header.id} is of a program that gives other results "
            f"({results_of(header.versions)}, this one {results_of(made_by)}); run its task anew."
        )
    if run.circuit is None or not run.evidence:
        raise UserError(
            f"Run {header.id} has no evidence yet; repeat its command, which goes on from there."
        )
    plan = Plan(**{field.name: header.settings[field.name] for field in fields(Plan)})
    plan = plan.judged_by(plugins, settings)
    resolved = dict(header.settings)
    if relabel:
        plan = plan.labeled_by(plugins, settings, settings.labeler or default_labeler())
        _check_labeler(plan, transport)
        resolved.pop("prompts", None)
        resolved |= _prompts(plan, plugins, settings)
    resolved.pop("code", None)
    resolved |= plan.as_dict() | plan.code(plugins)
    resolved["roles"] = content_id("roles", plugins.roles())
    try:
        task = store.task(header.task_id)
    except KeyError:
        raise UserError(
            f"The prompts of run {header.id} are not in this store (it was imported); run "
            f"`acdc-explain run {header.task} --model {header.model}` here first."
        ) from None
    header = replace(
        header,
        id=run_id(header.task_id, header.model_id, resolved, made_by),
        status="unfinished",
        created_at=_now(),
        settings=resolved,
        versions=made_by,
    )

    @cache
    def load() -> Model:
        return _same_model(header, plugins, progress)

    return RunContext(
        plugins, plan, store, header, task, load, settings, progress, transport, run.behavior
    )


def evidence_of(run: Run, work: RunContext) -> dict[Node, list[Evidence]]:
    """A stored run's evidence by node, that of its collectors alone."""
    assert run.circuit is not None
    return {
        node: [e for e in run.evidence if e.node == node and e.collector in work.plan.collectors]
        for node in run.circuit.components
    }


def _same_model(header: RunHeader, plugins: Plugins, progress: Progress) -> Model:
    model = load_model(header.model, progress=progress)
    if model.id != header.model_id:
        raise UserError(
            f"The model {header.model} here has other weights than the one of run {header.id}; "
            "run the task on it anew."
        )
    return model


def _check_labeler(plan: Plan, transport: Transport | None) -> None:
    """Whether there is an LLM to ask is known before the work begins."""
    if LLM_SETTING in plan.labeler_settings and transport is None and not key_present():
        from ..llm.client import Llm

        Llm()  # says so


def _prompts(plan: Plan, plugins: Plugins, settings: Settings) -> dict[str, Any]:
    """Where an LLM is asked, its prompts decide the result too."""
    if LLM_SETTING not in plan.labeler_settings:
        return {}
    own = {"own_templates": True} if settings.templates else {}
    return {"prompts": templates(plugins, settings).digest, **own}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build_task(plugins: Plugins, name: str, model: Model, settings: Settings) -> Task:
    """A plugin's task, or the one in the file that --prompts names."""
    if settings.prompts is not None:
        from .prompt_file import read_prompts

        return read_prompts(settings.prompts, name, model, settings.examples)
    builder = pick("task", plugins.tasks(), name)

    def build(examples: int) -> Task:
        with must_work(f"task {name!r} of plugin {plugins.owner('register_tasks', name)!r}"):
            task = builder(model, examples=examples, seed=settings.seed)
            if not isinstance(task, Task):
                raise Unfit(f"it returned {type(task).__name__}, not Task")
        return check_examples(task, model)

    if settings.examples is not None:
        return build(settings.examples)
    if model.n_parameters <= CHEAP_PARAMETERS:
        with suppress(UserError):  # not every task has so many prompts for every tokenizer
            return build(CHEAP_EXAMPLES)
    return build(DEFAULT_EXAMPLES)
