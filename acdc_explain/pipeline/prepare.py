"""What a run begins with: its settings, model, task and id; nothing is measured yet."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..guard import Unfit, must_work
from ..ids import content_id
from ..llm.client import Llm, Transport, key_present
from ..models.options import DEFAULT_DTYPE
from ..plugins import Plugins, load_plugins, pick
from ..progress import Progress, silent
from ..records.run.header import RunHeader, results_of, run_id, versions
from ..records.run.run import Run
from ..records.task import Task, check_examples
from ..report.commands import model_options
from ..store.store import Store
from .context import RunContext, templates
from .inputs.model import check_as_stored, load_for, load_model
from .inputs.plan import Plan, default_labeler
from .settings import (
    CHEAP_EXAMPLES,
    CHEAP_PARAMETERS,
    DEFAULT_EXAMPLES,
    FEWER_EXAMPLES,
    Settings,
)

if TYPE_CHECKING:
    from ..models.model import Model


def open_run(
    task: str | Task,
    model: str | Model,
    store: str | Path | Store,
    settings: Settings,
    progress: Progress = silent,
    transport: Transport | None = None,
) -> RunContext:
    """Load the model, build the task, and settle every setting that was left open.

    Raises:
        UserError: for whatever can be known to be wrong before the work begins.
    """
    settings.check()
    plugins = load_plugins()
    store = store if isinstance(store, Store) else Store(store)
    plan = Plan.of(plugins, settings, settings.labeler or default_labeler())
    _check_llm(plan, plugins, transport)
    model, as_loaded = load_for(model, settings, progress)
    task_from = "python" if isinstance(task, Task) else "file" if settings.prompts else "plugin"
    if isinstance(task, str):
        task = build_task(plugins, task, model, settings)
    else:
        check_examples(task, model)
    resolved = {
        **plan.as_dict(),
        **plan.code(plugins),
        "task_from": task_from,
        "examples": len(task.discover),
        "metric": settings.metric or task.metric,
        "ablation": settings.ablation,
        "roles": content_id("roles", plugins.roles()),
        **as_loaded,
        **_prompts(plan, plugins, settings),
    }
    header = _header(task, model, settings.seed, resolved)
    loaded = model
    run = _context(
        plugins, plan, store, header, task, lambda: loaded, settings, progress, transport
    )
    _check_early(run)
    return run


def reopen(
    stored: Run,
    store: Store,
    settings: Settings,
    progress: Progress,
    transport: Transport | None = None,
    *,
    relabel: bool = True,
) -> RunContext:
    """A stored run with another labeler, or with more judges; no model is loaded yet.

    Raises:
        UserError: if it cannot be continued here.
    """
    settings.check()
    _check_stored(stored)
    check_as_stored(stored.header, settings)
    plugins = load_plugins()
    plan = Plan(**{field.name: stored.header.settings[field.name] for field in fields(Plan)})
    plan = plan.judged_by(plugins, settings)
    resolved = dict(stored.header.settings)
    if relabel:
        plan = plan.labeled_by(plugins, settings, settings.labeler or default_labeler())
        _check_llm(plan, plugins, transport)
        resolved.pop("prompts", None)
        resolved |= _prompts(plan, plugins, settings)
    resolved.pop("code", None)
    resolved |= plan.as_dict() | plan.code(plugins)
    resolved["roles"] = content_id("roles", plugins.roles())
    task = _stored_task(stored.header, store)
    made_by = versions(stored.header.device)
    header = replace(
        stored.header,
        id=run_id(stored.header.task_id, stored.header.model_id, resolved, made_by),
        status="unfinished",
        created_at=_now(),
        settings=resolved,
        versions=made_by,
        name=None,  # of the stored run alone
        note=None,
    )
    load = cache(lambda: _same_model(header, settings.device, progress))
    run = _context(plugins, plan, store, header, task, load, settings, progress, transport)
    run.known_behavior = stored.behavior
    return run


def _context(
    plugins: Plugins,
    plan: Plan,
    store: Store,
    header: RunHeader,
    task: Task,
    load: Callable[[], Model],
    settings: Settings,
    progress: Progress,
    transport: Transport | None,
) -> RunContext:
    """With what the store holds of an earlier attempt, whose time, name and note stay.

    So do its versions and device, if it was made here.
    """
    earlier = _earlier(store, header)
    if earlier is not None:
        before = earlier.header
        header = replace(header, created_at=before.created_at, name=before.name, note=before.note)
        if before.origin is None:
            header = replace(header, versions=before.versions)
    return RunContext(
        plugins, plan, store, header, task, load, settings, progress, transport, earlier=earlier
    )


def _earlier(store: Store, header: RunHeader) -> Run | None:
    """The same run as the store holds it: one that was made here, or else one that was imported."""
    if store.status(header.id) is None and header.origin is None:
        return None
    try:
        return store.get(header.id)
    except UserError:
        return None


def _header(task: Task, model: Model, seed: int, resolved: Mapping[str, Any]) -> RunHeader:
    made_by = versions(str(model.device))
    return RunHeader(
        id=run_id(task.id, model.id, resolved, made_by),
        task=task.name,
        task_id=task.id,
        model=model.name,
        model_id=model.id,
        circuit_id=None,
        status="unfinished",
        created_at=_now(),
        seed=seed,
        settings=resolved,
        versions=made_by,
    )


# --- the model -----------------------------------------------------------------------------------


def _same_model(header: RunHeader, device: str, progress: Progress) -> Model:
    """The model of a stored run, loaded as for that run.

    Raises UserError if it has other weights here.
    """
    revision = header.settings.get("revision")  # an import may hold anything
    model = load_model(
        header.model,
        device=device,
        dtype=str(header.settings.get("dtype", DEFAULT_DTYPE)),
        revision=None if revision is None else str(revision),
        progress=progress,
    )
    if model.id != header.model_id:
        raise UserError(
            f"The model {header.model} here has other weights than the one of run {header.id}; "
            "run the task on it again."
        )
    return model


# --- the task ------------------------------------------------------------------------------------


def build_task(plugins: Plugins, name: str, model: Model, settings: Settings) -> Task:
    """A plugin's task, or the one in the file that the settings name. Raises UserError."""
    if settings.prompts is not None:
        from .inputs.prompt_file import read_prompts

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
    is_cheap = model.n_parameters <= CHEAP_PARAMETERS
    for examples in (*([CHEAP_EXAMPLES] if is_cheap else []), DEFAULT_EXAMPLES):
        with suppress(UserError):  # not every task has so many prompts for every tokenizer
            return build(examples)
    return build(FEWER_EXAMPLES)


