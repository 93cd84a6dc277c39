"""The command line: results on standard output, progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UserError
from .plugins import Plugins, load_plugins
from .progress import on_terminal
from .settings import DEFAULT_LLM, DEFAULT_MEMORY, DEFAULT_MODEL

if TYPE_CHECKING:
    from .settings import Settings
    from .store import Store

app = typer.Typer(
    help="From a behavior of a language model to a labeled, tested and searchable circuit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

benches = typer.Typer(help="Measure how good the results are.", no_args_is_help=True)
app.add_typer(benches, name="bench")

DEFAULT_STORE = "acdc_explain.duckdb"
Db = Annotated[
    str,
    typer.Option(
        "--db", envvar="ACDC_EXPLAIN_DB", help="The store's file.", show_default=DEFAULT_STORE
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="An id, its beginning, or `last`.")]


def main() -> None:
    """The entry point: a user's mistake is one sentence and exit code 1, never a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"acdc-explain: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _plugins() -> Plugins:
    """All plugins; those that are broken are named in every command."""
    plugins = load_plugins()
    for name, error in sorted(plugins.broken.items()):
        typer.echo(f"acdc-explain: plugin {name!r} is broken and was left out: {error}", err=True)
    return plugins


def _store(db: str, *, must_exist: bool = True) -> Store:
    from .store import Store

    if must_exist and not Path(db).exists():
        raise UserError(
            f"There is no store {db}; make one with `acdc-explain run ioi --db {db}`, "
            "or name another with --db."
        )
    return Store(db)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


# --- the main job ------------------------------------------------------------------------------


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
    labeler: Annotated[
        str | None, typer.Option(help="rules or llm.", show_default="llm with a key, else rules")
    ] = None,
    llm_model: Annotated[str, typer.Option(help="The LLM to ask.")] = DEFAULT_LLM,
    examples: Annotated[
        int | None, typer.Option(help="Examples to discover on.", show_default="16")
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
        list[str] | None, typer.Option(help="Judges, instead of all but those on request.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the task's prompts.")] = 0,
    prompts: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv or .json file; TASK names it.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="For top-activating examples: a text file, datasets:NAME.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: another discoverer's setting.")
    ] = None,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find, measure, label and test the circuit of a behavior, and store it."""
    from .settings import Settings

    plugins = _plugins()
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
        discoverer_settings={**given, **_settings(setting or [])},
        metric=metric,
        ablation=ablation,
        memory=memory,
        labeler=labeler,
        llm_model=llm_model,
        judges=tuple(judge) if judge else None,
        examples=examples,
        seed=seed,
        prompts=str(prompts) if prompts else None,
        corpus=corpus,
    )
    _check_run(plugins, task, settings)
    store = _store(db, must_exist=False)
    if sweep:
        _sweep(task, model, store, settings, plot, as_json)
        return
    from .pipeline import explain

    with _interruptible(db), on_terminal() as report:
        result = explain(task, model, store=store, settings=settings, progress=report)
    _say_how_labeled(labeler, result.header.settings["labeler"])
    if result.reused:
        typer.echo("This run was in the store already; its result is reused.", err=True)
    if as_json:
        from .run import to_document

        _print_json(to_document(result))
        return
    from .tables import console, show_run

    show_run(result, console())
    typer.echo(f"\nstored in {db}: acdc-explain show {result.id[:8]} --db {db}")


@contextmanager
def _interruptible(db: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(
            f"Stopped; what was finished is in {db}, and the same command goes on from there."
        ) from None


def _sweep(
    task: str, model: str, store: Store, settings: Settings, plot: Path | None, as_json: bool
) -> None:
    """A curve of edges against faithfulness: a table or JSON, and a picture."""
    from .pipeline import sweep
    from .plot import plot_sweep

    with _interruptible(str(store.path)), on_terminal() as report:
        circuits = sweep(task, model, store=store, settings=settings, progress=report)
    file = plot or Path(f"{task}-{Path(model).stem}.png")
    plot_sweep(circuits, f"{task} on {Path(model).stem}", file)
    if as_json:
        from .run import circuit_document

        _print_json([circuit_document(circuit) for circuit in circuits])
        return
    from .tables import console, show_sweep

    show_sweep(circuits, console())
    typer.echo(f"\npicture: {file}")


def _check_run(plugins: Plugins, task: str, settings: Any) -> None:
    """What can be refused before the model is loaded."""
    from .plan import Plan, default_labeler
    from .plugins import pick

    settings.check()
    if settings.prompts is None:
        pick("task", plugins.tasks(), task)
    for option, file in (("--prompts", settings.prompts), ("--corpus", settings.corpus)):
        if file is not None and not Path(file).is_file():
            raise UserError(f"There is no file {file}; {option} takes the path of one.")
    if settings.metric is not None:
        known = ("kl", "logit_diff", "prob_diff", "nll")
        if settings.metric not in known:
            raise UserError(f"There is no metric {settings.metric!r}; choose {', '.join(known)}.")
    Plan.of(plugins, settings, settings.labeler or default_labeler())


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, where VALUE is read as JSON if it is JSON."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, and {pair!r} has no '='.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _say_how_labeled(asked: str | None, used: str) -> None:
    if asked is None and used == "rules":
        typer.echo(
            "No OPENAI_API_KEY or OPENAI_BASE_URL is set: components were labeled by rules.",
            err=True,
        )


# --- reading the store -------------------------------------------------------------------------


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="Words of the description.")] = None,
    role: Annotated[str | None, typer.Option(help="Components with this role.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Like 'previous_token -k-> induction -> logits'.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="Like supported.")] = None,
    task: Annotated[str | None, typer.Option(help="Of runs of this task.")] = None,
    model: Annotated[str | None, typer.Option(help="Of runs of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find labeled components, or paths of them, over all runs."""
    from .ids import plain
    from .verdict import WORST_FIRST

    plugins = _plugins()
    if verdict is not None and verdict not in WORST_FIRST:
        raise UserError(
            f"There is no verdict {verdict!r}; verdicts are {', '.join(reversed(WORST_FIRST))}."
        )
    if role is not None and role not in plugins.roles():
        typer.echo(f"No installed plugin knows the role {role!r}; searching anyway.", err=True)
    matches = _store(db).search(
        text, role=role, pattern=pattern, verdict=verdict, task=task, model=model, limit=limit
    )
    if as_json:
        _print_json([plain(match) for match in matches])
        return
    from .tables import console, show_matches

    show_matches(matches, console())


