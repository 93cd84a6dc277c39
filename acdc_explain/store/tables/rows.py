"""Rows of the tables: added by the names of their columns, none twice, and read as records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ...ids import canonical_json
from ..duck.connection import Connection
from .codec import NESTED, Codec

R = TypeVar("R")
Row = Mapping[str, Any]  # a value for each column

IDENTITY: Mapping[str, tuple[str, str | None]] = {
    "evidence": ("id", "circuit"),
    "labels": ("id", "circuit"),
    "labelings": ("id", "circuit"),
    "verdicts": ("id", "circuit"),
    "judgings": ("id", "circuit"),
    "motifs": ("id", "run"),
    "run_evidence": ("evidence_id", "run"),
    "run_labels": ("label_id", "run"),
    "run_verdicts": ("verdict_id", "run"),
    "run_exchanges": ("exchange_id", "run"),
    "exchanges": ("id", None),
}
"""The tables without a key: the column that tells their rows apart, and the column with the number
of the circuit or run within which it does."""


# --- records as rows ---------------------------------------------------------------------------


def row_of(codec: Codec[R], record: R, **columns: Any) -> dict[str, Any]:
    """A record as a row; `columns`: the columns that are not values of the record."""
    return row_of_values(codec.encode(record), **columns)


def row_of_values(values: Mapping[str, Any], **columns: Any) -> dict[str, Any]:
    """Named values as a row: what is nested becomes a JSON text."""
    texts = {
        name: canonical_json(value) if name in NESTED else value for name, value in values.items()
    }
    return {**texts, **columns}


def columns_of(codec: Codec[R], table: str | None = None) -> str:
    """The columns that `record_of` reads, for a SELECT. `table`: its alias, if it has one."""
    return ", ".join(f'{table or codec.table}."{name}"' for name in codec.names)


def record_of(codec: Codec[R], row: Sequence[Any]) -> R:
    """The record of a row of `columns_of`."""
    return codec.decode(values_of(codec, row))


def values_of(codec: Codec[R], row: Sequence[Any]) -> dict[str, Any]:
    """The named values of a row of `columns_of`."""
    return {
        name: json.loads(value) if name in NESTED else value
        for name, value in zip(codec.names, row, strict=True)
    }


def read_records(
    connection: Connection, codec: Codec[R], clause: str, parameters: Any = None
) -> list[R]:
    """The records of a table. `clause`: what follows the table's name in the query."""
    rows = connection.execute(
        f"SELECT {columns_of(codec)} FROM {codec.table} {clause}", parameters or []
    ).fetchall()
    return [record_of(codec, row) for row in rows]


# --- adding rows -------------------------------------------------------------------------------


def add_rows(connection: Connection, table: str, new: Iterable[Row]) -> None:
    """Add rows to a table of `IDENTITY`; not those that are stored under the same number."""
    identity, number = IDENTITY[table]
    rows = list({row[identity]: row for row in new}.values())
    if not rows:
        return
    same_number = "" if number is None else f"WHERE {number} = {int(rows[0][number])}"
    append(
        connection,
        table,
        rows,
        f"ANTI JOIN (SELECT {identity} FROM {table} {same_number}) AS stored USING ({identity})",
    )


def append(connection: Connection, table: str, rows: Sequence[Row], unless: str = "") -> None:
    """Add rows with one statement: column by column is many times as fast as row by row.

    `unless`: a join that leaves out some of the rows, which it calls `new`.
    """
    if not rows:
        return
    columns = connection.execute(f"SELECT * FROM {table} LIMIT 0").description
    names = ", ".join(f'"{column[0]}"' for column in columns)
    lists = ", ".join(f'unnest(?::{column[1]}[]) AS "{column[0]}"' for column in columns)
    connection.execute(
        f"INSERT INTO {table} SELECT {names} FROM (SELECT {lists}) AS new {unless}",
        [[row[column[0]] for row in rows] for column in columns],
    )


def add_keyed(
    connection: Connection, table: str, new: Iterable[Row], on_conflict: str = "NOTHING"
) -> None:
    """Add a few rows to a table with a primary key; columns that are not named stay empty."""
    for row in new:
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO {on_conflict}",
            list(row.values()),
        )


# --- numbers, and removing rows ----------------------------------------------------------------


def number_of(connection: Connection, table: str, identity: str | None) -> int:
    """The number of a circuit or run in this store. Raises KeyError."""
    row = connection.execute(f"SELECT number FROM {table} WHERE id = ?", [identity]).fetchone()
    if row is None:
        raise KeyError(identity)
    return int(row[0])


def next_number(connection: Connection, table: str) -> int:
    """The number for a new circuit or run."""
    row = connection.execute(f"SELECT coalesce(max(number), -1) + 1 FROM {table}").fetchone()
    return int(row[0])


def circuit_of(connection: Connection, run_id: str) -> int:
    """The number of a run's circuit. Raises KeyError."""
    row = connection.execute(
        "SELECT circuits.number FROM runs JOIN circuits ON circuits.id = runs.circuit_id "
        "WHERE runs.id = ?",
        [run_id],
    ).fetchone()
    if row is None:
        raise KeyError(run_id)
    return int(row[0])


def delete_rows(connection: Connection, table: str, condition: str, values: Any = None) -> int:
    """Delete rows and return how many there were."""
    return int(
        connection.execute(f"DELETE FROM {table} WHERE {condition}", values or []).fetchone()[0]
    )
