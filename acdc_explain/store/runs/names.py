"""The names that users give to runs: each is unique in its store."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import UserError
from ...records.run.header import RunHeader
from ..duck.connection import Connection
from ..tables.read import find_run

NAME = re.compile(r"(?!last$)(?![0-9a-f]+$)[A-Za-z0-9][\w.-]{0,63}")


def check_name(name: str) -> None:
    """Raises UserError for a text that cannot name a run."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{name[:80]!r} cannot name a run: a name has letters, digits, '.', '-' and '_', "
            "at most 64, and is neither `last` nor what an id may look like."
        )


def check_free(connection: Connection, path: Path, run_id: str, name: str | None) -> None:
    """Raises UserError for a name that a run cannot have or that another run has."""
    if name is None:
        return
    check_name(name)
    other = connection.execute(
        "SELECT id FROM runs WHERE name = ? AND id <> ?", [name, run_id]
    ).fetchone()
    if other:
        raise UserError(f"{path} has a run {name!r} already ({other[0]}); choose another.")


def is_free(connection: Connection, path: Path, run_id: str, name: str | None) -> bool:
    """Whether a run can have this name."""
    try:
        check_free(connection, path, run_id, name)
    except UserError:
        return False
    return True


def name_run(
    connection: Connection, path: Path, run: str, name: str | None, note: str | None
) -> RunHeader:
    """Set the name and the note of a run; None changes nothing, an empty text deletes it.

    Raises UserError.
    """
    header = find_run(connection, path, run)
    check_free(connection, path, header.id, name or None)
    for column, text in (("name", name), ("note", note)):
        if text is not None:
            connection.execute(
                f"UPDATE runs SET {column} = ? WHERE id = ?", [text or None, header.id]
            )
    return find_run(connection, path, header.id)
