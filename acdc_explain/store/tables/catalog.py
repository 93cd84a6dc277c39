"""Does a file have the tables of a store and nothing else? A view or macro could read files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..duck.connection import Connection
from ..duck.engine import NotThere
from .schema import MIGRATIONS

TABLES = frozenset({"meta", *re.findall(r"CREATE TABLE (\w+)", " ".join(MIGRATIONS))})
INDEXES = frozenset({"exchanges_by_request"})
CONSTANTS = frozenset({None, "NULL", "'{}'", "'[]'"})  # the defaults of columns
CONSTRAINTS = frozenset({"PRIMARY KEY", "NOT NULL"})

_OF_STORE = "WHERE database_name = 'store'"
QUERIES = (
    ("schema", f"SELECT schema_name FROM duckdb_schemas() {_OF_STORE} AND NOT internal "
               "AND schema_name <> 'main'"),
    ("view", f"SELECT view_name FROM duckdb_views() {_OF_STORE} AND NOT internal"),
    ("macro", f"SELECT function_name FROM duckdb_functions() {_OF_STORE} AND NOT internal"),
    ("sequence", f"SELECT sequence_name FROM duckdb_sequences() {_OF_STORE}"),
    ("type", f"SELECT type_name FROM duckdb_types() {_OF_STORE} AND NOT internal"),
    ("trigger", f"SELECT trigger_name FROM duckdb_triggers() {_OF_STORE}"),
)  # fmt: skip
"""Kinds of objects that no store has, each with a query of their names."""


def foreign_objects(connection: Connection) -> Iterator[str]:
    """What the attached database has that no store has, like `a view 'x'`.

    Call it before any query on the tables, while another database is in use: functions of the
    database in use hide the built-in ones.
    """
    for kind, query in QUERIES:
        for (name,) in _rows(connection, query):
            yield f"a {kind} {name!r}"
    for (name,) in _rows(connection, f"SELECT table_name FROM duckdb_tables() {_OF_STORE}"):
        if name not in TABLES:
            yield f"a table {name!r}"
    for name, expressions in _rows(
        connection, f"SELECT index_name, expressions FROM duckdb_indexes() {_OF_STORE}"
    ):
        if name not in INDEXES or not re.fullmatch(r"[\w\[\]'\", ]*", str(expressions)):
            yield f"an index {name!r}"
    for table, kind in _rows(
        connection, f"SELECT table_name, constraint_type FROM duckdb_constraints() {_OF_STORE}"
    ):
        if kind not in CONSTRAINTS:
            yield f"a constraint on the table {table!r}"
    for table, column, value in _rows(
        connection,
        "SELECT table_name, column_name, column_default FROM duckdb_columns() "
        f"{_OF_STORE} AND NOT internal",
    ):
        if value not in CONSTANTS:
            yield f"a computed column '{table}.{column}'"


def _rows(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    with suppress(NotThere):  # triggers are new in DuckDB 2
        rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
        return rows
    return []
