"""DuckDB and the files it may open: one engine, one turn at a time, nothing else within reach."""

from __future__ import annotations

import atexit
import os
import random
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from ...errors import UserError
from .connection import Connection

DatabaseError, NotThere = duckdb.Error, duckdb.CatalogException  # as other files know them
LOCK_SECONDS = 60.0  # more than a search may take, or a writer would give up during one
SEARCH_SECONDS = 20.0
MEMORY = "2GB"
CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",  # nothing is written beside the store
}
BESIDE = ("", ".wal", ".wal.checkpoint", ".wal.recovery")  # the files of a database


def _limit(name: str, default: str) -> str:
    """A limit that the environment may set."""
    return os.environ.get(f"ACDC_EXPLAIN_{name}") or default


def search_seconds() -> float:
    """Raises UserError."""
    text = _limit("SEARCH_SECONDS", str(SEARCH_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise UserError(f"ACDC_EXPLAIN_SEARCH_SECONDS is {text!r}; give seconds, more than 0.")
    return seconds


# --- one turn at a time ------------------------------------------------------------------------

_turn = threading.RLock()  # one thread of a process at a time: there is one engine


def _before_fork() -> None:
    """No other thread is within DuckDB when the process is copied."""
    _turn.acquire()


def _after_fork_in_parent() -> None:
    _turn.release()


def _after_fork_in_child() -> None:
    """Threads that waited for their turn are not in this process."""
    global _turn
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )

# --- the engine --------------------------------------------------------------------------------

_Reach = tuple[str, str | None]  # a store's path, and a folder for files besides

_engines: list[tuple[int, _Reach, duckdb.DuckDBPyConnection]] = []
"""The last is this process' own; those of processes forked from are kept."""


def _engine(reach: _Reach) -> duckdb.DuckDBPyConnection:
    """DuckDB without a file. Starting it takes ten times as long as attaching a store to it."""
    if _engines and _engines[-1][0] == os.getpid() and _engines[-1][1] != reach:
        stop_engine()
    if not _engines or _engines[-1][0] != os.getpid():
        _engines.append((os.getpid(), reach, _started(reach)))
    return _engines[-1][2]


def _started(reach: _Reach) -> duckdb.DuckDBPyConnection:
    """An engine that opens the files of one store, and no other file in the world."""
    path, folder = reach
    connection = _connect()
    allowed = [f"{name}{suffix}" for name in (path, f"{path}.new") for suffix in BESIDE]
    connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, allowed))}]")
    if folder is not None:
        connection.execute(f"SET allowed_directories = [{quoted(folder)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _connect() -> duckdb.DuckDBPyConnection:
    limit = _limit("STORE_MEMORY", MEMORY)
    try:
        return duckdb.connect(":memory:", config={**CONFIG, "memory_limit": limit})
    except (duckdb.ParserException, duckdb.InvalidInputException) as error:
        raise UserError(
            f"ACDC_EXPLAIN_STORE_MEMORY is {limit!r}; give a size like {MEMORY}."
        ) from error


def stop_engine() -> None:
    """After an error it may be of no more use."""
    if _engines and _engines[-1][0] == os.getpid():
        _engines.pop()[2].close()


atexit.register(stop_engine)


@cache
def has_extension(name: str) -> bool:
    """Whether it is installed: an engine that opens a store cannot see."""
    with closing(_connect()) as connection:
        row = connection.execute(
            "SELECT installed OR loaded FROM duckdb_extensions() WHERE extension_name = ?", [name]
        ).fetchone()
    return bool(row and row[0])


@contextmanager
def memory(extension: str | None = None) -> Iterator[Connection]:
    """An empty database that is gone at the end, and reaches no file."""
    connection = _connect()
    try:
        with interrupts():
            if extension is not None:
                connection.execute(f"LOAD {extension}")
            connection.execute("SET enable_external_access = false")
            yield connection
    finally:
        connection.close()


# --- interrupts and limits ---------------------------------------------------------------------


def pass_on_interrupt(error: Exception) -> None:
    """DuckDB turns Ctrl-C during a query into an error of its own."""
    if isinstance(error, duckdb.InterruptException) or "Query interrupted" in str(error):
        raise KeyboardInterrupt from error


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C is Ctrl-C, whatever DuckDB makes of it."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        pass_on_interrupt(error)
        raise


@contextmanager
def search_limits(connection: Connection, narrow: str) -> Iterator[None]:
    """Stop what takes too long or too much memory. `narrow`: what makes the question smaller.

    Raises UserError.
    """
    seconds, over = search_seconds(), threading.Event()
    try:
        with _watched(connection, seconds, over):
            yield
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"The search needs more than {_limit('STORE_MEMORY', MEMORY)} of memory and was "
            f"stopped; {narrow} (ACDC_EXPLAIN_STORE_MEMORY sets another limit)."
        ) from error
    except (duckdb.Error, RuntimeError) as error:
        if not over.is_set():
            raise
        raise UserError(
            f"The search took longer than {seconds:g} s and was stopped; {narrow} "
            "(ACDC_EXPLAIN_SEARCH_SECONDS sets another limit)."
        ) from error


