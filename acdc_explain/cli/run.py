"""The command that does the main job: run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import WrongUsage, unknown
from ..llm.exchange import DEFAULT_CONCURRENCY, DEFAULT_LLM, DEFAULT_TIMEOUT
from ..models.options import DEFAULT_MEMORY, DEFAULT_MODEL
from ..output.files import check_output
from ..output.text import print_json, say
from ..plugins import Plugins
from ..progress import on_terminal
from .app import (
    DEFAULT_STORE,
    Concurrency,
    Db,
    DryRun,
    Json,
    LabelerName,
    LabelerSet,
    LlmModel,
    MaxCost,
    PriceTable,
    Retry,
    Reveal,
    Templates,
    Timeout,
    app,
    asking,
    installed,
    interruptible,
    open_store,
    say_how_labeled,
    settings_in,
    show_requests,
    show_result,
)

if TYPE_CHECKING:
    from ..pipeline.settings import Settings
    from ..store.store import Store


@app.command()
def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="See `acdc-explain tasks`.")],
    model: Annotated[str, typer.Option(help="A name, a folder, a .gguf file.")] = DEFAULT_MODEL,
    discoverer: Annotated[str, typer.Option(help="How to find the circuit.")] = "acdc",
    tau: Annotated[
        float | None,
        typer.Option(help="acdc: cut what worsens less.", show_default="1 % of the gap"),
    ] = None,
    max_edges: Annotated[int | None, typer.Option(help="The best of at most so many.")] = None,
    steps: Annotated[int | None, typer.Option(help="eap: steps of EAP-IG.")] = None,
    positions: Annotated[
        bool, typer.Option("--positions", help="acdc: split nodes by the task's named positions.")
    ] = False,
    level: Annotated[
        str | None, typer.Option(help="acdc: head, or layer for whole attention layers.")
    ] = None,
    orders: Annotated[
        int | None, typer.Option(help="acdc: repeat in so many other orders.")
    ] = None,
    screen: Annotated[
        int | None, typer.Option(help="acdc: test only EAP's best edges (not exact).")
    ] = None,
    ablation: Annotated[
        str, typer.Option(help="What a cut edge carries: corrupt, mean or zero.")
    ] = "corrupt",
    metric: Annotated[
        str | None,
        typer.Option(help="kl, logit_diff, prob_diff or nll.", show_default="the task's"),
    ] = None,
    labeler: LabelerName = None,
    llm_model: LlmModel = DEFAULT_LLM,
    examples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Prompts to discover on.", show_default="16, or 32 for a small model"
        ),
    ] = None,
    memory: Annotated[
        float, typer.Option(min=0.1, help="Gigabytes for discovery; sets its batch sizes.")
    ] = DEFAULT_MEMORY,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Only circuits, from small to large, and no labels.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="With --sweep: the picture.", show_default="TASK-MODEL.png")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="A judge beside the usual ones, like prediction.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the task's prompts.")] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Repeat on so many draws of prompts; what stays?"),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv or .json file; TASK names it.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="For top-activating examples: a text file, datasets:NAME.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: another discoverer's setting.")
    ] = None,
    reveal: Reveal = False,
    templates: Templates = None,
    labeler_set: LabelerSet = None,
    max_cost: MaxCost = None,
    prices: PriceTable = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    timeout: Timeout = DEFAULT_TIMEOUT,
    retry: Retry = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on where the model does not surely do the task.")
    ] = False,
    dry_run: DryRun = False,
    name: Annotated[str | None, typer.Option(help="A name for the run.")] = None,
    note: Annotated[str | None, typer.Option(help="A note on the run.")] = None,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find, measure, label and test the circuit of a behavior, and store it."""
    from ..pipeline.settings import Settings

    plugins = installed()
    options = {
        "tau": tau,
        "max_edges": max_edges,
        "steps": steps,
        "positions": positions or None,
        "level": level,
        "orders": orders,
        "screen": screen,
    }
    given = {name: value for name, value in options.items() if value is not None}
    settings = Settings(
        discoverer=discoverer,
        discoverer_settings={**given, **settings_in(setting or [])},
        metric=metric,
        ablation=ablation,
        memory=memory,
        labeler=labeler,
        llm_model=llm_model,
        more_judges=tuple(judge or ()),
        examples=examples,
        seed=seed,
        prompts=str(prompts) if prompts else None,
        corpus=corpus,
        max_cost=max_cost,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry,
        anyway=anyway,
        **asking(reveal, labeler_set, templates, prices),
    )
    _check_run(plugins, task, settings)
    store = open_store(db, must_exist=False)
    if name is not None:
        store.check_name(name)
    if sweep:
        _sweep(task, model, store, settings, plot, as_json)
        return
    if dry_run:
        _rehearse_run(task, model, store, settings, as_json)
        return
    if seeds is not None:
        _draws(task, model, store, settings, seeds, as_json)
        return
    from ..pipeline.flow import explain

    with interruptible(db), on_terminal() as report:
        result = explain(task, model, store=store, settings=settings, progress=report)
    if name is not None or note is not None:
        store.name_run(result.id, name, note)
        result = replace(result, header=store.header(result.id))
    say_how_labeled(labeler, result.header.settings["labeler"])
    show_result(result, db, as_json)


