"""Limits of a search, and Ctrl-C during a query."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from ...errors import UserError
from .connection import Connection

SEARCH_SECONDS = 20.0
MEMORY = "2GB"


def memory_limit() -> str:
    """The memory that DuckDB may use, as it writes sizes."""
    return _limit("STORE_MEMORY", MEMORY)


def search_seconds() -> float:
    """How long a search may take. Raises UserError."""
    text = _limit("SEARCH_SECONDS", str(SEARCH_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise UserError(f"ACDC_EXPLAIN_SEARCH_SECONDS is {text!r}; give seconds, more than 0.")
    return seconds


def _limit(name: str, default: str) -> str:
    """A limit that the environment may set."""
    return os.environ.get(f"ACDC_EXPLAIN_{name}") or default


def pass_on_interrupt(error: Exception) -> None:
    """Raise KeyboardInterrupt where DuckDB turned Ctrl-C into an error of its own."""
    if isinstance(error, duckdb.InterruptException) or "Query interrupted" in str(error):
        raise KeyboardInterrupt from error


@contextmanager
def interrupts() -> Iterator[None]:
    """Ctrl-C during a query raises KeyboardInterrupt."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        pass_on_interrupt(error)
        raise


@contextmanager
def search_limits(connection: Connection, narrow: str) -> Iterator[None]:
    """Stop a search that takes too long or too much memory.

    Args:
        connection: What is interrupted.
        narrow: How the user can make the search smaller, for the error message.

    Raises:
        UserError: The search was stopped, or a limit in the environment is no limit.
    """
    seconds, over = search_seconds(), threading.Event()
    try:
        with _watched(connection, seconds, over):
            yield
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"The search needs more than {memory_limit()} of memory and was "
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
    """Interrupt the connection after so many seconds, and then set `over`, or on Ctrl-C.

    DuckDB itself looks for Ctrl-C only now and then, and in a large join not at all. Python writes
    the number of each signal to the socket.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    lock, ended = threading.Lock(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not ended.is_set():
            wait = max(0.0, deadline - time.monotonic())
            signals = reader.recv(100) if select.select([reader], [], [], wait)[0] else b""
            with lock:
                if not ended.is_set() and (not signals or signal.SIGINT in signals):
                    if not signals:
                        over.set()
                    connection.interrupt()  # and no query after the last of these
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    except ValueError:  # signals go to the main thread
        before = None
    watcher.start()
    try:
        yield
    finally:
        with lock:
            ended.set()
        if before is not None:
            signal.set_wakeup_fd(before)
        writer.send(b"\0")
        watcher.join()
        reader.close()
        writer.close()
