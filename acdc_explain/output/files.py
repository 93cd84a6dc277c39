"""Files that a user names to be written: whatever is there is overwritten, but never a store."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError

MAGIC, AT = b"DUCK", 8  # in every DuckDB file


def is_database(file: Path) -> bool:
    try:
        with file.open("rb") as held:
            return held.read(AT + len(MAGIC))[AT:] == MAGIC
    except OSError:
        return False


def check_output(file: Path, db: str | Path | None = None) -> Path:
    """The file, if it may be written. `db`: a store that may not be there yet.

    Raises UserError for a store, or for any other DuckDB file.
    """
    log = file.suffix == ".wal" and is_database(file.with_suffix(""))
    same = db is not None and file.absolute() == Path(db).absolute()
    if is_database(file) or log or same:
        raise UserError(
            f"{file} is a store (a DuckDB file) and is left as it is; name another file."
        )
    return file


def write_text(file: Path, text: str, db: str | Path | None = None) -> None:
    """Raises UserError."""
    check_output(file, db)
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
