"""What all commands share: the options with one meaning, the store, the way mistakes are told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UserError
from .plugins import Plugins, load_plugins

if TYPE_CHECKING:
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


def installed() -> Plugins:
    """All plugins; those that are broken are named in every command."""
    plugins = load_plugins()
    for name, error in sorted(plugins.broken.items()):
        typer.echo(f"acdc-explain: plugin {name!r} is broken and was left out: {error}", err=True)
    return plugins


def open_store(db: str, *, must_exist: bool = True) -> Store:
    from .store import Store

    if must_exist and not Path(db).exists():
        raise UserError(
            f"There is no store {db}; make one with `acdc-explain run ioi --db {db}`, "
            "or name another with --db."
        )
    return Store(db)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@contextmanager
def interruptible(db: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise UserError(
            f"Stopped; what was finished is in {db}, and the same command goes on from there."
        ) from None


def settings_in(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """NAME=VALUE, where VALUE is read as JSON if it is JSON."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"{option} takes NAME=VALUE, and {pair!r} has no '='.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
