"""Verifying a store: every content id is derived again, and every reference followed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..records.task import Task
from .document.check import derived_id
from .duck.connection import Connection
from .tables import codec
from .tables.codec import Codec
from .tables.read import read_circuit, read_headers
from .tables.rows import IDENTITY, columns_of, record_of

CHUNK = 5000  # rows in memory at once
READ_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError)

CODECS: tuple[Codec[Any], ...] = (
    codec.EVIDENCE,
    codec.EXCHANGE,
    codec.LABEL,
    codec.VERDICT,
    codec.MOTIF,
    codec.SUMMARY,
)
"""The records with a content id whose tables have a row for each."""

REFERENCES = (
    ("nodes", "circuit_id", "circuits"),
    ("edges", "circuit_id", "circuits"),
    ("evidence", "circuit_id", "circuits"),
    ("labels", "circuit_id", "circuits"),
    ("labels", "exchange_id", "exchanges"),
    ("verdicts", "label_id", "labels"),
    ("judgings", "verdict_id", "verdicts"),
    ("motifs", "run_id", "runs"),
    ("motifs", "circuit_id", "circuits"),
    ("summaries", "run_id", "runs"),
    ("summaries", "exchange_id", "exchanges"),
    ("failures", "run_id", "runs"),
    ("runs", "circuit_id", "circuits"),
    *(
        (f"run_{things}", "run_id", "runs")
        for things in ("evidence", "labels", "verdicts", "exchanges")
    ),
    ("run_evidence", "evidence_id", "evidence"),
    ("run_labels", "label_id", "labels"),
    ("run_verdicts", "verdict_id", "verdicts"),
    ("run_exchanges", "exchange_id", "exchanges"),
)
"""A column of a table, and the table whose ids are its values, where it has one."""

LISTS = (
    ("labels", "evidence_ids", "evidence"),
    ("labelings", "label_ids", "labels"),
    ("labelings", "exchange_ids", "exchanges"),
)
"""The same for columns that hold a JSON array of ids."""


def problems(connection: Connection) -> Iterator[str]:
    """What is wrong with a store, a sentence each."""
    yield from _wrong_ids(connection, "tasks", "body", _task_id)
    for kind in CODECS:
        yield from _wrong_ids(connection, kind.table, columns_of(kind), partial(_id_of, kind))
    for (circuit_id,) in connection.execute("SELECT id FROM circuits ORDER BY id").fetchall():
        yield from _wrong_circuit(connection, circuit_id)
    for header in read_headers(connection, "ORDER BY id"):
        yield from _wrong_id("runs", header.id, partial(derived_id, header))
    for table, (identity, number) in IDENTITY.items():
        yield from _wrong_rows(connection, table, identity, number)
    for table, column, target in REFERENCES:
        yield from _missing(connection, table, column, f"SELECT {column} FROM {table}", target)
    for table, column, target in LISTS:
        listed = f"SELECT unnest(from_json({column}, '[\"VARCHAR\"]')) AS {column} FROM {table}"
        yield from _missing(connection, table, column, listed, target)


def _wrong_ids(
    connection: Connection, table: str, columns: str, derive: Callable[[Any], str]
) -> Iterator[str]:
    """Records of a table whose content has another id, which `derive` computes from a row."""
    rows = connection.execute(f"SELECT id, {columns} FROM {table} ORDER BY id")
    while chunk := rows.fetchmany(CHUNK):
        for identity, *row in chunk:
            yield from _wrong_id(table, identity, partial(derive, row))


def _task_id(row: Any) -> str:
    return Task.parse(json.loads(row[0])).id


def _id_of(kind: Codec[Any], row: Any) -> str:
    identity: str = record_of(kind, row).id
    return identity


def _wrong_id(table: str, identity: str, derive: Callable[[], str]) -> Iterator[str]:
    try:
        derived = derive()
    except READ_ERRORS as error:
        yield f"{table} {identity} cannot be read ({type(error).__name__}: {error})"
        return
    if derived != identity:
        yield f"{table} {identity} holds something else: its content has the id {derived}"


def _wrong_circuit(connection: Connection, circuit_id: str) -> Iterator[str]:
    yield from _wrong_id("circuits", circuit_id, lambda: read_circuit(connection, circuit_id).id)
    (n_missing,) = connection.execute(
        "SELECT count(*) FROM (SELECT src AS node FROM edges WHERE circuit_id = $id UNION "
        "SELECT dst FROM edges WHERE circuit_id = $id) AS touched ANTI JOIN "
        "(SELECT node FROM nodes WHERE circuit_id = $id) AS listed "
        "ON split_part(listed.node, '@', 1) = touched.node",
        {"id": circuit_id},
    ).fetchone()
    if n_missing:
        yield f"circuits {circuit_id} lacks {n_missing} nodes that its edges touch"


def _wrong_rows(
    connection: Connection, table: str, identity: str, number: str | None
) -> Iterator[str]:
    """These tables have no key that would keep rows apart, and are read by the number alone."""
    key = ", ".join([identity, *([number] if number else [])])
    n_twice, example = connection.execute(
        f"SELECT count(*), min({identity}) FROM (SELECT {identity} FROM {table} "
        f"GROUP BY {key} HAVING count(*) > 1)"
    ).fetchone()
    if n_twice:
        yield f"{table} has {n_twice} rows more than once, like {example}"
    if number is None:
        return
    (n_without,) = connection.execute(
        f"SELECT count(*) FROM {table} WHERE {number} IS NULL"
    ).fetchone()
    if n_without:
        yield f"{table} has {n_without} rows that belong to no {number}"


def _missing(
    connection: Connection, table: str, column: str, listed: str, target: str
) -> Iterator[str]:
    """Ids in a column, which the query `listed` gives, that are not in the target table."""
    n_missing, example = connection.execute(
        f"SELECT count(*), min(named.{column}) FROM ({listed}) AS named ANTI JOIN {target} "
        f"ON {target}.id = named.{column} WHERE named.{column} IS NOT NULL"
    ).fetchone()
    if n_missing:
        yield f"{table} names {n_missing} {target} that are not there, like {example}"
