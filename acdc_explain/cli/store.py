"""The commands that read or change the store: runs, show, export, import and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError, WrongUsage
from ..output.files import read_json, write_text
from ..output.text import print_json, say
from .app import app, installed, open_store, say_cut
from .options import DEFAULT_STORE, AllLabels, Db, Json, OfModel, OfTask, RunName

if TYPE_CHECKING:
    from ..records.run.run import Run


@app.command()
def runs(
    task: OfTask = None,
    model: OfModel = None,
    status: Annotated[
        str | None, typer.Option(help="Only done, incomplete or unfinished runs.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="List this many, the newest.")] = 100,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """List the runs, the newest first."""
    from ..ids import plain
    from ..store.document.check import STATUSES

    installed()
    if status is not None and status not in STATUSES:
        raise UserError(f"There is no status {status!r}; runs are {', '.join(STATUSES)}.")
    entries = open_store(db).list_runs(task, model, status)
    if len(entries) > limit:
        say_cut(limit, len(entries))
    listed = entries[:limit]
    if as_json:
        columns = ("edges", "faithfulness")
        print_json([plain(run.header) | {x: getattr(run, x) for x in columns} for run in listed])
        return
    from ..report.text.run import show_runs
    from ..report.text.tables import console

    show_runs(listed, console())


@app.command(name="name")
def name_(
    run: RunName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name; '' removes it.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Give a run a name, which every command takes as RUN."""
    installed()
    header = open_store(db).name_run(run, name=name)
    say(f"run {header.id} " + (f"is {header.name!r}" if header.name else "has no name"))


@app.command()
def note(
    run: RunName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The new note; '' removes it.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Write a note on a run; `show` and `export` print it."""
    installed()
    header = open_store(db).name_run(run, note=text)
    say(f"run {header.id} has {'a' if header.note else 'no'} note")


@app.command()
def delete(
    run: RunName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")
    ] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Remove a run and the records that no other run uses."""
    installed()
    header, counts = open_store(db).delete(run, dry_run=dry_run)
    rows = ", ".join(f"{table} {n}" for table, n in sorted(counts.items()))
    would = "would remove" if dry_run else "removed"
    say(f"{db}: {would} run {header.id} ({header.task} on {header.model}); rows: {rows}")


@app.command()
def show(
    run: RunName, db: Db = DEFAULT_STORE, all_labels: AllLabels = False, as_json: Json = False
) -> None:
    """Show a run: its circuit, its components, its motifs, and what it does step by step."""
    installed()
    stored = open_store(db).get(run)
    if as_json:
        from ..store.document.write import to_document

        print_json(to_document(stored))
        return
    from ..report.text.run import show_run
    from ..report.text.tables import console

    show_run(stored, console(), all_labels=all_labels)


@app.command()
def compare(first: RunName, second: RunName, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Compare two runs: what they share, and which labels differ."""
    from ..ids import plain
    from ..report.comparison import compare as side_by_side

    installed()
    store = open_store(db)
    runs = (store.get(first), store.get(second))
    comparison = side_by_side(*runs)
    if as_json:
        print_json({"runs": [run.id for run in runs], **plain(comparison)})
        return
    from ..report.text.comparison import show_comparison
    from ..report.text.tables import console

    show_comparison(runs, comparison, console())


@app.command()
def verify(db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Check the store: recompute every content id and follow every reference."""
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
    """Shrink the store's file by removing the gaps that changes leave."""
    installed()
    before, after = open_store(db).compact()
    say(f"{db}: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")


@app.command()
def export(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The run; not needed with --parquet.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write all tables to this folder, for pandas or polars.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Write the run's prompts to this file, for `run --prompts`.")
    ] = None,
    db: Db = DEFAULT_STORE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.")
    ] = None,
) -> None:
    """Print a run as one JSON document (schema acdc-explain/run/1), or write Parquet tables."""
    from ..store.document.write import to_document

    installed()
    if parquet is not None:
        counts = open_store(db).write_parquet(parquet, run)
        say(f"{len(counts)} tables with {sum(counts.values())} rows in {parquet}")
        return
    if run is None:
        raise WrongUsage(
            "export takes a RUN (`acdc-explain runs` lists them), or --parquet FOLDER."
        )
    stored = open_store(db).get(run)
    if prompts is not None:
        write_text(prompts, _prompts_of(stored), db)
        say(f"{prompts}: the prompts of run {stored.id}")
        return
    document = to_document(stored)
    if output is None:
        print_json(document)
        return
    write_text(output, json.dumps(document, indent=2, ensure_ascii=False), db)


def _prompts_of(run: Run) -> str:
    """A run's prompts as a file that `run --prompts` reads. Raises UserError."""
    from ..pipeline.inputs.prompt_file import write_prompts

    if run.task is None:
        raise UserError(f"The prompts of run {run.id} are not in this store.")
    return write_prompts(run.task)


@app.command(name="import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files that `export` wrote.")
    ],
    db: Db = DEFAULT_STORE,
) -> None:
    """Add exported runs to the store; runs that are there already stay as they are."""
    from ..store.document.read import from_document

    installed()
    runs = [from_document(read_json(file), str(file)) for file in files]
    added = open_store(db, must_exist=False).add_runs(iter(runs))
    for file, run, new in zip(files, runs, added):
        say(f"{file}: run {run.id} {'added' if new else 'was there already'}")
