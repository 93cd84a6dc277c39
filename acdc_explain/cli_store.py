"""The commands that read the store: search, motifs, runs, show, compare, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import (
    DEFAULT_STORE,
    Db,
    Json,
    RunName,
    app,
    installed,
    interruptible,
    open_store,
)
from .errors import UserError, WrongUsage, nearest
from .output import print_json, say
from .progress import on_terminal

if TYPE_CHECKING:
    from .run import Run


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="Words of the description.")] = None,
    role: Annotated[str | None, typer.Option(help="Components with this role.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Like 'previous_token -k-> induction -*-> logits'.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="RUN:NODE", help="What behaves like it, last:a1.h3.")
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

    plugins = installed()
    if verdict is not None and verdict not in WORST_FIRST:
        raise WrongUsage(
            f"There is no verdict {verdict!r}; verdicts are {', '.join(reversed(WORST_FIRST))}."
        )
    if role is not None and role not in plugins.roles():
        near = nearest(role, plugins.roles())
        meant = f" (did you mean {near}?)" if near else ""
        say(f"No installed plugin knows the role {role!r}{meant}; searching anyway.", err=True)
    matches = open_store(db).search(
        text, role=role, pattern=pattern, like=like, verdict=verdict, task=task, model=model,
        limit=limit,
    )  # fmt: skip
    if as_json:
        print_json([plain(match) for match in matches])
        return
    from .tables import console, show_matches

    show_matches(matches, console())


@app.command()
def motifs(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN...", help="Names or patterns.", show_default="all named"),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Randomise so many circuits of each task and model.")
    ] = 100,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Count motifs by task and model, beside randomised circuits."""
    from .enriching import motif_counts

    named = installed().patterns()
    wanted = {text: named.get(text, text) for text in patterns} if patterns else named
    store = open_store(db)
    with interruptible(db), on_terminal() as report:
        counts = motif_counts(store, wanted, sample=sample, progress=report)
    if as_json:
        print_json([count.as_dict() for count in counts])
        return
    from .tables import console, show_motifs

    show_motifs(counts, console())


@app.command()
def runs(db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """List all runs, the newest first."""
    from .ids import plain

    installed()
    headers = open_store(db).runs()
    if as_json:
        print_json([plain(header) for header in headers])
        return
    from .tables import console, show_runs

    show_runs(headers, console())


@app.command()
def show(run: RunName, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Show a run: its circuit, components, roles, verdicts and motifs."""
    installed()
    found = open_store(db).get(run)
    if as_json:
        from .run import to_document

        print_json(to_document(found))
        return
    from .tables import console, show_run

    show_run(found, console())


@app.command()
def compare(first: RunName, second: RunName, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Two runs side by side: shared components, edges, roles and motifs; labels that differ."""
    from .comparing import compare as side_by_side
    from .ids import plain

    installed()
    store = open_store(db)
    runs = (store.get(first), store.get(second))
    found = side_by_side(*runs)
    if as_json:
        print_json({"runs": [run.id for run in runs], **plain(found)})
        return
    from .tables import console, show_comparison

    show_comparison(runs, found, console())


@app.command()
def verify(db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Derive every content id of the store anew and follow every reference."""
    installed()
    problems = open_store(db).verify()
    if as_json:
        print_json({"problems": problems})
    for problem in () if as_json else problems:
        say(problem)
    if problems:
        raise UserError(f"{db} has {len(problems)} problems; import its runs into a new store.")
    if not as_json:
        say(f"{db}: every record is what its id says, and every reference leads somewhere")


@app.command()
def compact(db: Db = DEFAULT_STORE) -> None:
    """Write the store anew without the gaps that changes leave."""
    installed()
    before, after = open_store(db).compact()
    say(f"{db}: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")


@app.command()
def export(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="An id, its beginning, or `last`.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="A folder: every table of the store, for pandas or polars.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Write the run's prompts, for `run --prompts`.")
    ] = None,
    db: Db = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file.")] = None,
) -> None:
    """Print a run as one JSON document (schema acdc-explain/run/1), or write all tables."""
    from .run import to_document

    installed()
    if parquet is not None:
        counts = open_store(db).write_parquet(parquet)
        say(f"{len(counts)} tables with {sum(counts.values())} rows in {parquet}")
        return
    if run is None:
        raise WrongUsage(
            "export takes a RUN (`acdc-explain runs` lists them), or --parquet FOLDER."
        )
    found = open_store(db).get(run)
    if prompts is not None:
        _write(prompts, _prompts_of(found))
        say(f"{prompts}: the prompts of run {found.id}")
        return
    document = to_document(found)
    if output is None:
        print_json(document)
    else:
        _write(output, json.dumps(document, indent=2, ensure_ascii=False))


def _prompts_of(run: Run) -> str:
    from .prompt_file import write_prompts

    if run.task is None:
        raise UserError(f"The prompts of run {run.id} are not in this store.")
    return write_prompts(run.task)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error


@app.command(name="import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported runs.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Add exported runs to the store; what is there already is left as it is."""
    from .run import from_document

    installed()
    found = []
    for file in files:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is no JSON document ({error}).") from error
        found.append((file, from_document(document, str(file))))
    store = open_store(db, must_exist=False)
    added = store.add_runs(run for _, run in found)
    for (file, run), new in zip(found, added):
        say(f"{file}: run {run.id} {'added' if new else 'was there already'}")
