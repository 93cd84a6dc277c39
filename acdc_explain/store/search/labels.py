"""Searches for labeled components, by the words of their roles and descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..duck.connection import Connection
from ..duck.engine import memory
from . import full_text
from .compile import Query
from .matches import COLUMNS, HAS_WORD, Filters, Matches, label_match, limit_clause, with_clause

K1, B = 1.2, 0.75  # of BM25, as Lucene and DuckDB's fts have them


def search_labels(connection: Connection, filters: Filters, limit: int | None) -> Matches:
    """Labeled components; the total counts those beyond the limit, too."""
    ranked = None
    if filters.words and full_text.usable(connection, filters.words):
        with memory("fts") as empty:
            ranked = full_text.rank(empty, full_text.texts(connection), filters.words)
    rows = connection.execute(*labels_query(filters, limit, ranked)).fetchall()
    return Matches(map(label_match, rows), rows[0][-1] if rows else 0)


def labels_query(
    filters: Filters, limit: int | None, ranked: Sequence[tuple[int, float]] | None = None
) -> tuple[str, Mapping[str, Any]]:
    """Labeled components: the best fit to the text first, without a text those of the newest run.

    `ranked`: rowids of standings with their scores, where the text was already searched for.
    """
    query = Query(conditions=["s.role IS NOT NULL"])
    filters.on_run(query)
    filters.on_standing(query)
    score, joined = "ranked.score", "JOIN ranked ON ranked.id = s.rowid"
    if ranked is None:
        score, joined = _score(filters.words, query), ""
    else:
        ids = query.value([rowid for rowid, _ in ranked])
        scores = query.value([score for _, score in ranked])
        query.tables.append(
            f"ranked AS (SELECT unnest({ids}::BIGINT[]) AS id, unnest({scores}::DOUBLE[]) AS score)"
        )
    sql = f"""{with_clause(query)} SELECT {COLUMNS}, {score} AS score, count(*) OVER () AS total
        FROM standings AS s JOIN runs AS r ON r.number = s.run {joined} WHERE {query.where()}
        ORDER BY score DESC NULLS LAST, r.created_at DESC, r.number DESC, s.confidence DESC,
            s.key, s.role
        {limit_clause(limit)}"""
    return sql, query.values


def _score(words: Sequence[str], query: Query) -> str:
    """The BM25 score of a row of standings, table `s`; the query gets the condition on every word.

    A word counts within others, too (`copy` in `copying`).
    """
    if not words:
        return "NULL"
    names = [query.value(word) for word in words]
    counts = ", ".join(
        f"count_if({HAS_WORD.format('standings', name)}) AS n{i}" for i, name in enumerate(names)
    )
    query.tables.append(
        f"counts AS MATERIALIZED (SELECT count(*) AS n, avg(length(role) + 1 + length(description))"
        f" AS mean, {counts} FROM standings WHERE role IS NOT NULL)"
    )
    query.conditions += [HAS_WORD.format("s", name) for name in names]
    text = "lower(s.role || ' ' || s.description)"
    terms = []
    for i, name in enumerate(names):
        times = f"(length({text}) - length(replace({text}, {name}, ''))) / length({name})"
        rare = f"(SELECT ln(1 + (n - n{i} + 0.5) / (n{i} + 0.5)) FROM counts)"
        norm = f"{K1} * (1 - {B} + {B} * length({text}) / (SELECT mean FROM counts))"
        terms.append(f"{rare} * {times} * {K1 + 1} / ({times} + {norm})")
    return " + ".join(terms)