def _stored_task(header: RunHeader, store: Store) -> Task:
    try:
        return store.task(header.task_id)
    except KeyError:
        raise UserError(
            f"The prompts of run {header.id} are not in this store (it was imported); run "
            f"`acdc-explain run {shlex.join([header.task, *model_options(header)])}` here first."
        ) from None


# --- what can be known to be wrong before the work -----------------------------------------------


def _check_early(run: RunContext) -> None:
    """Whether the metric fits the prompts, prices are known, and all patterns can be read."""
    _ = run.contrast, run.held_out
    if run.asks_llm:
        _ = run.session
    run.plugins.patterns()


def _check_llm(plan: Plan, plugins: Plugins, transport: Transport | None) -> None:
    """Whether there is an LLM to ask, where the labeler asks one."""
    asks = plugins.labelers()[plan.labeler].asks_llm
    if asks and transport is None and not key_present():
        Llm()  # says so


def _check_stored(run: Run) -> None:
    """Whether a stored run can be continued by this program."""
    header, made_by = run.header, versions()
    if results_of(header.versions) != results_of(made_by):
        raise UserError(
            f"Run {header.id} is of a program that gives other results "
            f"({results_of(header.versions)}, this one {results_of(made_by)}); run its task again."
        )
    if run.circuit is None or not run.evidence:
        raise UserError(
            f"Run {header.id} has no evidence yet; repeat its command, which goes on from there."
        )


def _prompts(plan: Plan, plugins: Plugins, settings: Settings) -> dict[str, Any]:
    """Where an LLM is asked, its prompts decide the result too."""
    if not plugins.labelers()[plan.labeler].asks_llm:
        return {}
    own = {"own_templates": True} if settings.templates else {}
    return {"prompts": templates(plugins, settings).digest, **own}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
