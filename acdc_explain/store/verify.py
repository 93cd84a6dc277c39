"""Is a store whole? Every content id derived anew, every reference followed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..records.circuit import Circuit
from ..records.task import Task
from .document.check import derived_id
from .duck.connection import Connection
from .tables import rows
from .tables.read import read_headers
from .tables.write import IDENTITY

CHUNK = 5000  # rows in memory at once


RECORDS: Mapping[str, Callable[[Any], Any]] = {
    "tasks": lambda row: Task.parse(json.loads(row[2])),
    "evidence": rows.to_evidence,
    "exchanges": rows.to_exchange,
    "labels": rows.to_label,
    "verdicts": rows.to_verdict,
    "motifs": rows.to_motif,
    "summaries": rows.to_summary,
}
"""The tables whose rows are records with a content id, and how a row is read."""

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
"""A column, and the table whose ids it names (or nothing)."""

LISTS = (("labels", "evidence_ids", "evidence"), ("labelings", "label_ids", "labels"),
         ("labelings", "exchange_ids", "exchanges"))  # fmt: skip
"""The same for columns that hold a JSON array of ids."""


def problems(connection: Connection, circuit: Callable[[str], Circuit]) -> Iterator[str]:
    """What is wrong with a store, a sentence each. `circuit` reads one by its id."""
    for table, read in RECORDS.items():
        yield from _ids(connection, table, read)
    for (circuit_id,) in connection.execute("SELECT id FROM circuits ORDER BY id").fetchall():
        yield from _circuit(connection, circuit_id, circuit)
    yield from _runs(connection)
    for table, (identity, number) in IDENTITY.items():
        yield from _rows(connection, table, identity, number)
    for table, column, target in REFERENCES:
        yield from _dangling(connection, table, column, f"SELECT {column} FROM {table}", target)
    for table, column, target in LISTS:
        listed = f"SELECT unnest(from_json({column}, '[\"VARCHAR\"]')) AS {column} FROM {table}"
        yield from _dangling(connection, table, column, listed, target)


def _ids(connection: Connection, table: str, read: Callable[[Any], Any]) -> Iterator[str]:
    found = connection.execute(f"SELECT * FROM {table} ORDER BY id")
    while chunk := found.fetchmany(CHUNK):
        for row in chunk:
            yield from _record(table, row[0], partial(_id_of, read, row))


def _id_of(read: Callable[[Any], Any], row: Any) -> str:
    identity: str = read(row).id
    return identity


def _record(table: str, identity: str, derive: Callable[[], str]) -> Iterator[str]:
    try:
        derived = derive()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        yield f"{table} {identity} cannot be read ({type(error).__name__}: {error})"
        return
    if derived != identity:
        yield f"{table} {identity} holds something else: its content has the id {derived}"


def _circuit(
    connection: Connection, circuit_id: str, read: Callable[[str], Circuit]
) -> Iterator[str]:
    yield from _record("circuits", circuit_id, lambda: read(circuit_id).id)
    held = connection.execute(
        "SELECT count(*) FROM (SELECT src AS node FROM edges WHERE circuit_id = $id UNION "
        "SELECT dst FROM edges WHERE circuit_id = $id) AS touched ANTI JOIN "
        "(SELECT node FROM nodes WHERE circuit_id = $id) AS listed "
        "ON split_part(listed.node, '@', 1) = touched.node",
        {"id": circuit_id},
    ).fetchone()
    if held[0]:
        yield f"circuits {circuit_id} lacks {held[0]} nodes that its edges touch"


def _rows(connection: Connection, table: str, identity: str, number: str | None) -> Iterator[str]:
    """These tables have no key that would keep rows apart, and are read by the number alone."""
    twice = connection.execute(
        f"SELECT count(*), min({identity}) FROM (SELECT {identity} FROM {table} "
        f"GROUP BY {', '.join([identity, *([number] if number else [])])} HAVING count(*) > 1)"
    ).fetchone()
    if twice[0]:
        yield f"{table} has {twice[0]} rows more than once, like {twice[1]}"
    if number is None:
        return
    lost = connection.execute(f"SELECT count(*) FROM {table} WHERE {number} IS NULL").fetchone()
    if lost[0]:
        yield f"{table} has {lost[0]} rows that belong to no {number}"


def _runs(connection: Connection) -> Iterator[str]:
    for header in read_headers(connection, "ORDER BY id"):
        yield from _record("runs", header.id, partial(derived_id, header))


def _dangling(
    connection: Connection, table: str, column: str, listed: str, target: str
) -> Iterator[str]:
    row = connection.execute(
        f"SELECT count(*), min(named.{column}) FROM ({listed}) AS named ANTI JOIN {target} "
        f"ON {target}.id = named.{column} WHERE named.{column} IS NOT NULL"
    ).fetchone()
    if row[0]:
        yield f"{table} names {row[0]} {target} that are not there, like {row[1]}"
