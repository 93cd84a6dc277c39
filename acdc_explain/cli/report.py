"""The command `report`, which writes HTML pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError, for_command_line
from ..output.files import check_output
from ..output.text import say
from .app import app, installed, open_store, say_cut
from .options import DEFAULT_STORE, Db

if TYPE_CHECKING:
    from ..records.run.header import RunHeader
    from ..records.run.run import Run
    from ..store.store import Store


@app.command()
def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="One run, or two with --compare.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; with --store, the folder."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show two runs side by side.")] = False,
    store: Annotated[
        bool,
        typer.Option("--store", help="Write a page for every run, and an index to search them."),
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, help="With --store: write this many runs, the newest.")
    ] = 200,
    db: Db = DEFAULT_STORE,
) -> None:
    """Write one run, two runs side by side, or the whole store as HTML."""
    installed()
    names, needed = runs or [], 0 if store else 2 if compare else 1
    if len(names) != needed:
        what = ("no RUN with --store", "one RUN", "two RUNs with --compare")[needed]
        raise UserError(f"report takes {what}, and {len(names)} were given.")
    opened = open_store(db)
    if store:
        _write_all(opened, limit, output or Path("report"))
        return
    shown = [opened.get(name) for name in names]
    text = _compared(*shown) if compare else _page(shown[0], opened)
    _write(output or Path("-".join(run.id[:8] for run in shown) + ".html"), text)


def _write_all(store: Store, limit: int, folder: Path) -> None:
    """Write a page for each run, and an index; the index says why a run has no page."""
    from ..report.html import index_page

    shown: list[Run] = []
    failed: list[tuple[RunHeader, str]] = []
    headers = store.runs()
    if len(headers) > limit:
        say_cut(limit, len(headers))
    for header in headers[:limit]:
        try:
            run = store.get(header.id)
            text = _page(run, store)
        except Exception as error:  # an imported or damaged record must not stop the others
            is_plain = isinstance(error, UserError)
            failed.append((header, for_command_line(error) if is_plain else _why(error)))
            continue
        _write(folder / f"{run.id}.html", text)
        shown.append(run)
    _write(folder / "index.html", index_page(shown, failed))
    for header, reason in failed:
        say(f"run {header.id} has no page: {reason}", err=True)


def _page(run: Run, store: Store) -> str:
    from ..report.html import page

    try:
        return page(run, store.sizes(run.circuit) if run.circuit else ())
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unfit(run.id, error) from error


def _compared(first: Run, second: Run) -> str:
    from ..report.html import compare_page

    try:
        return compare_page(first, second)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unfit(f"{first.id} or {second.id}", error) from error


def _unfit(runs: str, error: Exception) -> UserError:
    return UserError(
        f"Run {runs} holds something that no page can show ({_why(error)}); `acdc-explain export` "
        "writes its record, `acdc-explain verify` checks the store."
    )


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _write(file: Path, text: str) -> None:
    check_output(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
    say(f"{file}: {len(text) / 1e6:.2f} MB")