@app.command()
def runs(db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """List all runs, the newest first."""
    from .ids import plain

    _plugins()
    headers = _store(db).runs()
    if as_json:
        _print_json([plain(header) for header in headers])
        return
    from .tables import console, show_runs

    show_runs(headers, console())


@app.command()
def show(run: RunName, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Show a run: its circuit, components, roles, verdicts and motifs."""
    _plugins()
    found = _store(db).get(run)
    if as_json:
        from .run import to_document

        _print_json(to_document(found))
        return
    from .tables import console, show_run

    show_run(found, console())


@app.command()
def export(
    run: RunName,
    db: Db = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file.")] = None,
) -> None:
    """Print a run as one JSON document (schema acdc-explain/run/1)."""
    from .run import to_document

    _plugins()
    document = to_document(_store(db).get(run))
    if output is None:
        _print_json(document)
        return
    try:
        output.write_text(json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from error


@app.command(name="import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported runs.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Add exported runs to the store; what is there already is left as it is."""
    from .run import from_document

    _plugins()
    found = []
    for file in files:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is no JSON document ({error}).") from error
        found.append((file, from_document(document, str(file))))
    store = _store(db, must_exist=False)
    for file, run in found:
        added = store.add_run(run)
        typer.echo(f"{file}: run {run.id} {'added' if added else 'was there already'}")


# --- what is installed -------------------------------------------------------------------------


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks."""
    _list(_first_lines(_plugins().tasks()), ("task", "what it is"), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models known by name."""
    _list(_first_lines(_plugins().models()), ("model", "what it is"), as_json)
    if not as_json:
        typer.echo(
            "\nAlso: any Hugging Face or TransformerLens name, a folder in Hugging Face format, "
            "a .gguf file."
        )


@app.command()
def roles(as_json: Json = False) -> None:
    """List the roles with the tests they must pass."""
    cards = _plugins().roles()
    if as_json:
        from .ids import plain

        _print_json(
            {
                name: plain(card) | {"requirements": [str(r) for r in card.requirements]}
                for name, card in cards.items()
            }
        )
        return
    rows = [
        (
            name,
            card.kind,
            card.claim,
            "\n".join(f"{r.tier}: {r}" for r in card.requirements),
            card.source,
        )
        for name, card in cards.items()
    ]
    _list(rows, ("role", "kind", "claim", "tests", "source"), False)


@app.command()
def plugins(as_json: Json = False) -> None:
    """List the plugins, what each brings, and those that are broken."""
    found = load_plugins()
    brings = {name: found.brings(name) for name in found.names}
    if as_json:
        _print_json({"plugins": brings, "broken": found.broken})
        return
    from .tables import console, show_plugins

    show_plugins(found, console())


def _first_lines(things: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, (getattr(thing, "__doc__", None) or "").strip().split("\n")[0])
        for name, thing in sorted(things.items())
    ]


def _list(rows: Sequence[Sequence[str]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        _print_json([dict(zip(columns, row)) for row in rows])
        return
    from .tables import console, show_names

    show_names(rows, columns, console())


@benches.command("labels")
def bench_labels(
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET]...", help="planted, tracr, mini, smollm2.", show_default="all"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Labels against models whose roles are known: precision, recall, decoys, shuffled labels."""
    from . import bench
    from .tables import console, show_bench

    with on_terminal() as progress:
        scores, skipped = bench.bench_labels(_plugins(), sets or None, progress)
    counted = {name: score.as_dict() for name, score in scores.items()}
    if as_json:
        _print_json({"sets": counted, "skipped": skipped})
    else:
        show_bench(counted, skipped, console())


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(metavar="MODEL")] = DEFAULT_MODEL, as_json: Json = False
) -> None:
    """Load a model, check that cutting edges is exact on it, and time a forward pass."""
    plugins = _plugins()
    from .doctor import examine
    from .loading import load_model

    with on_terminal() as report:
        report("load", 0, 1, model)
        loaded = load_model(model, sources=plugins.models())
        report("load", 1, 1, model)
        findings = examine(loaded)
    if as_json:
        _print_json(findings)
    else:
        from .tables import console, show_names

        show_names(
            [(name.replace("_", " "), str(value)) for name, value in findings.items()],
            ("", ""),
            console(),
        )
    if findings["self_check"] != "passed":
        raise UserError(f"{model}: {findings['self_check']}; circuits of it would not be exact.")
