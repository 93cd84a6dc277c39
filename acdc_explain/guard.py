"""Calls of plugin code: prints go to standard error, exceptions become a sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TypeVar

from .errors import UserError

T = TypeVar("T")
PASSED_ON = (KeyboardInterrupt, GeneratorExit, UserError)
"""Exceptions that are not a plugin's fault. All others are, SystemExit included."""


class Unfit(Exception):
    """What is wrong with a plugin's result."""


class PluginFault(Exception):
    """What a plugin did wrong, in a sentence that names it."""


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to standard error whatever is printed inside: standard output is for results.

    This includes what a library in C or another process writes to the file descriptor.
    """
    original = None
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        original = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if original is not None:
            os.dup2(original, 1)
            os.close(original)


def sentence(error: BaseException) -> str:
    """What was raised and where, without a full stop."""
    text = " ".join(str(error).split()).encode("utf-8", "replace").decode()[:500]
    if isinstance(error, Unfit):
        return text
    places = [
        f" ({os.path.basename(frame.filename)}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename
    ]
    return f"{type(error).__name__}: {text or 'no message'}{places[-1] if places else ''}"


def until_fault(
    results: Callable[[], Iterable[T]], plugin: str, report: Callable[[str], None]
) -> Iterator[T]:
    """Everything that a plugin yields until it fails; `report` receives the reason if it does."""
    try:
        yield from results()
    except PASSED_ON:
        raise
    except BaseException as error:  # a plugin may raise anything
        report(f"{plugin} failed ({sentence(error)})")


@contextmanager
def must_work(plugin: str, hint: str = "") -> Iterator[None]:
    """Raise UserError if the plugin's code inside fails: nothing can be done without it."""
    try:
        yield
    except PASSED_ON:
        raise
    except BaseException as error:
        raise UserError(f"{plugin} failed ({sentence(error)}){hint}.") from error
