"""Errors that say what is wrong and what to do about it.

A text names an option as Python does, in backticks: `max_edges=` or `labeler="rules"`. The command
line prints the same option in its own form: --max-edges or --labeler rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_OPTION = re.compile(r"`([a-z][a-z_]*)=([^`]*)`")
_RENAMED = {"store": "db"}  # options with another name on the command line


class UserError(Exception):
    """What is wrong, where, and what to do, in one sentence. Shown without a traceback.

    Write options as Python code in backticks: "raise `memory=` or use `labeler="rules"`".
    """


class WrongUsage(UserError):
    """A request that cannot be met: an unknown name, a value out of bounds. Exit code 2."""


def first_line(error: Exception, most: int = 300) -> str:
    """The first line of an error's text, cut to `most` characters; its class if it has no text."""
    return str(error).strip().split("\n")[0][:most] or type(error).__name__


def for_command_line(error: object) -> str:
    """The text of an error with its options as the command line writes them.

    Args:
        error: The error, or its text.

    Returns:
        The text, with `max_edges=` as --max-edges, `steps=5` as --steps 5, and `anyway=True` as
        --anyway. All else stays.
    """
    return _OPTION.sub(_flag, str(error))


def _flag(option: re.Match[str]) -> str:
    name, value = option.groups()
    flag = "--" + _RENAMED.get(name, name).replace("_", "-")
    if value in ("", "True"):
        return flag
    in_quotes = len(value) > 1 and value[0] == value[-1] == '"'
    return f"{flag} {value[1:-1] if in_quotes else value}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant; None if none is similar."""
    lower = {name.lower(): name for name in known}
    matches = get_close_matches(word.lower(), lower, 1, 0.6)
    return lower[matches[0]] if matches else None


def unknown(kind: str, name: str, known: Iterable[str]) -> WrongUsage:
    """The error for an unknown name. It lists the known ones and the most similar."""
    names = sorted(known)
    similar = nearest(name, names)
    suggestion = f"; did you mean {similar}? There are " if similar else "; there are "
    return WrongUsage(f"There is no {kind} {name!r}{suggestion}{', '.join(names) or 'none'}.")