@contextmanager
def _watched(connection: Connection, seconds: float, over: threading.Event) -> Iterator[None]:
    """Interrupt the connection when time is over, which `over` says, or on Ctrl-C.

    DuckDB looks for Ctrl-C now and then only, and in a large join not at all.
    """
    here, there = socket.socketpair()
    for end in (here, there):
        end.setblocking(False)
    under_way = threading.Lock()
    ended = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not ended.is_set():
            wait = max(0.0, deadline - time.monotonic())
            told = here.recv(100) if select.select([here], [], [], wait)[0] else b""
            with under_way:
                if not ended.is_set() and (not told or signal.SIGINT in told):
                    if not told:
                        over.set()
                    connection.interrupt()  # and no query after the last of these
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    except ValueError:  # signals go to the main thread
        before = None
    watcher.start()
    try:
        yield
    finally:
        with under_way:
            ended.set()
        if before is not None:
            signal.set_wakeup_fd(before)
        there.send(b"\0")
        watcher.join()
        here.close()
        there.close()


# --- the file ----------------------------------------------------------------------------------


@contextmanager
def attached(
    path: Path, *, read_only: bool = False, folder: Path | None = None
) -> Iterator[Connection]:
    """A connection to a file, as database `store`, until the end.

    Until then no other process can open it, or with `read_only` none that writes. Files in
    `folder` may be written as well. Raises UserError.
    """
    with _turn:
        process = os.getpid()
        connection = _attach(path, read_only, folder)
        try:
            with interrupts():
                yield connection
        finally:
            if os.getpid() == process:  # a process forked from this one has no part in it
                detach(connection)


def _attach(path: Path, read_only: bool, folder: Path | None) -> Connection:
    deadline = time.monotonic() + LOCK_SECONDS
    real = os.path.realpath(path)  # where a link leads: there its log is, too
    how = "READ_ONLY" if read_only else "READ_WRITE"
    reach = (real, None if folder is None else os.path.realpath(folder))
    while True:
        engine = _engine(reach)
        try:
            with _not_while_replaced(path):
                engine.execute(f"ATTACH {quoted(real)} AS store ({how})")
            return engine
        except duckdb.IOException as error:
            if "lock on file" not in str(error):
                raise UserError(f"{path} cannot be opened: {first_line(error)}") from error
            if time.monotonic() > deadline:
                raise UserError(
                    f"{path} is in use by {_holder(error)}, still after "
                    f"{LOCK_SECONDS:.0f} s; wait for it, stop it, or use another `store=`."
                ) from error
            time.sleep(random.uniform(0.005, 0.05))  # or two that wait always meet again
        except (duckdb.Error, RuntimeError) as error:
            stop_engine()
            pass_on_interrupt(error)
            raise UserError(
                f"{path} is no DuckDB store ({first_line(error)}); give another `store=`."
            ) from error
        except BaseException:  # Ctrl-C: the file may be attached or not
            stop_engine()
            raise


def detach(connection: Connection) -> None:
    """Close the file, whatever happened: with the engine, if there is no other way."""
    try:
        with suppress(duckdb.TransactionException):
            connection.execute("ROLLBACK")  # of what an error left undone
        connection.execute("USE memory")
        connection.execute("DETACH store")
    except (duckdb.Error, RuntimeError) as error:
        stop_engine()
        pass_on_interrupt(error)
    except BaseException:
        stop_engine()
        raise


# --- replacing the file ------------------------------------------------------------------------


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


def _not_while_replaced(path: Path) -> Any:
    """To open a file and to lock it are two steps: between them it must stay the same file."""
    return _flock(path, exclusive=False)


def replaced(path: Path) -> Any:
    """While a file is replaced by another of its name, no process is about to open it."""
    return _flock(path, exclusive=True)


# --- texts -------------------------------------------------------------------------------------


def _holder(error: duckdb.Error) -> str:
    """Who holds the lock, as far as DuckDB says."""
    found = re.search(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)", str(error))
    if found is None:
        return "another process"
    return f"process {found['pid']} ({Path(found['program']).name})"


def quoted(text: str | Path) -> str:
    """As SQL; ATTACH takes no parameters before DuckDB 2."""
    return "'" + str(text).replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
