"""All text that is printed goes through here.

Text may come from a model, an LLM, a file or a plugin: control characters are escaped, so that the
terminal does not obey them. If the output cannot be written, the error is one sentence.
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
"""Unicode categories that a terminal acts on: controls, formats such as the writing direction,
surrogates, line and paragraph separators."""

JOINERS = "\u200c\u200d"  # category Cf, but needed to write Persian, Hindi and emoji


def shown(text: str, *, lines: bool = False) -> str:
    """Escape every character of a text that a terminal would obey.

    Args:
        text: Any text.
        lines: Whether to keep line ends and tabs.
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
    """Print a line on standard output or standard error; line ends around the text are kept."""
    inner = text.strip("\n")
    start = len(text) - len(text.lstrip("\n")) if inner else 0
    typer.echo("\n" * start + shown(inner), err=err)


def say_lines(text: str) -> None:
    """Print a text of several lines, each escaped."""
    for line in text.split("\n"):
        typer.echo(shown(line))


def print_json(document: Any) -> None:
    """Print a JSON document. Control characters get JSON escapes, so its values stay the same."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if not _writable(text):
        text = json.dumps(document, indent=2)
    typer.echo(_escaped(text, "\n", lambda c: json.dumps(c)[1:-1]))


def _writable(text: str) -> bool:
    """Whether the encoding of standard output has all characters of the text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "surrogatepass")
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replace characters that a stream cannot encode. Raises UserError if it cannot be written."""
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
    """Write the buffers of the streams, so that errors are seen before the process ends."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _is_of_output(error: OSError) -> bool:
    """Whether an error comes from writing to a stream: a full disk, a device that is gone."""
    return error.errno in {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.ENXIO,
    }  # fmt: skip


def _open_the_standard_files() -> None:
    """Open /dev/null for closed descriptors 0 to 2.

    Else the next file that is opened would get one of them, and what is printed with it.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _to_nowhere() -> None:
    """Send standard output to /dev/null, or its buffer would fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
