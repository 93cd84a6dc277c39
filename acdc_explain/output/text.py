"""All text that is printed goes through here.

What comes from a model, an LLM, a file or a plugin is shown and never obeyed by a terminal; output
that cannot be written is said in one sentence.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ..errors import UserError

OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that do something: controls, formats such as the order of writing,
halves of characters, separators of lines."""

JOINERS = "\u200c\u200d"  # of the category Cf, and needed to write Persian, Hindi and emoji


def shown(text: str, *, lines: bool = False) -> str:
    """The text with every character that a terminal would obey written as its escape.

    `lines`: line ends and tabs stay as they are.
    """
    return _escaped(text, "\n\t" if lines else "", lambda c: ascii(c)[1:-1])


def _escaped(text: str, keep: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    keep += JOINERS
    return "".join(
        c if c in keep or unicodedata.category(c) not in OBEYED else escape(c) for c in text
    )


def say(text: str, *, err: bool = False) -> None:
    """A line on standard output or standard error. Line ends before and after it stay."""
    inner = text.strip("\n")
    start = len(text) - len(text.lstrip("\n")) if inner else 0
    typer.echo("\n" * start + shown(inner), err=err)


def say_lines(text: str) -> None:
    """Our own text of several lines."""
    for line in text.split("\n"):
        typer.echo(shown(line))


def print_json(document: Any) -> None:
    """One JSON document. What a terminal would obey is escaped as JSON does it: the same values."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if not _writable(text):
        text = json.dumps(document, indent=2)
    typer.echo(_escaped(text, "\n", lambda c: json.dumps(c)[1:-1]))


def _writable(text: str) -> bool:
    """Whether standard output has all the characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "surrogatepass")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def standard_streams() -> Iterator[None]:
    """Characters that a stream lacks are replaced. Raises UserError if nothing can be written."""
    closed = sys.stdout is None
    _open_the_standard_files()
    if closed:
        raise UserError(
            "Standard output is closed, so nothing can be printed; direct it elsewhere."
        )
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        yield
    except OSError as error:
        if error.filename is not None or not _is_of_output(error):
            raise
        _to_nowhere()
        raise UserError(
            f"The output cannot be written: {error.strerror}; direct it elsewhere."
        ) from error


def flush() -> None:
    """Write what is still held back, so that what cannot be written is known before the end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _is_of_output(error: OSError) -> bool:
    """Of writing to a stream, which has no file name: a full disk, a device that is gone."""
    return error.errno in {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.ENXIO,
    }  # fmt: skip


def _open_the_standard_files() -> None:
    """A file opened in place of a closed one would get what others write to the standard files."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _to_nowhere() -> None:
    """Or what is held back would fail once more at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
