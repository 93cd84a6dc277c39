"""The command `run`: from a behavior to a labeled and tested circuit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import WrongUsage, unknown
from ..models.options import DEFAULT_MODEL
from ..output.files import check_output
from ..output.text import print_json, say
from ..pipeline.settings import Settings
from ..plugins import Plugins
from ..progress import on_terminal
from .app import (
    app,
    installed,
    interruptible,
    open_store,
    say_how_labeled,
    show_requests,
    show_result,
)
from .options import DEFAULT_STORE, Db, DryRun, Json, settings_options

if TYPE_CHECKING:
    from ..store.store import Store


@app.command()
@settings_options()
def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="See `acdc-explain tasks`.")],
    *,
    model: Annotated[
        str, typer.Option(help="A name, a folder or a .gguf file; see `acdc-explain models`.")
    ] = DEFAULT_MODEL,
    settings: Settings,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Only find circuits, from small to large; no labels.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write the picture of --sweep here.", show_default="TASK-MODEL.png"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Repeat on this many draws of prompts and report what stays."
        ),
    ] = None,
    dry_run: DryRun = False,
    name: Annotated[str | None, typer.Option(help="A name for the run.")] = None,
    note: Annotated[str | None, typer.Option(help="A note on the run.")] = None,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find, measure, label and test the circuit of a behavior, and store it."""
    _check_run(installed(), task, settings)
    store = open_store(db, must_exist=False)
    if name is not None:
        store.check_name(name)
    if sweep:
        _sweep(task, model, store, settings, plot, as_json)
    elif dry_run:
        _rehearse_run(task, model, store, settings, as_json)
    elif seeds is not None:
        _draws(task, model, store, settings, seeds, as_json)
    else:
        _explain(task, model, store, settings, (name, note), as_json, db)


def _explain(
    task: str,
    model: str,
    store: Store,
    settings: Settings,
    name_and_note: tuple[str | None, str | None],
    as_json: bool,
    db: str,
) -> None:
    """One run, from the circuit to the motifs."""
    from ..pipeline.flow import explain

    with interruptible(db), on_terminal() as report:
        result = explain(task, model, store=store, settings=settings, progress=report)
    if name_and_note != (None, None):
        store.name_run(result.id, *name_and_note)
        result = replace(result, header=store.header(result.id))
    say_how_labeled(settings.labeler, result.header.settings["labeler"])
    show_result(result, db, as_json)


def _sweep(
    task: str, model: str, store: Store, settings: Settings, plot: Path | None, as_json: bool
) -> None:
    """Print edges against faithfulness as a table or JSON, and draw the curve."""
    from ..pipeline.discover import sweep
    from ..report.plot import plot_sweep

    file = check_output(plot or Path(f"{task}-{Path(model).stem}.png"), store.path)
    with interruptible(str(store.path)), on_terminal() as report:
        circuits = sweep(task, model, store=store, settings=settings, progress=report)
    plot_sweep(circuits, f"{task} on {Path(model).stem}", file)
    if as_json:
        from ..store.document.write import circuit_document

        print_json([circuit_document(circuit) for circuit in circuits])
        return
    from ..report.text.run import show_sweep
    from ..report.text.tables import console

    show_sweep(circuits, console())
    say(f"\npicture: {file}")


def _draws(
    task: str, model: str, store: Store, settings: Settings, seeds: int, as_json: bool
) -> None:
    """Repeat the run on several draws of prompts and print what they agree on."""
    from ..evaluation.stability import stability

    with interruptible(str(store.path)), on_terminal() as report:
        stable = stability(
            task, model, seeds=seeds, store=store, settings=settings, progress=report
        )
    if as_json:
        print_json(stable.as_dict())
        return
    from ..report.text.comparison import show_stability
    from ..report.text.tables import console

    show_stability(stable, console())
    say(f"\nstored in {store.path}: acdc-explain show {stable.runs[0].id[:8]} --db {store.path}")


def _check_run(plugins: Plugins, task: str, settings: Settings) -> None:
    """Raise UserError for a mistake that is known before the model is loaded."""
    from ..pipeline.inputs.plan import Plan, default_labeler
    from ..plugins import pick

    settings.check()
    if settings.prompts is None:
        pick("task", plugins.tasks(), task)
    for option, file in (("--prompts", settings.prompts), ("--corpus", settings.corpus)):
        named = option == "--corpus" and str(file).startswith("datasets:")
        if file is not None and not named and not Path(file).is_file():
            raise WrongUsage(f"There is no file {file}; {option} takes the path of one.")
    if settings.metric is not None:
        known = ("kl", "logit_diff", "prob_diff", "nll")
        if settings.metric not in known:
            raise unknown("metric", settings.metric, known)
    Plan.of(plugins, settings, settings.labeler or default_labeler())


def _rehearse_run(task: str, model: str, store: Store, settings: Settings, as_json: bool) -> None:
    """Find the circuit and collect the evidence, then print the LLM requests, unsent."""
    from ..pipeline.flow import dry_run

    with interruptible(str(store.path)), on_terminal() as report:
        run, requests = dry_run(task, model, store, settings, report)
    show_requests(run, requests, as_json)
