"""The settings of a callable: its keyword-only parameters, with their defaults and types."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

from .errors import WrongUsage
from .hookspecs import Discoverer, Judge, Labeler


def function_of(thing: Any) -> Any:
    """The function itself, where a record says more about it."""
    return thing.function if isinstance(thing, (Discoverer, Labeler, Judge)) else thing


def settings_of(thing: Any) -> dict[str, Any]:
    """The settings of a callable, with their defaults: its keyword-only parameters."""
    parameters = inspect.signature(function_of(thing)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def with_settings(kind: str, name: str, thing: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a callable: `given`, and the defaults of the others.

    Raises:
        WrongUsage: for an unknown setting, or a value of the wrong type.
    """
    known = settings_of(thing)
    for setting in given:
        if setting not in known:
            takes = ", ".join(known) or "no settings"
            raise WrongUsage(f"{kind} {name!r} has no setting {setting!r}; it takes {takes}.")
    types = _types(function_of(thing))
    for setting, value in given.items():
        _check_type(f"Setting {setting!r} of {name!r}", types.get(setting), value)
    return {**known, **given}


def with_shared(thing: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a plugin: its defaults, and those of the run that it has too."""
    known = settings_of(thing)
    return {**known, **{name: value for name, value in shared.items() if name in known}}


def _types(function: Any) -> dict[str, Any]:
    """The types of a callable's parameters, as far as its annotations can be read.

    One by one: names that exist for type checkers alone hide no others.
    """
    annotated = function if inspect.isroutine(function) else type(function).__call__
    types: dict[str, Any] = {}
    for name, annotation in getattr(annotated, "__annotations__", {}).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        with suppress(NameError, TypeError, AttributeError):
            types |= get_type_hints(alone, getattr(annotated, "__globals__", {}))
    return types


def _check_type(what: str, expected: Any, value: Any) -> None:
    """Whole numbers and numbers must be such, as the annotation says."""
    types = {expected, *get_args(expected)}
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if float in types and not (number and math.isfinite(value)):
        raise WrongUsage(f"{what} is {value!r}; give a finite number.")
    if int in types and float not in types and not (number and value == int(value)):
        raise WrongUsage(f"{what} is {value!r}; give a whole number.")
