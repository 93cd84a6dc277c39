"""The command that writes pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import DEFAULT_STORE, Db, app, installed, open_store, say_cut
from .errors import UserError
from .output import check_output

if TYPE_CHECKING:
    from .run import Run
    from .store import Store


@app.command()
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="One run, or two to --compare.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, or a folder with --store.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Two runs side by side.")] = False,
    store: Annotated[
        bool, typer.Option("--store", help="A page for every run, and one to search them.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --store: the newest so many.")] = 200,
    db: Db = DEFAULT_STORE,
) -> None:
    """Write a run as one HTML page, two runs side by side, or the whole store."""
    from .report import compare_page, index_page

    installed()
    given, wanted = runs or [], 0 if store else 2 if compare else 1
    if len(given) != wanted:
        what = ("no RUN with --store", "one RUN", "two RUNs with --compare")[wanted]
        raise UserError(f"report takes {what}, and {len(given)} were given.")
    held = open_store(db)
    if store:
        folder = output or Path("report")
        headers = held.runs()
        if len(headers) > limit:
            say_cut(limit, len(headers))
        found = [held.get(header.id) for header in headers[:limit]]
        for run in found:
            _write(folder / f"{run.id}.html", _page(run, held))
        _write(folder / "index.html", index_page(found))
        return
    found = [held.get(name) for name in given]
    text = compare_page(*found) if compare else _page(found[0], held)
    _write(output or Path("-".join(run.id[:8] for run in found) + ".html"), text)


def _page(run: Run, store: Store) -> str:
    from .report import page

    return page(run, store.sizes(run.circuit) if run.circuit else ())


def _write(file: Path, text: str) -> None:
    check_output(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
    typer.echo(f"{file}: {len(text) / 1e6:.2f} MB")
