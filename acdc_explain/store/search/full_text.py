"""Full-text search by DuckDB's extension `fts`, where it is installed; never downloaded."""

from __future__ import annotations

from collections.abc import Sequence

from ..duck.connection import Connection
from ..duck.engine import has_extension
from ..tables.rows import append

MOST_LABELS = 100_000  # each search builds an index: the extension's does not follow new rows


def usable(connection: Connection, words: Sequence[str]) -> bool:
    """Whether the extension is installed and can search for these words in so many labels."""
    if not has_extension("fts") or not all(w.isalpha() and w.isascii() for w in words):
        return False
    count = connection.execute("SELECT count(*) FROM standings WHERE role IS NOT NULL").fetchone()
    return bool(count[0] <= MOST_LABELS)


def texts(connection: Connection) -> list[tuple[int, str]]:
    """The texts to search, each with the rowid of its standing."""
    rows: list[tuple[int, str]] = connection.execute(
        "SELECT rowid, replace(role, '_', ' ') || ' ' || description FROM standings "
        "WHERE role IS NOT NULL"
    ).fetchall()
    return rows


def rank(
    empty: Connection, texts: Sequence[tuple[int, str]], words: Sequence[str]
) -> list[tuple[int, float]]:
    """The ids of the texts with all words, or others of the same stem, with their BM25 scores.

    `empty`: an empty database with the extension, for the index.
    """
    empty.execute("CREATE TABLE texts (id BIGINT, words TEXT)")
    append(empty, "texts", [{"id": rowid, "words": text} for rowid, text in texts])
    empty.execute("PRAGMA create_fts_index('texts', 'id', 'words')")
    scores: list[tuple[int, float]] = empty.execute(
        "SELECT * FROM (SELECT id, fts_main_texts.match_bm25(id, ?, conjunctive := 1) AS score "
        "FROM texts) WHERE score IS NOT NULL",
        [" ".join(words)],
    ).fetchall()
    return scores
