"""Around the code of plugins: what it prints goes to standard error, what it raises is told."""

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
"""What is no fault of a plugin. All else is, sys.exit() too."""


class Unfit(Exception):
    """What is wrong with what a plugin gave back."""


class PluginFault(Exception):
    """What a plugin did wrong, in a sentence that names it."""


@contextmanager
def printing_aside() -> Iterator[None]:
    """Standard output is for results: whatever is printed inside goes to standard error.

    Also what is written to the file itself, by a library in C or another process.
    """
    kept = None
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def sentence(error: BaseException) -> str:
    """What was raised, and where."""
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
    make: Callable[[], Iterable[T]], who: str, say: Callable[[str], None]
) -> Iterator[T]:
    """What a plugin yields, as far as it comes; `say` is told why no more came."""
    try:
        yield from make()
    except PASSED_ON:
        raise
    except BaseException as error:  # a plugin may raise anything
        say(f"{who} failed ({sentence(error)})")


@contextmanager
def must_work(who: str, hint: str = "") -> Iterator[None]:
    """Around a plugin's code without which nothing can go on. Raises UserError."""
    try:
        yield
    except PASSED_ON:
        raise
    except BaseException as error:
        raise UserError(f"{who} failed ({sentence(error)}){hint}.") from error