def _sweep(
    task: str, model: str, store: Store, settings: Settings, plot: Path | None, as_json: bool
) -> None:
    """A curve of edges against faithfulness: a table or JSON, and a picture."""
    from ..pipeline.flow import sweep
    from ..report.plot import plot_sweep

    file = check_output(plot or Path(f"{task}-{Path(model).stem}.png"), store.path)
    with interruptible(str(store.path)), on_terminal() as report:
        circuits = sweep(task, model, store=store, settings=settings, progress=report)
    plot_sweep(circuits, f"{task} on {Path(model).stem}", file)
    if as_json:
        from ..store.document.write import circuit_document

        print_json([circuit_document(circuit) for circuit in circuits])
        return
    from ..report.text.tables import console, show_sweep

    show_sweep(circuits, console())
    say(f"\npicture: {file}")


def _draws(
    task: str, model: str, store: Store, settings: Settings, seeds: int, as_json: bool
) -> None:
    """The same question on several draws of prompts."""
    from ..evaluation.stability import stability

    with interruptible(str(store.path)), on_terminal() as report:
        found = stability(task, model, seeds=seeds, store=store, settings=settings, progress=report)
    if as_json:
        print_json(found.as_dict())
        return
    from ..report.text.behavior import show_stability
    from ..report.text.tables import console

    show_stability(found, console())
    say(f"\nstored in {store.path}: acdc-explain show {found.runs[0].id[:8]} --db {store.path}")


def _check_run(plugins: Plugins, task: str, settings: Any) -> None:
    """What can be refused before the model is loaded."""
    from ..pipeline.plan import Plan, default_labeler
    from ..plugins import pick

    settings.check()
    if settings.prompts is None:
        pick("task", plugins.tasks(), task)
    for option, file in (("--prompts", settings.prompts), ("--corpus", settings.corpus)):
        if file is not None and not Path(file).is_file():
            raise WrongUsage(f"There is no file {file}; {option} takes the path of one.")
    if settings.metric is not None:
        known = ("kl", "logit_diff", "prob_diff", "nll")
        if settings.metric not in known:
            raise unknown("metric", settings.metric, known)
    Plan.of(plugins, settings, settings.labeler or default_labeler())


def _rehearse_run(task: str, model: str, store: Store, settings: Settings, as_json: bool) -> None:
    """Everything up to the evidence, and then the questions instead of the answers."""
    from ..pipeline.flow import dry_run

    with interruptible(str(store.path)), on_terminal() as report:
        run, requests = dry_run(task, model, store, settings, report)
    show_requests(run, requests, as_json)
