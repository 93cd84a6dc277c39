"""Records on their way to the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

WAIT_SECONDS = 0.5

R = TypeVar("R")


class WriteBuffer(Generic[R]):
    """Writes what took long at once, and what comes quickly together.

    Opening the store costs tens of milliseconds, so records that cost less to make wait for each
    other, at most half a second. Leaving the block, by an error or Ctrl-C too, writes the rest.
    """

    def __init__(self, write: Callable[[list[R]], None]) -> None:
        self._write = write
        self._waiting: list[R] = []
        self._written = time.monotonic()

    def put(self, record: R) -> None:
        self._waiting.append(record)
        if time.monotonic() - self._written >= WAIT_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._write(self._waiting)
        self._waiting = []
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()
