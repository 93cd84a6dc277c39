"""Files that a user names: to read, or to write over whatever is there, but never over a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UserError

MAGIC, MAGIC_OFFSET = b"DUCK", 8  # in every DuckDB file


def is_database(file: Path) -> bool:
    """Whether a file is a DuckDB database."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAGIC_OFFSET + len(MAGIC))[MAGIC_OFFSET:] == MAGIC
    except OSError:
        return False


def check_output(file: Path, db: str | Path | None = None) -> Path:
    """Return the file if it may be written.

    Args:
        file: The file to write.
        db: A store that may not exist yet, and must not be written over either.

    Raises:
        UserError: if the file is a store, another DuckDB file or the log of one.
    """
    log = file.suffix == ".wal" and is_database(file.with_suffix(""))
    same = db is not None and file.absolute() == Path(db).absolute()
    if is_database(file) or log or same:
        raise UserError(
            f"{file} is a store (a DuckDB file) and is left as it is; name another file."
        )
    return file


def write_text(file: Path, text: str, db: str | Path | None = None) -> None:
    """Write a text file, as `check_output` allows. Raises UserError."""
    check_output(file, db)
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises UserError if it cannot be read or is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON document ({error}).") from error
