"""Records on their way to the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

WAIT_SECONDS = 0.5

R = TypeVar("R")


class WriteBuffer(Generic[R]):
    """Writes slow records one by one, and fast ones in groups.

    Opening the store takes tens of milliseconds, so records that come faster wait for each other,
    at most half a second. The end of the `with` block writes the rest, after an error or Ctrl-C,
    too. What `write` returns is dropped.
    """

    def __init__(self, write: Callable[[list[R]], object]) -> None:
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
