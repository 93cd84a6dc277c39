"""The file of a store, attached to the engine by one thread and one process at a time."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from ...errors import UserError, first_line
from .connection import Connection
from .engine import engine_for, quoted, stop_engine
from .limits import interrupts, pass_on_interrupt

LOCK_SECONDS = 60.0  # longer than a search may take: a writer waits until it ends

# --- one thread at a time ----------------------------------------------------------------------

_lock = threading.RLock()  # there is one engine in a process


def _before_fork() -> None:
    """No other thread is within DuckDB when the process is copied."""
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()


def _after_fork_in_child() -> None:
    """Threads that waited for the lock are not in this process."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )

# --- attaching the file ------------------------------------------------------------------------


@contextmanager
def attached(
    path: Path, *, read_only: bool = False, folder: Path | None = None
) -> Iterator[Connection]:
    """A connection with the file attached as database `store`.

    Until the end no other process can open the file, or with `read_only` none that writes.

    Args:
        path: The file.
        read_only: Whether other processes may read meanwhile, and nothing is written.
        folder: A folder in which other files may be written.

    Raises:
        UserError: The file cannot be opened, stays locked, or is no DuckDB file.
    """
    with _lock:
        process = os.getpid()
        connection = _attach(path, read_only, folder)
        try:
            with interrupts():
                yield connection
        finally:
            if os.getpid() == process:  # a process forked from this one must not detach it
                detach(connection)


def _attach(path: Path, read_only: bool, folder: Path | None) -> Connection:
    deadline = time.monotonic() + LOCK_SECONDS
    real = os.path.realpath(path)  # where a link leads: there its log is, too
    mode = "READ_ONLY" if read_only else "READ_WRITE"
    reach = (real, None if folder is None else os.path.realpath(folder))
    while True:
        engine = engine_for(reach)
        try:
            with _not_while_replaced(path):
                engine.execute(f"ATTACH {quoted(real)} AS store ({mode})")
            return engine
        except duckdb.IOException as error:
            if "lock on file" not in str(error):
                raise UserError(f"{path} cannot be opened: {first_line(error)}") from error
            if time.monotonic() > deadline:
                raise UserError(
                    f"{path} is in use by {_lock_holder(error)}, still after "
                    f"{LOCK_SECONDS:.0f} s; wait for it, stop it, or use another `store=`."
                ) from error
            time.sleep(random.uniform(0.005, 0.05))  # random, so that two that wait do not collide
        except (duckdb.Error, RuntimeError) as error:
            stop_engine()
            pass_on_interrupt(error)
            raise UserError(
                f"{path} is no DuckDB store ({first_line(error)}); give another `store=`."
            ) from error
        except BaseException:  # Ctrl-C: the file may be attached or not
            stop_engine()
            raise


def _lock_holder(error: duckdb.Error) -> str:
    """The process that holds the lock, as far as DuckDB says."""
    match = re.search(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)", str(error))
    if match is None:
        return "another process"
    return f"process {match['pid']} ({Path(match['program']).name})"


def detach(connection: Connection) -> None:
    """Close the file after any error; stop the engine if that is the only way."""
    try:
        with suppress(duckdb.TransactionException):
            connection.execute("ROLLBACK")  # of a transaction that an error left open
        connection.execute("USE memory")
        connection.execute("DETACH store")
    except (duckdb.Error, RuntimeError) as error:
        stop_engine()
        pass_on_interrupt(error)
    except BaseException:
        stop_engine()
        raise


# --- replacing the file ------------------------------------------------------------------------


def replacing(path: Path) -> Any:
    """A context in which a file can be replaced: no process is about to open it."""
    return _flock(path, exclusive=True)


def _not_while_replaced(path: Path) -> Any:
    """DuckDB opens a file first and locks it then: in between it must stay the same file."""
    return _flock(path, exclusive=False)


@contextmanager
def _flock(path: Path, exclusive: bool) -> Iterator[None]:
    """A lock on the folder of a store, where the system has such locks."""
    try:
        import fcntl

        folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)
