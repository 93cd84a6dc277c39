"""Records out of the tables of an open store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import rows
from .behavior import Behavior, parse_behavior
from .circuit import Circuit
from .exchange import Exchange
from .label import Label, Labeling
from .run import Run, RunHeader
from .schema import Connection
from .task import Task
from .writing import IDENTITY, number_of


def read_run(connection: Connection, header: RunHeader) -> Run:
    """A run with everything found."""
    number = number_of(connection, "runs", header.id)
    evidence, labels, exchanges, verdicts = (
        read_linked(connection, things, number, header.circuit_id)
        for things in ("evidence", "labels", "exchanges", "verdicts")
    )
    motifs = connection.execute(
        "SELECT * FROM motifs WHERE run = ? ORDER BY pattern, nodes", [number]
    ).fetchall()
    failures, summaries = (
        connection.execute(f"SELECT * FROM {table} WHERE run_id = ?", [header.id]).fetchall()
        for table in ("failures", "summaries")
    )
    return Run(
        header,
        read_circuit(connection, header.circuit_id) if header.circuit_id else None,
        [rows.to_evidence(row) for row in evidence],
        [rows.to_label(row) for row in labels],
        [rows.to_verdict(row) for row in verdicts],
        [rows.to_motif(row) for row in motifs],
        [rows.to_exchange(row) for row in exchanges],
        [rows.to_failure(row) for row in failures],
        rows.to_summary(summaries[0]) if summaries else None,
        behavior=read_behavior(connection, header.id),
        task=read_task(connection, header.task_id),
    )


def read_behavior(connection: Connection, run_id: str) -> dict[str, Behavior]:
    row = connection.execute("SELECT body FROM behaviors WHERE run_id = ?", [run_id]).fetchone()
    return parse_behavior(json.loads(row[0]) if row else {})


def read_task(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute("SELECT body FROM tasks WHERE id = ?", [task_id]).fetchone()
    return Task.parse(json.loads(row[0])) if row else None


def read_circuit(connection: Connection, circuit_id: str) -> Circuit:
    row = connection.execute("SELECT * FROM circuits WHERE id = ?", [circuit_id]).fetchone()
    edges = connection.execute(
        "SELECT * FROM edges WHERE src_key >= ? AND src_key < ? ORDER BY place",
        rows.keys_of(row[-1]),
    ).fetchall()
    return rows.to_circuit(row, edges)


def read_headers(
    connection: Connection, clause: str, values: Mapping[str, Any] | None = None
) -> list[RunHeader]:
    found = connection.execute(
        "SELECT id, task, task_id, model, model_id, circuit_id, status, "
        f"strftime(created_at, '%Y-%m-%dT%H:%M:%SZ'), seed, settings, versions FROM runs {clause}",
        values,
    ).fetchall()
    return [rows.to_header(row) for row in found]


def read_replies(connection: Connection, request_id: str) -> list[Exchange]:
    """What was replied to a request, good or bad."""
    found = connection.execute(
        "SELECT * FROM exchanges WHERE request_id = ? AND reply IS NOT NULL ORDER BY id",
        [request_id],
    ).fetchall()
    return [rows.to_exchange(row) for row in found]


def read_labelings(connection: Connection, question_ids: Sequence[str]) -> list[Labeling]:
    """The labels that were given in answer to questions."""
    if not question_ids:
        return []
    found = connection.execute(
        "SELECT labelings.id, labelings.exchange_ids, labels.* FROM labelings "
        "JOIN labels ON list_contains(from_json(label_ids, '[\"VARCHAR\"]'), labels.id) "
        "WHERE list_contains(?, labelings.id) ORDER BY labels.id",
        [list(question_ids)],
    ).fetchall()
    answers: dict[tuple[str, str], list[Label]] = {}
    for question_id, exchange_ids, *row in found:
        answers.setdefault((question_id, exchange_ids), []).append(rows.to_label(tuple(row)))
    return [
        Labeling(question_id, tuple(labels), tuple(json.loads(exchange_ids)))
        for (question_id, exchange_ids), labels in answers.items()
    ]


def read_linked(
    connection: Connection, things: str, run: int, circuit_id: str | None
) -> list[tuple[Any, ...]]:
    """The records that a run is linked to."""
    among = ""
    if things != "exchanges":
        if circuit_id is None:
            return []
        among = f"AND {things}.circuit = {number_of(connection, 'circuits', circuit_id)}"
    identity = IDENTITY[f"run_{things}"][0]
    found: list[tuple[Any, ...]] = connection.execute(
        f"SELECT {things}.* FROM {things} JOIN run_{things} AS link "
        f"ON {things}.id = link.{identity} WHERE link.run = ? {among} ORDER BY {things}.id",
        [run],
    ).fetchall()
    return found
