"""Records out of the tables of an open store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...errors import UserError
from ...ids import canonical_json
from ...llm.exchange import Exchange
from ...records.circuit import Circuit, Faithfulness
from ...records.evidence import Evidence
from ...records.label import Label, LabelResult
from ...records.run.behavior import Behavior, parse_behavior
from ...records.run.header import RunHeader
from ...records.run.run import Run
from ...records.run.size import CircuitSize
from ...records.task import Task
from ...records.verdict import JudgeResult
from ..duck.connection import Connection
from . import codec
from .claims import read_claims
from .codec import Codec
from .keys import CIRCUIT_BITS, keys_of
from .origin import imported_ids
from .rows import IDENTITY, columns_of, number_of, read_records, record_of, values_of

R = TypeVar("R")
HEADER_COLUMNS = columns_of(codec.HEADER).replace(
    'runs."created_at"', "strftime(runs.created_at, '%Y-%m-%dT%H:%M:%SZ')"
)

# --- runs --------------------------------------------------------------------------------------


def find_run(connection: Connection, path: Path, run: str) -> RunHeader:
    """A run by id, name, unique prefix of an id, or `last`. Raises UserError."""
    if run == "last":
        headers = read_headers(connection, "ORDER BY created_at DESC, number DESC LIMIT 1")
    else:
        headers = read_headers(connection, "WHERE name = $name", {"name": run}) or read_headers(
            connection, "WHERE starts_with(id, $name) ORDER BY id", {"name": run}
        )
    if len(headers) == 1:
        return headers[0]
    if not headers and connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None:
        raise UserError(f"{path} holds no run yet; make one with `acdc-explain run ioi`.")
    if not headers:
        raise UserError(f"{path} holds no run {run[:80]!r}; see `acdc-explain runs`.")
    ids = ", ".join(header.id for header in headers[:5])
    raise UserError(f"{run!r} is the beginning of {len(headers)} runs ({ids}); write more of it.")


def read_headers(
    connection: Connection, clause: str, values: Mapping[str, Any] | None = None
) -> list[RunHeader]:
    rows = connection.execute(f"SELECT {HEADER_COLUMNS} FROM runs {clause}", values).fetchall()
    return [record_of(codec.HEADER, row) for row in rows]


def read_status(connection: Connection, run_id: str) -> str | None:
    """The status of a run that was made here; None if there is none with this id."""
    row = connection.execute(
        "SELECT status FROM runs WHERE id = ? AND origin IS NULL", [run_id]
    ).fetchone()
    return row[0] if row else None


def read_run(connection: Connection, header: RunHeader) -> Run:
    """A run with all its records."""
    number = number_of(connection, "runs", header.id)
    circuit_id = header.circuit_id
    summaries = read_records(connection, codec.SUMMARY, "WHERE run_id = ?", [header.id])
    return Run(
        header,
        read_circuit(connection, circuit_id) if circuit_id else None,
        read_linked(connection, codec.EVIDENCE, number, circuit_id),
        read_linked(connection, codec.LABEL, number, circuit_id),
        read_linked(connection, codec.VERDICT, number, circuit_id),
        read_records(connection, codec.MOTIF, "WHERE run = ? ORDER BY pattern, nodes", [number]),
        read_linked(connection, codec.EXCHANGE, number, circuit_id),
        read_records(connection, codec.FAILURE, "WHERE run_id = ?", [header.id]),
        summaries[0] if summaries else None,
        behavior=read_behavior(connection, header.id),
        task=read_task(connection, header.task_id),
        **read_claims(connection, number),
    )


def read_linked(
    connection: Connection, kind: Codec[R], run: int, circuit_id: str | None
) -> list[R]:
    """The records of one kind that a run is linked to, by its number."""
    table, in_circuit = kind.table, ""
    if kind.table != codec.EXCHANGE.table:
        if circuit_id is None:
            return []
        in_circuit = f"AND {table}.circuit = {number_of(connection, 'circuits', circuit_id)}"
    link = f"run_{table}"
    rows = connection.execute(
        f"SELECT {columns_of(kind)} FROM {table} JOIN {link} AS link "
        f"ON {table}.id = link.{IDENTITY[link][0]} WHERE link.run = ? {in_circuit} "
        f"ORDER BY {table}.id",
        [run],
    ).fetchall()
    return [record_of(kind, row) for row in rows]


def read_cited(
    connection: Connection, evidence_ids: Iterable[str], exchange_ids: Iterable[str]
) -> tuple[list[Evidence], list[Exchange]]:
    """Evidence and exchanges by their ids."""
    with_ids = "WHERE id IN (SELECT unnest(?::VARCHAR[])) ORDER BY id"
    return (
        read_records(connection, codec.EVIDENCE, with_ids, [sorted(evidence_ids)]),
        read_records(connection, codec.EXCHANGE, with_ids, [sorted(exchange_ids)]),
    )


def read_behavior(connection: Connection, run_id: str) -> dict[str, Behavior]:
    row = connection.execute("SELECT behavior FROM runs WHERE id = ?", [run_id]).fetchone()
    return parse_behavior(json.loads(row[0]) if row and row[0] else {})


def read_task(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute("SELECT body FROM tasks WHERE id = ?", [task_id]).fetchone()
    return Task.parse(json.loads(row[0])) if row else None


# --- circuits ----------------------------------------------------------------------------------


def read_circuit(connection: Connection, circuit_id: str) -> Circuit:
    number, *row = connection.execute(
        f"SELECT number, {columns_of(codec.CIRCUIT)} FROM circuits WHERE id = ?", [circuit_id]
    ).fetchone()
    edges = read_records(
        connection, codec.EDGE, "WHERE src_key >= ? AND src_key < ? ORDER BY place", keys_of(number)
    )
    return codec.to_circuit(values_of(codec.CIRCUIT, row), edges)


def read_sizes(connection: Connection, circuit: Circuit) -> list[CircuitSize]:
    """All local circuits of the same task, model and metric that have edges, and `circuit`."""
    rows = connection.execute(
        "SELECT number, id, discoverer, settings, circuit, corrupt, clean FROM circuits "
        "WHERE task_id = ? AND model_id = ? AND metric = ? AND clean <> corrupt "
        f"AND (id = ? OR id NOT IN ({imported_ids('circuits')})) ORDER BY id",
        [circuit.task_id, circuit.model_id, circuit.faithfulness.metric, circuit.id],
    ).fetchall()
    counts = {
        number: connection.execute(
            "SELECT count(*) FROM edges WHERE src_key >= ? AND src_key < ?", keys_of(number)
        ).fetchone()[0]
        for number, *_ in rows
    }
    return [
        CircuitSize(
            identity,
            discoverer,
            json.loads(settings),
            counts[number],
            (kept - corrupt) / (clean - corrupt),
        )
        for number, identity, discoverer, settings, kept, corrupt, clean in rows
        if counts[number]
    ]


# --- what was made here before: imports are never reused ---------------------------------------


def find_circuit(
    connection: Connection,
    task_id: str,
    model_id: str,
    discoverer: str,
    settings: Mapping[str, Any],
) -> Circuit | None:
    """The circuit that the same discovery stored before."""
    row = connection.execute(
        "SELECT id FROM circuits WHERE task_id = ? AND model_id = ? AND discoverer = ? "
        f"AND settings = ? AND id NOT IN ({imported_ids('circuits')})",
        [task_id, model_id, discoverer, canonical_json(settings)],
    ).fetchone()
    return read_circuit(connection, row[0]) if row else None


def find_evidence(
    connection: Connection, circuit_id: str, collector: str, settings: Mapping[str, Any]
) -> list[Evidence]:
    """What the same collector measured before in the same circuit."""
    number = number_of(connection, "circuits", circuit_id)
    return read_records(
        connection,
        codec.EVIDENCE,
        "WHERE circuit = ? AND collector = ? AND settings = ? "
        f"AND id NOT IN ({imported_ids('evidence')} AND number = ?)",
        [number, collector, canonical_json(settings), number],
    )


def find_replies(connection: Connection, request_id: str) -> list[Exchange]:
    """The exchanges of a request that got a reply, usable or not."""
    return read_records(
        connection,
        codec.EXCHANGE,
        "WHERE request_id = ? AND reply IS NOT NULL "
        f"AND id NOT IN ({imported_ids('exchanges')}) ORDER BY id",
        [request_id],
    )


def find_label_results(connection: Connection, question_ids: Sequence[str]) -> list[LabelResult]:
    """The labels that answer these questions."""
    if not question_ids:
        return []
    rows = connection.execute(
        f"SELECT labelings.id, labelings.exchange_ids, {columns_of(codec.LABEL)} FROM labelings "
        "JOIN labels ON list_contains(from_json(label_ids, '[\"VARCHAR\"]'), labels.id) "
        "WHERE list_contains(?, labelings.id) ORDER BY labels.id",
        [list(question_ids)],
    ).fetchall()
    answers: dict[tuple[str, str], list[Label]] = {}
    for question_id, exchange_ids, *row in rows:
        answers.setdefault((question_id, exchange_ids), []).append(record_of(codec.LABEL, row))
    return [
        LabelResult(question_id, tuple(labels), tuple(json.loads(exchange_ids)))
        for (question_id, exchange_ids), labels in answers.items()
    ]


def find_judge_results(connection: Connection, question_ids: Sequence[str]) -> list[JudgeResult]:
    """The verdicts that answer these questions."""
    rows = connection.execute(
        f"SELECT judgings.id, {columns_of(codec.VERDICT)} FROM judgings "
        "JOIN verdicts ON verdicts.id = judgings.verdict_id "
        "WHERE list_contains(?, judgings.id)",
        [list(question_ids)],
    ).fetchall()
    return [JudgeResult(question_id, record_of(codec.VERDICT, row)) for question_id, *row in rows]


# --- lists of runs -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in a list: what was asked, and how large and how faithful its circuit is."""

    header: RunHeader
    edges: int | None
    faithfulness: float | None


def read_list(
    connection: Connection, task: str | None, model: str | None, status: str | None
) -> list[Listed]:
    """Runs with this task, model and status (None: any), the newest first."""
    headers = read_headers(
        connection,
        "WHERE ($task IS NULL OR task = $task) AND ($status IS NULL OR status = $status) "
        "AND ($model IS NULL OR model = $model OR model_id = $model) "
        "ORDER BY runs.created_at DESC, runs.number DESC",
        {"task": task, "model": model, "status": status},
    )
    circuits = {
        identity: (number, Faithfulness(*values))
        for identity, number, *values in connection.execute(
            "SELECT id, number, metric, clean, circuit, corrupt FROM circuits"
        ).fetchall()
    }
    edges = dict(
        connection.execute(
            f"SELECT src_key >> {CIRCUIT_BITS} AS number, count(*) FROM edges GROUP BY number"
        ).fetchall()
    )
    listed = []
    for header in headers:
        number, measured = circuits.get(header.circuit_id or "", (None, None))
        n_edges = None if number is None else edges.get(number, 0)
        listed.append(Listed(header, n_edges, measured.share if measured else None))
    return listed
