"""What the store needs of a connection to DuckDB."""

from __future__ import annotations

from typing import Any, Protocol


class Connection(Protocol):
    """As much of a database connection as files other than the store need."""

    def execute(self, query: str, parameters: Any = ...) -> Any: ...

    def interrupt(self) -> None: ...
