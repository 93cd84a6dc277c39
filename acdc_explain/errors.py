"""The errors a user is meant to read."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """What is wrong, where, and the way out, in one sentence. Shown without a traceback."""


class WrongUsage(UserError):
    """What was asked for cannot be: an unknown name, a value out of bounds. Exit code 2."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), lower, 1, 0.6)
    return lower[near[0]] if near else None


def unknown(kind: str, name: str, known: Iterable[str]) -> WrongUsage:
    """There is none of this name; what is there, and what was probably meant."""
    names = sorted(known)
    near = nearest(name, names)
    meant = f"; did you mean {near}? There are " if near else "; there are "
    return WrongUsage(f"There is no {kind} {name!r}{meant}{', '.join(names) or 'none'}.")
