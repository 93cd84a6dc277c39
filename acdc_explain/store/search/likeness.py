"""Searches for components that behave as another one does: the nearest fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...records.circuit import Node
from ..duck.connection import Connection
from ..tables.keys import node_key, node_of
from ..tables.read import find_run
from ..tables.rows import number_of
from .compile import Query
from .matches import COLUMNS, HAS_WORD, Filters, Match, label_match, with_clause

KEY = 4  # the place of the node's key in a row of `like_query`


def search_like(
    connection: Connection, path: Path, like: str, filters: Filters, limit: int
) -> list[Match]:
    """Components that behave as RUN:NODE does, those of other models first. Raises UserError."""
    run, node = component(like)
    header = find_run(connection, path, run)
    key = node_key(number_of(connection, "circuits", header.circuit_id), node)
    row = connection.execute("SELECT vector FROM fingerprints WHERE key = ?", [key]).fetchone()
    if row is None or row[0] is None:
        raise UserError(
            f"Nothing was measured of {node} in run {header.id} that tells it from others; "
            "`acdc-explain show` lists its components."
        )
    roles = connection.execute("SELECT role FROM standings WHERE key = ?", [key]).fetchall()
    rows: list[tuple[Any, ...]] = []
    for same_model in (False, True):
        query = partial(like_query, row[0], node, header.model_id, same_model, filters)
        rows += nearest(connection, query, {role for (role,) in roles}, limit - len(rows))
    return [label_match(row) for row in rows]


def component(name: str) -> tuple[str, Node]:
    """The run and the node of RUN:NODE. Raises UserError."""
    run, colon, node = name.partition(":")
    if not colon:
        raise UserError(f"`like=` takes RUN:NODE, like last:a1.h3; {name[:80]!r} has no colon.")
    try:
        return run, Node.parse(node)
    except ValueError as error:
        raise UserError(f"`like=`: {str(error)[:200]}.") from None


def nearest(
    connection: Connection,
    query: Callable[[int], tuple[str, Mapping[str, Any]]],
    roles: Collection[str],
    limit: int,
) -> list[tuple[Any, ...]]:
    """The `limit` nearest components, a row each.

    A component may be in many circuits, so the number of fingerprints that `query` looks at grows
    until there are enough different components, or no more fingerprints.
    """
    n_fingerprints = 2 * limit + 50
    while limit > 0:
        rows = connection.execute(*query(n_fingerprints)).fetchall()
        components = one_row_each(rows, roles, limit)
        if len(components) == limit or len({row[KEY] for row in rows}) < n_fingerprints:
            return components
        n_fingerprints *= 4
    return []


def like_query(
    vector: Sequence[float],
    node: Node,
    model_id: str,
    same_model: bool,
    filters: Filters,
    limit: int,
) -> tuple[str, Mapping[str, Any]]:
    """Components of a node's kind with the nearest fingerprints, of the same or all other models.

    A row for every label of each component: the model's id, `COLUMNS`, and the cosine.
    """
    query = Query()
    conditions = ["vector IS NOT NULL", f"kind = {query.value(node.kind)}"]
    name = query.value(model_id)
    conditions += (
        [f"model_id = {name}", f"node <> {query.value(str(node))}"]
        if same_model
        else [f"model_id <> {name}"]
    )
    filters.on_run(query)
    filters.on_standing(query)
    query.conditions += [HAS_WORD.format("s", query.value(word)) for word in filters.words]
    joined = "standings AS s JOIN runs AS r ON r.number = s.run"
    if filters != Filters():
        conditions.append(f"key IN (SELECT s.key FROM {joined} WHERE {query.where()})")
    center = query.value(list(vector))
    query.tables.append(  # the inner product of vectors of length 1 is the cosine
        f"near AS MATERIALIZED (SELECT key, model_id, array_inner_product(vector, "
        f"{center}::FLOAT[{len(vector)}]) AS score FROM fingerprints "
        f"WHERE {' AND '.join(conditions)} ORDER BY score DESC, key LIMIT {int(limit)})"
    )
    sql = f"""{with_clause(query)} SELECT near.model_id, {COLUMNS}, near.score
        FROM {joined} JOIN near ON near.key = s.key WHERE {query.where()}
        ORDER BY near.score DESC, near.key, s.run DESC"""
    return sql, query.values


def one_row_each(
    rows: Sequence[tuple[Any, ...]], roles: Collection[str], limit: int
) -> list[tuple[Any, ...]]:
    """A row for each component of each model, in the order of its nearest fingerprint.

    Of its labels in all runs, the row has one of `roles` if there is one, and a supported label
    before others. `rows` are those of `like_query`; the results begin with the run's id.
    """
    labels: dict[tuple[str, Node], list[tuple[Any, ...]]] = {}
    for row in rows:
        labels.setdefault((row[0], node_of(row[KEY])), []).append(row[1:])

    def preference(row: tuple[Any, ...]) -> tuple[bool, bool, float]:
        _, _, _, _, role, outcome, confidence, *_ = row
        return role in roles, outcome == "supported", confidence or 0.0

    components = []
    for candidates in labels.values():
        *_, nearest_score = candidates[0]
        *columns, _ = max(candidates, key=preference)
        components.append((*columns, nearest_score))
    return components[:limit]
