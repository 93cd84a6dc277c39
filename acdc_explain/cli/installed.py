"""The commands about what is installed: tasks, models, roles, plugins, doctor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError
from ..models.options import DEFAULT_MODEL
from ..output.text import print_json, say
from ..pipeline.settings import Settings
from ..plugins import load_plugins
from ..progress import on_terminal
from .app import app, installed
from .options import Json, settings_options

if TYPE_CHECKING:
    from ..output.terminal import Lines


@app.command()
def tasks(as_json: Json = False) -> None:
    """List the tasks."""
    _list(_first_lines(installed().tasks()), ("task", "what it is"), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that have a short name."""
    _list(_first_lines(installed().models()), ("model", "what it is"), as_json)
    if not as_json:
        say(
            "\nAlso: any Hugging Face or TransformerLens name, a folder in Hugging Face format, "
            "a .gguf file."
        )


@app.command()
def roles(as_json: Json = False) -> None:
    """List the roles and the tests that a component must pass to have one."""
    cards = installed().roles()
    if as_json:
        from ..ids import plain

        print_json(
            {
                name: plain(card)
                | {"requirements": [str(r) for r in card.requirements]}
                | {"claims": [str(c) for c in card.claims], "unless": [str(c) for c in card.unless]}
                for name, card in cards.items()
            }
        )
        return
    from ..output.terminal import Lines

    rows = [
        (
            name,
            card.kind,
            card.claim,
            Lines(
                [f"{r.tier}: {r}" for r in card.requirements]
                + [f"claims: {c}" for c in card.claims]
                + [f"unless: {c}" for c in card.unless]
            ),
            card.source,
        )
        for name, card in cards.items()
    ]
    _list(rows, ("role", "kind", "claim", "tests", "source"), False)


@app.command()
def plugins(as_json: Json = False) -> None:
    """List the plugins, what each brings, and which are broken."""
    loaded = load_plugins()
    brings = {name: loaded.brings(name) for name in loaded.names}
    if as_json:
        print_json({"plugins": brings, "broken": loaded.broken})
        return
    from ..report.text.installed import show_plugins
    from ..report.text.tables import console

    show_plugins(loaded, console())


def _first_lines(things: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _first_line(thing)) for name, thing in sorted(things.items())]


def _first_line(thing: Any) -> str:
    """The first line of an object's docstring; for a `partial`, of the function it wraps."""
    while isinstance(thing, partial):
        thing = thing.func
    text = getattr(thing, "__doc__", None)
    return text.strip().split("\n")[0] if isinstance(text, str) else ""


def _list(rows: Sequence[Sequence[str | Lines]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(columns, row)) for row in rows])
        return
    from ..report.text.installed import show_names
    from ..report.text.tables import console

    show_names(rows, columns, console())


@app.command()
@settings_options("device", "dtype", "revision")
def doctor(
    settings: Settings,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name, a folder or a .gguf file.")
    ] = DEFAULT_MODEL,
    as_json: Json = False,
) -> None:
    """Load a model, check that cutting edges is exact on it, and tell what a search would take."""
    installed()
    settings.check()
    from ..evaluation.doctor import examine
    from ..pipeline.inputs.model import load_for

    with on_terminal() as report:
        findings = examine(load_for(model, settings, report)[0])
    if as_json:
        print_json(findings)
    else:
        from ..report.text.doctor import show_findings
        from ..report.text.tables import console

        show_findings(findings, console())
    if findings["self_check"] != "passed":
        raise UserError(f"{model}: {findings['self_check']}; circuits of it would not be exact.")
