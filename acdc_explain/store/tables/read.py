"""Records out of the tables of an open store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...ids import canonical_json
from ...llm.exchange import Exchange
from ...records.circuit import Circuit, Faithfulness
from ...records.evidence import Evidence
from ...records.label import Label, LabelResult
from ...records.run.behavior import Behavior, parse_behavior
from ...records.run.header import RunHeader
from ...records.run.run import Run
from ...records.task import Task
from ..duck.connection import Connection
from . import rows
from .write import IDENTITY, number_of

FOREIGN = "SELECT id FROM imported WHERE things = '{}'"
"""The ids of records that only imports brought."""


def find_run(connection: Connection, path: Path, run: str) -> RunHeader:
    """A run by id, name, unique prefix of an id, or `last`. Raises UserError."""
    if run == "last":
        found = read_headers(connection, "ORDER BY created_at DESC, id LIMIT 1")
    else:
        found = read_headers(connection, "WHERE name = $name", {"name": run}) or read_headers(
            connection, "WHERE starts_with(id, $name) ORDER BY id", {"name": run}
        )
    if len(found) == 1:
        return found[0]
    if not found and connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None:
        raise UserError(f"{path} holds no run yet; make one with `acdc-explain run ioi`.")
    if not found:
        raise UserError(f"{path} holds no run {run[:80]!r}; see `acdc-explain runs`.")
    ids = ", ".join(header.id for header in found[:5])
    raise UserError(f"{run!r} is the beginning of {len(found)} runs ({ids}); write more of it.")


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
    row = connection.execute("SELECT behavior FROM runs WHERE id = ?", [run_id]).fetchone()
    return parse_behavior(json.loads(row[0]) if row and row[0] else {})


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
        f"strftime(created_at, '%Y-%m-%dT%H:%M:%SZ'), seed, settings, versions, "
        f"origin, name, note FROM runs {clause}",
        values,
    ).fetchall()
    return [rows.to_header(row) for row in found]


def read_replies(connection: Connection, request_id: str) -> list[Exchange]:
    """What was replied to a request of ours, good or bad."""
    found = connection.execute(
        "SELECT * FROM exchanges WHERE request_id = ? AND reply IS NOT NULL "
        f"AND id NOT IN ({FOREIGN.format('exchanges')}) ORDER BY id",
        [request_id],
    ).fetchall()
    return [rows.to_exchange(row) for row in found]


def read_label_results(connection: Connection, question_ids: Sequence[str]) -> list[LabelResult]:
    """The labels that were given here in answer to questions. Imports bring none."""
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
        LabelResult(question_id, tuple(labels), tuple(json.loads(exchange_ids)))
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


# --- what was found here, and not imported -----------------------------------------------------


def own_circuit(
    connection: Connection,
    task_id: str,
    model_id: str,
    discoverer: str,
    settings: Mapping[str, Any],
) -> Circuit | None:
    """The circuit that the same discovery found here before."""
    row = connection.execute(
        "SELECT id FROM circuits WHERE task_id = ? AND model_id = ? AND discoverer = ? "
        f"AND settings = ? AND id NOT IN ({FOREIGN.format('circuits')})",
        [task_id, model_id, discoverer, canonical_json(settings)],
    ).fetchone()
    return read_circuit(connection, row[0]) if row else None


def own_evidence(
    connection: Connection, circuit_id: str, collector: str, settings: Mapping[str, Any]
) -> list[Evidence]:
    """What the same collector measured here before."""
    number = number_of(connection, "circuits", circuit_id)
    found = connection.execute(
        "SELECT * FROM evidence WHERE circuit = ? AND collector = ? AND settings = ? "
        f"AND id NOT IN ({FOREIGN.format('evidence')} AND number = ?)",
        [number, collector, canonical_json(settings), number],
    ).fetchall()
    return [rows.to_evidence(row) for row in found]


# --- lists and tables --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in a list: what was asked, and how large and how faithful its circuit is."""

    header: RunHeader
    edges: int | None
    faithfulness: float | None


def read_list(
    connection: Connection, task: str | None, model: str | None, status: str | None
) -> list[Listed]:
    """Runs with some task, model and status, the newest first."""
    wanted = {"task": task, "model": model, "status": status}
    headers = read_headers(
        connection,
        "WHERE ($task IS NULL OR task = $task) AND ($status IS NULL OR status = $status) "
        "AND ($model IS NULL OR model = $model OR model_id = $model) "
        "ORDER BY created_at DESC, id",
        wanted,
    )
    circuits = {
        identity: (number, Faithfulness(*values))
        for identity, number, *values in connection.execute(
            "SELECT id, number, metric, clean, circuit, corrupt FROM circuits"
        ).fetchall()
    }
    edges = dict(
        connection.execute(
            f"SELECT src_key >> {rows.CIRCUIT_BITS} AS number, count(*) FROM edges GROUP BY number"
        ).fetchall()
    )
    listed = []
    for header in headers:
        number, found = circuits.get(header.circuit_id or "", (None, None))
        n = None if number is None else edges.get(number, 0)
        listed.append(Listed(header, n, found.share if found else None))
    return listed


def selections(connection: Connection, header: RunHeader) -> dict[str, str]:
    """Of each table with something of a run, the condition on its rows."""
    run = number_of(connection, "runs", header.id)
    this = f"SELECT id FROM runs WHERE number = {run}"
    chosen = {
        **dict.fromkeys(("failures", "summaries"), f"run_id = ({this})"),
        **dict.fromkeys(("motifs", "standings", "enrichments"), f"run = {run}"),
        "runs": f"number = {run}",
    }
    for things in ("evidence", "labels", "verdicts", "exchanges"):
        link = f"run_{things}"
        chosen[link] = f"run = {run}"
        chosen[things] = f"id IN (SELECT {IDENTITY[link][0]} FROM {link} WHERE run = {run})"
    verdicts, labels = chosen["verdicts"], chosen["labels"]
    chosen["judgings"] = f"verdict_id IN (SELECT id FROM verdicts WHERE {verdicts})"
    chosen["labelings"] = (
        "id IN (SELECT id FROM (SELECT id, unnest(from_json(label_ids, '[\"VARCHAR\"]')) AS label "
        f"FROM labelings) WHERE label IN (SELECT id FROM labels WHERE {labels}))"
    )
    chosen["tasks"] = f"id IN (SELECT task_id FROM runs WHERE number = {run})"
    if header.circuit_id is not None:
        circuit = number_of(connection, "circuits", header.circuit_id)
        low, high = rows.keys_of(circuit)
        chosen["circuits"] = f"number = {circuit}"
        for table, key in (("nodes", "key"), ("edges", "src_key"), ("fingerprints", "key")):
            chosen[table] = f"{key} >= {low} AND {key} < {high}"
    return chosen
