"""The one DuckDB engine of a process: it opens the files of one store and no others."""

from __future__ import annotations

import atexit
import ctypes
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from ...errors import UserError
from .connection import Connection
from .limits import MEMORY, interrupts, memory_limit

DatabaseError, NotThere = duckdb.Error, duckdb.CatalogException  # as other files know them
CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",  # nothing is written beside the store
}
DATABASE_FILES = ("", ".wal", ".wal.checkpoint", ".wal.recovery")  # suffixes of its files

Reach = tuple[str, str | None]  # a store's path, and a folder for other files

_engines: list[tuple[int, Reach, duckdb.DuckDBPyConnection]] = []
"""The last belongs to this process; those of the processes it was forked from are kept."""


def _keep_engines_of_parent() -> None:
    """Never destroy the engine of the parent, not even at the exit of this process.

    Its threads are not in this process, and DuckDB ends a process that destroys an engine whose
    threads it cannot wait for.
    """
    for _, _, connection in _engines:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_engines_of_parent)


def engine_for(reach: Reach) -> duckdb.DuckDBPyConnection:
    """DuckDB without a file. Starting it takes ten times as long as attaching a store to it."""
    if _engines and _engines[-1][0] == os.getpid() and _engines[-1][1] != reach:
        stop_engine()
    if not _engines or _engines[-1][0] != os.getpid():
        _engines.append((os.getpid(), reach, _start(reach)))
    return _engines[-1][2]


def _start(reach: Reach) -> duckdb.DuckDBPyConnection:
    """An engine that can open the files of one store, and files in one folder, if it is given."""
    path, folder = reach
    connection = _connect()
    allowed = [f"{name}{suffix}" for name in (path, f"{path}.new") for suffix in DATABASE_FILES]
    connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, allowed))}]")
    if folder is not None:
        connection.execute(f"SET allowed_directories = [{quoted(folder)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _connect() -> duckdb.DuckDBPyConnection:
    limit = memory_limit()
    try:
        return duckdb.connect(":memory:", config={**CONFIG, "memory_limit": limit})
    except (duckdb.ParserException, duckdb.InvalidInputException) as error:
        raise UserError(
            f"ACDC_EXPLAIN_STORE_MEMORY is {limit!r}; give a size like {MEMORY}."
        ) from error


def stop_engine() -> None:
    """Close the engine of this process: after an error it may be unusable."""
    if _engines and _engines[-1][0] == os.getpid():
        _engines.pop()[2].close()


atexit.register(stop_engine)


@cache
def has_extension(name: str) -> bool:
    """Whether an extension is installed; an engine that opens a store cannot see that."""
    with closing(_connect()) as connection:
        row = connection.execute(
            "SELECT installed OR loaded FROM duckdb_extensions() WHERE extension_name = ?", [name]
        ).fetchone()
    return bool(row and row[0])


@contextmanager
def memory(extension: str | None = None) -> Iterator[Connection]:
    """An empty database in memory, deleted at the end, that reaches no file."""
    connection = _connect()
    try:
        with interrupts():
            if extension is not None:
                connection.execute(f"LOAD {extension}")
            connection.execute("SET enable_external_access = false")
            yield connection
    finally:
        connection.close()


def quoted(text: str | Path) -> str:
    """A text as SQL; ATTACH takes no parameters before DuckDB 2."""
    return "'" + str(text).replace("'", "''") + "'"
