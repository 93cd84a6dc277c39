"""The table `pages`: checkpoints of searches, and leases of questions to an LLM."""

from __future__ import annotations

import json
from typing import Any

from ...ids import canonical_json
from ...llm.exchange import Exchange
from ...llm.lease import Holder
from ..duck.connection import Connection
from .read import find_replies

LEASES = "asking"  # the book with the leases


def read_page(connection: Connection, book: str, page: str) -> Any:
    """The content of a page; None if there is no such page."""
    row = connection.execute(
        "SELECT content FROM pages WHERE book = ? AND page = ?", [book, page]
    ).fetchone()
    return json.loads(row[0]) if row else None


def write_page(connection: Connection, book: str, page: str, content: Any) -> None:
    """Write a page, or replace it."""
    connection.execute(
        "INSERT INTO pages VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET content = excluded.content",
        [book, page, canonical_json(content)],
    )


def lease(
    connection: Connection, request_id: str, holder: Holder, seconds: float
) -> list[Exchange] | None:
    """Keep other commands from sending a request, until `release` or `seconds` are over.

    Returns the replies stored by now; None if another command holds the lease.
    """
    if holder.is_blocked_by(read_page(connection, LEASES, request_id)):
        return None
    write_page(connection, LEASES, request_id, holder.lease(seconds))
    return find_replies(connection, request_id)


def release(connection: Connection, request_id: str, holder: Holder) -> None:
    """End the lease of a request, if it is this holder's."""
    connection.execute(
        "DELETE FROM pages WHERE book = ? AND page = ? AND contains(content, ?)",
        [LEASES, request_id, holder.token],
    )
