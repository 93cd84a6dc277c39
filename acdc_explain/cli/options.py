"""The options of the commands: those that several commands share, and those of the settings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from ..errors import WrongUsage
from ..pipeline.settings import Setting, Settings, settings_table

DEFAULT_STORE = "acdc_explain.duckdb"
Db = Annotated[
    str,
    typer.Option(
        "--db", envvar="ACDC_EXPLAIN_DB", help="The store's file.", show_default=DEFAULT_STORE
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
AllLabels = Annotated[
    bool, typer.Option("--all", help="Print every label with its verdict, those that failed, too.")
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="An id, the beginning of one, a name, or `last`.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the LLM requests and their price; send none of them."),
]
OfTask = Annotated[str | None, typer.Option("--task", help="Only runs of this task.")]
OfModel = Annotated[str | None, typer.Option("--model", help="Only runs of this model.")]
AnyVerdict = Annotated[
    bool,
    typer.Option(
        "--any-verdict", help="A role in a pattern also matches labels that were not supported."
    ),
]

Command = Callable[..., None]


def settings_options(*names: str) -> Callable[[Command], Command]:
    """A decorator: the parameter `settings` of a command becomes the options of these settings.

    The command itself receives a ready `Settings`. Without names, it gets the options of all.
    """
    table = {row.name: row for row in settings_table() if row.option.on_command_line}
    rows = [table[name] for name in names] or list(table.values())

    def decorate(command: Command) -> Command:
        parameters = list(_expanded(command, rows))

        @wraps(command)
        def with_options(**values: Any) -> None:
            fields = {row.name: _field(row, values) for row in rows}
            taken = {parameter.name for row in rows for parameter in _parameters(row)}
            others = {name: value for name, value in values.items() if name not in taken}
            command(settings=Settings(**fields), **others)

        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {x.name: x.annotation for x in parameters}
        return with_options

    return decorate


def _expanded(command: Command, rows: Sequence[Setting]) -> Iterator[inspect.Parameter]:
    """The parameters of a command, with those of the settings in place of `settings`."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "settings":
            for row in rows:
                yield from _parameters(row)
        else:
            yield parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY)


def _parameters(setting: Setting) -> Iterator[inspect.Parameter]:
    """What typer reads: an option for a setting, after one for each key that has its own."""
    for key in setting.keys:
        yield from _parameters(key)
    option = setting.option
    kind, default = _as_typed(setting)
    described = typer.Option(
        f"--{option.name or setting.name.replace('_', '-')}",
        help=option.help,
        metavar="NAME=VALUE" if _is_mapping(setting) else option.path,
        min=option.minimum,
        max=option.maximum,
        envvar=option.environment,
        show_default=option.default or True,
    )
    yield inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, described],
    )


def _as_typed(setting: Setting) -> tuple[Any, Any]:
    """The type and the default of an option on the command line."""
    if _is_mapping(setting) or get_origin(setting.type) is tuple:
        return list[str] | None, None
    if setting.option.path is not None:
        return Path | None, None
    if setting.type is bool:
        return bool, bool(setting.default)
    return setting.type, setting.default


def _is_mapping(setting: Setting) -> bool:
    return setting.option.keys is not None


def _field(setting: Setting, values: dict[str, Any]) -> Any:
    """The value of a field of Settings, from the values of its options."""
    value = values[setting.name]
    if _is_mapping(setting):
        named = {key.name: values[key.name] for key in setting.keys}
        chosen = {k: v for k, v in named.items() if v is not None and v is not False}  # 0 counts
        return {**chosen, **named_values(value or [], f"--{setting.option.name}")}
    if setting.option.path is not None:
        return str(value) if value else None
    if get_origin(setting.type) is tuple:
        return tuple(value or ())
    return value


def named_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """NAME=VALUE pairs as a dictionary; a value that is JSON is read as JSON. Raises UserError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise WrongUsage(f"{option} takes NAME=VALUE, and {pair!r} has no '='.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values
