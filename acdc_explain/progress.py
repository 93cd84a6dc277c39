"""How long work tells whoever waits for it where it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` steps of a stage are finished; `note` is the number people watch."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """The progress of programs that nobody watches."""
