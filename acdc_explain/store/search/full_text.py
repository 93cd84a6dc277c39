"""Full-text search by DuckDB's extension `fts`, where it is installed; never downloaded."""

from __future__ import annotations

from collections.abc import Sequence

from ..duck.connection import Connection
from ..duck.engine import has_extension
from ..tables.write import append

MOST = 100_000  # labels: the extension's index does not follow new rows, each search builds one


def usable(connection: Connection, words: Sequence[str]) -> bool:
    """Whether the extension is there and sees these words, and the labels are not too many."""
    if not has_extension("fts") or not all(w.isalpha() and w.isascii() for w in words):
        return False
    count = connection.execute("SELECT count(*) FROM standings WHERE role IS NOT NULL").fetchone()
    return bool(count[0] <= MOST)


def texts(connection: Connection) -> list[tuple[int, str]]:
    """What is searched, by the rowid of the standing."""
    found: list[tuple[int, str]] = connection.execute(
        "SELECT rowid, replace(role, '_', ' ') || ' ' || description FROM standings "
        "WHERE role IS NOT NULL"
    ).fetchall()
    return found


def rank(
    empty: Connection, texts: Sequence[tuple[int, str]], words: Sequence[str]
) -> list[tuple[int, float]]:
    """The texts with all words, or others of the same stem, with their BM25 scores.

    `empty`: a database with the extension, for the index, thrown away afterwards.
    """
    empty.execute("CREATE TABLE texts (id BIGINT, words TEXT)")
    append(empty, "texts", texts)
    empty.execute("PRAGMA create_fts_index('texts', 'id', 'words')")
    found: list[tuple[int, float]] = empty.execute(
        "SELECT * FROM (SELECT id, fts_main_texts.match_bm25(id, ?, conjunctive := 1) AS score "
        "FROM texts) WHERE score IS NOT NULL",
        [" ".join(words)],
    ).fetchall()
    return found
