"""The command that writes pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError, for_command_line
from ..output.files import check_output
from ..output.text import say
from .app import DEFAULT_STORE, Db, app, installed, open_store, say_cut

if TYPE_CHECKING:
    from ..records.run.header import RunHeader
    from ..records.run.run import Run
    from ..store.store import Store


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
    installed()
    given, wanted = runs or [], 0 if store else 2 if compare else 1
    if len(given) != wanted:
        what = ("no RUN with --store", "one RUN", "two RUNs with --compare")[wanted]
        raise UserError(f"report takes {what}, and {len(given)} were given.")
    held = open_store(db)
    if store:
        _write_all(held, limit, output or Path("report"))
        return
    found = [held.get(name) for name in given]
    text = _compared(*found) if compare else _page(found[0], held)
    _write(output or Path("-".join(run.id[:8] for run in found) + ".html"), text)


def _write_all(held: Store, limit: int, folder: Path) -> None:
    """A page for each run, and the index; a run that cannot be shown is listed with the reason."""
    from ..report.html import index_page

    shown: list[Run] = []
    failed: list[tuple[RunHeader, str]] = []
    headers = held.runs()
    if len(headers) > limit:
        say_cut(limit, len(headers))
    for header in headers[:limit]:
        try:
            run = held.get(header.id)
            text = _page(run, held)
        except Exception as error:  # of an imported or damaged record; the others go on
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
        raise _strange(run.id, error) from error


def _compared(first: Run, second: Run) -> str:
    from ..report.html import compare_page

    try:
        return compare_page(first, second)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _strange(f"{first.id} or {second.id}", error) from error


def _strange(runs: str, error: Exception) -> UserError:
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
