"""The commands about the store: search, motifs, runs, show, compare, export, import and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError, WrongUsage, nearest
from ..output.files import write_text
from ..output.text import print_json, say
from ..progress import on_terminal
from .app import (
    DEFAULT_STORE,
    Db,
    Json,
    RunName,
    app,
    installed,
    interruptible,
    open_store,
    say_cut,
)

if TYPE_CHECKING:
    from ..records.run.run import Run

OfTask = Annotated[str | None, typer.Option("--task", help="Of runs of this task.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Of runs of this model.")]
AnyVerdict = Annotated[
    bool,
    typer.Option("--any-verdict", help="Roles in patterns: also where the label did not pass."),
]


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
    task: OfTask = None,
    model: OfModel = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    any_verdict: AnyVerdict = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Find labeled components, or paths of them, over all runs."""
    from ..ids import plain
    from ..records.verdict import WORST_FIRST

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
        limit=limit, any_verdict=any_verdict,
    )  # fmt: skip
    if len(matches) == limit and matches.total != limit:
        say_cut(limit, matches.total)
    if as_json:
        print_json([plain(match) for match in matches])
        return
    from ..report.text.tables import console, show_matches

    show_matches(matches, console())


@app.command()
def motifs(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN...", help="Names or patterns.", show_default="all named"),
    ] = None,
    chance: Annotated[
        bool, typer.Option("--chance/--no-chance", help="Count in randomised circuits too.")
    ] = True,
    any_verdict: AnyVerdict = False,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Count motifs by task and model, beside randomised circuits."""
    from ..store.motifs import motifs as count_motifs

    named = installed().patterns()
    wanted = {text: named.get(text, text) for text in patterns} if patterns else named
    store = open_store(db)
    with interruptible(db), on_terminal() as report:
        counts = count_motifs(
            store, wanted, chance=chance, any_verdict=any_verdict, progress=report
        )
    if as_json:
        print_json([count.as_dict() for count in counts])
        return
    from ..report.text.tables import console, show_motifs

    show_motifs(counts, console())


@app.command()
def runs(
    task: OfTask = None,
    model: OfModel = None,
    status: Annotated[str | None, typer.Option(help="done, incomplete or unfinished ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    db: Db = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """List the runs, the newest first."""
    from ..ids import plain
    from ..store.document.check import STATUSES

    installed()
    if status is not None and status not in STATUSES:
        raise UserError(f"There is no status {status!r}; runs are {', '.join(STATUSES)}.")
    found = open_store(db).list_runs(task, model, status)
    if len(found) > limit:
        say_cut(limit, len(found))
    listed = found[:limit]
    if as_json:
        print_json(
            [
                {**plain(run.header), "edges": run.edges, "faithfulness": run.faithfulness}
                for run in listed
            ]
        )
        return
    from ..report.text.tables import console, show_runs

    show_runs(listed, console())


@app.command(name="name")
def name_(
    run: RunName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="'' takes the name away.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Name a run: the name can be given wherever a RUN is asked for."""
    installed()
    header = open_store(db).name_run(run, name=name)
    say(f"run {header.id} " + (f"is {header.name!r}" if header.name else "has no name"))


@app.command()
def note(
    run: RunName,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="'' takes the note away.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Write a note on a run; `show` and `export` have it."""
    installed()
    header = open_store(db).name_run(run, note=text)
    say(f"run {header.id} has {'a' if header.note else 'no'} note")


@app.command()
def delete(
    run: RunName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
    db: Db = DEFAULT_STORE,
) -> None:
    """Remove a run, and the records that no other run uses."""
    installed()
    header, counts = open_store(db).delete(run, dry_run=dry_run)
    rows = ", ".join(f"{table} {n}" for table, n in sorted(counts.items()))
    would = "would remove" if dry_run else "removed"
    say(f"{db}: {would} run {header.id} ({header.task} on {header.model}); rows: {rows}")


@app.command()
def show(run: RunName, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Show a run: its circuit, components, roles, verdicts and motifs."""
    installed()
    found = open_store(db).get(run)
    if as_json:
        from ..store.document.write import to_document

        print_json(to_document(found))
        return
    from ..report.text.tables import console, show_run

    show_run(found, console())


@app.command()
def compare(first: RunName, second: RunName, db: Db = DEFAULT_STORE, as_json: Json = False) -> None:
    """Two runs side by side: shared components, edges, roles and motifs; labels that differ."""
    from ..ids import plain
    from ..report.comparison import compare as side_by_side

    installed()
    store = open_store(db)
    runs = (store.get(first), store.get(second))
    found = side_by_side(*runs)
    if as_json:
        print_json({"runs": [run.id for run in runs], **plain(found)})
        return
    from ..report.text.tables import console, show_comparison

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
        Path | None, typer.Option(help="A folder: every table, for pandas or polars.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Write the run's prompts, for `run --prompts`.")
    ] = None,
    db: Db = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file.")] = None,
) -> None:
    """Print a run as one JSON document (schema acdc-explain/run/1), or write its tables or all."""
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
    found = open_store(db).get(run)
    if prompts is not None:
        write_text(prompts, _prompts_of(found), db)
        say(f"{prompts}: the prompts of run {found.id}")
        return
    document = to_document(found)
    if output is None:
        print_json(document)
        return
    write_text(output, json.dumps(document, indent=2, ensure_ascii=False), db)


def _prompts_of(run: Run) -> str:
    from ..pipeline.prompt_file import write_prompts

    if run.task is None:
        raise UserError(f"The prompts of run {run.id} are not in this store.")
    return write_prompts(run.task)


@app.command(name="import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported runs.")],
    db: Db = DEFAULT_STORE,
) -> None:
    """Add exported runs to the store; what is there already is left as it is."""
    from ..store.document.read import from_document

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
