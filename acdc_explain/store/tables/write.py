"""Adding records to the tables of an open store, none twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...ids import canonical_json
from ...llm.exchange import Exchange
from ...records.circuit import Circuit, Node
from ...records.evidence import Evidence
from ...records.label import Label, LabelResult
from ...records.run.behavior import Behavior
from ...records.run.header import RunHeader
from ...records.run.motif import Motif
from ...records.run.run import Run
from ...records.task import Task
from ...records.verdict import JudgeResult, Verdict
from ..duck.connection import Connection
from . import rows

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
"""The tables without a key of their own: what tells their rows apart, among those with a number."""


def add_rows(connection: Connection, table: str, new: Iterable[Sequence[Any]]) -> None:
    """Add rows whose identity no row with the same number has.

    The last value of a row is its number, where the table has one.
    """
    identity, number = IDENTITY[table]
    described = connection.execute(f"SELECT * FROM {table} LIMIT 0").description
    place = [column[0] for column in described].index(identity)
    values = list({row[place]: row for row in new}.values())
    if not values:
        return
    among = "" if number is None else f"WHERE {number} = {int(values[0][-1])}"
    append(
        connection,
        table,
        values,
        f"ANTI JOIN (SELECT {identity} FROM {table} {among}) AS held USING ({identity})",
    )


def append(
    connection: Connection, table: str, values: Sequence[Sequence[Any]], unless: str = ""
) -> None:
    """Add rows, all in one statement: column by column is many times as fast as row by row."""
    if not values:
        return
    columns = connection.execute(f"SELECT * FROM {table} LIMIT 0").description
    names = ", ".join(f'"{column[0]}"' for column in columns)
    lists = ", ".join(f'unnest(?::{column[1]}[]) AS "{column[0]}"' for column in columns)
    connection.execute(
        f"INSERT INTO {table} SELECT {names} FROM (SELECT {lists}) AS new {unless}",
        [list(column) for column in zip(*values)],
    )


def add_keyed(
    connection: Connection, table: str, new: Iterable[Sequence[Any]], on_conflict: str = "NOTHING"
) -> None:
    """Add a few rows to a table with a key of its own."""
    for row in new:
        marks = ", ".join("?" * len(row))
        connection.execute(
            f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO {on_conflict}", list(row)
        )


def number_of(connection: Connection, table: str, identity: str | None) -> int:
    """The number of a circuit or run in this store. Raises KeyError."""
    found = connection.execute(f"SELECT number FROM {table} WHERE id = ?", [identity]).fetchone()
    if found is None:
        raise KeyError(identity)
    return int(found[0])


def next_number(connection: Connection, table: str) -> int:
    found = connection.execute(f"SELECT coalesce(max(number), -1) + 1 FROM {table}").fetchone()
    return int(found[0])


def is_own(connection: Connection, run_id: str | None) -> bool:
    """Whether what is added to a run was found here. None: no run, a benchmark."""
    found = connection.execute("SELECT origin FROM runs WHERE id = ?", [run_id]).fetchone()
    return found is None or found[0] is None


def mark(
    connection: Connection, things: str, ids: Sequence[str], number: int | None, *, own: bool
) -> None:
    """Before records are added: say which are imported, and that own ones no longer are."""
    if own:
        connection.execute(
            "DELETE FROM imported WHERE things = ? AND number IS NOT DISTINCT FROM ? "
            "AND id IN (SELECT unnest(?::VARCHAR[]))",
            [things, number, list(ids)],
        )
        return
    among = "" if number is None or things == "circuits" else f"WHERE circuit = {int(number)}"
    connection.execute(
        f"INSERT INTO imported SELECT DISTINCT ?, id, ?::INTEGER FROM (SELECT unnest(?::VARCHAR[]) "
        f"AS id) AS new ANTI JOIN (SELECT id FROM {things} {among}) AS held USING (id)",
        [things, number, list(ids)],
    )


def add_header(connection: Connection, header: RunHeader) -> int:
    """Add a run, or bring its status and circuit up to date; its number.

    A name or a note that it was given stays, where the header has none.
    """
    new = rows.run_row(header, next_number(connection, "runs"))
    marks = ", ".join("?" * len(new))
    connection.execute(
        f"INSERT INTO runs ({', '.join(rows.RUN_COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING",
        list(new),
    )
    connection.execute(
        "UPDATE runs SET status = ?, circuit_id = ?, name = coalesce(?, name), "
        "note = coalesce(?, note) WHERE id = ?",
        [header.status, header.circuit_id, header.name, header.note, header.id],
    )
    return number_of(connection, "runs", header.id)


def add_task(connection: Connection, task: Task) -> None:
    add_keyed(connection, "tasks", [(task.id, task.name, canonical_json(task))])


def add_behavior(connection: Connection, run_id: str, behavior: Mapping[str, Behavior]) -> None:
    """In place of an earlier one of the same run; nothing where it is not known."""
    if behavior:
        text = canonical_json(behavior)
        connection.execute("UPDATE runs SET behavior = ? WHERE id = ?", [text, run_id])


def add_circuit(connection: Connection, circuit: Circuit, *, own: bool = True) -> int:
    """Add a circuit that is not there yet; its number.

    One found here takes the place of one that was only imported: the id does not say how
    faithful it is, and how large the effects of its edges are.
    """
    identity, number = circuit.id, None
    held = connection.execute(
        "SELECT circuits.number, imported.id IS NULL FROM circuits LEFT JOIN imported "
        "ON things = 'circuits' AND imported.id = circuits.id WHERE circuits.id = ?",
        [identity],
    ).fetchone()
    if held is not None:
        number, found_here = held
        if found_here or not own:
            return int(number)
        remove_circuit(connection, number)
    if number is None:
        number = next_number(connection, "circuits")
    mark(connection, "circuits", [identity], number, own=own)
    add_keyed(connection, "circuits", [rows.circuit_row(circuit, number)])
    append(connection, "nodes", [rows.node_row(identity, number, node) for node in circuit.nodes])
    edges = [rows.edge_row(identity, number, at, edge) for at, edge in enumerate(circuit.edges)]
    append(connection, "edges", edges)
    return int(number)


def remove_circuit(connection: Connection, number: int) -> dict[str, int]:
    """The circuit itself, and not what was found out about it; how many rows of what."""
    low, high = rows.keys_of(number)
    return {
        table: removed(connection, table, f"{column} >= {low} AND {column} < {high}")
        for table, column in (("nodes", "key"), ("edges", "src_key"))
    } | {"circuits": removed(connection, "circuits", f"number = {int(number)}")}


def removed(connection: Connection, table: str, condition: str, values: Any = None) -> int:
    """Delete rows; how many there were."""
    return int(
        connection.execute(f"DELETE FROM {table} WHERE {condition}", values or []).fetchone()[0]
    )


def add_evidence(connection: Connection, run_id: str, evidence: Sequence[Evidence]) -> None:
    if not evidence:
        return
    circuit = number_of(connection, "circuits", evidence[0].circuit_id)
    new = [rows.evidence_row(item, circuit) for item in evidence]
    own = is_own(connection, run_id)
    mark(connection, "evidence", [row[0] for row in new], circuit, own=own)
    add_linked(connection, "evidence", run_id, new)


def add_labels(connection: Connection, run_id: str, labels: Sequence[Label]) -> None:
    if not labels:
        return
    circuit = number_of(connection, "circuits", labels[0].circuit_id)
    add_linked(connection, "labels", run_id, [rows.label_row(label, circuit) for label in labels])
    forget_failures(connection, run_id, [label.node for label in labels])


def link_label_results(
    connection: Connection, run_id: str, label_results: Sequence[LabelResult]
) -> None:
    """Say that a run uses answers that are there, with all behind them."""
    labels = [label for answer in label_results for label in answer.labels]
    exchanges = {name for answer in label_results for name in answer.exchange_ids}
    evidence = {name for label in labels for name in label.evidence_ids}
    link(connection, "exchanges", run_id, sorted(exchanges))
    link(connection, "evidence", run_id, sorted(evidence))
    link_labels(connection, run_id, labels)


def answered(connection: Connection, label_results: Sequence[LabelResult]) -> list[str]:
    """Those of the questions that labels are stored for already."""
    given = [answer for answer in label_results if answer.labels]
    if not given:
        return []
    found = connection.execute(
        "SELECT id FROM labelings WHERE circuit = ? AND id IN (SELECT unnest(?::VARCHAR[]))",
        [
            number_of(connection, "circuits", given[0].labels[0].circuit_id),
            [answer.question_id for answer in given],
        ],
    ).fetchall()
    return [identity for (identity,) in found]


def link_labels(connection: Connection, run_id: str, labels: Sequence[Label]) -> None:
    """Say that a run uses labels that are there."""
    link(connection, "labels", run_id, [label.id for label in labels])
    forget_failures(connection, run_id, [label.node for label in labels])


def forget_failures(connection: Connection, run_id: str, nodes: Sequence[Node]) -> None:
    """Nodes that have labels now, or wait for them, have not failed."""
    connection.execute(
        "DELETE FROM failures WHERE run_id = ? AND node IN (SELECT unnest(?::VARCHAR[]))",
        [run_id, sorted({str(node) for node in nodes})],
    )


def add_label_results(
    connection: Connection, run_id: str, label_results: Sequence[LabelResult]
) -> None:
    """The answers as such: which question each was given to, and those that failed."""
    given = [answer for answer in label_results if answer.labels]
    if given:
        circuit = number_of(connection, "circuits", given[0].labels[0].circuit_id)
        add_rows(connection, "labelings", [rows.label_result_row(x, circuit) for x in given])
    waiting = [answer.waiting for answer in label_results if answer.waiting is not None]
    forget_failures(connection, run_id, waiting)
    add_keyed(
        connection,
        "failures",
        [rows.failure_row(run_id, x.failure) for x in label_results if x.failure is not None],
        "UPDATE SET labeler = excluded.labeler, reason = excluded.reason",
    )


def add_judge_results(
    connection: Connection, run_id: str, judge_results: Sequence[JudgeResult]
) -> None:
    """Which question each verdict answers."""
    if judge_results:
        circuit = circuit_of(connection, run_id)
        answers = [(x.question_id, x.verdict.id, circuit) for x in judge_results]
        add_rows(connection, "judgings", answers)


def add_verdicts(connection: Connection, run_id: str, verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        return
    circuit = circuit_of(connection, run_id)
    add_linked(
        connection, "verdicts", run_id, [rows.verdict_row(item, circuit) for item in verdicts]
    )


def add_exchanges(
    connection: Connection, run_id: str | None, new: Sequence[Exchange], *, own: bool = True
) -> None:
    """Of a run, or of none: a benchmark's. `own`: they were asked here."""
    found = list(map(rows.exchange_row, new))
    mark(connection, "exchanges", [row[0] for row in found], None, own=own)
    add_linked(connection, "exchanges", run_id, found)


def add_motifs(connection: Connection, run_id: str, motifs: Sequence[Motif]) -> None:
    number = number_of(connection, "runs", run_id)
    add_rows(connection, "motifs", [rows.motif_row(motif, number) for motif in motifs])


def add_found(connection: Connection, run_id: str, run: Run) -> None:
    """The evidence and labels of a run, with all behind them."""
    add_evidence(connection, run_id, run.evidence)
    add_exchanges(connection, run_id, run.exchanges, own=is_own(connection, run_id))
    add_labels(connection, run_id, run.labels)
    add_keyed(connection, "failures", [rows.failure_row(run_id, f) for f in run.failures])


def add_linked(
    connection: Connection, things: str, run_id: str | None, new: Sequence[Sequence[Any]]
) -> None:
    """Add rows that begin with their id, and say that a run uses them."""
    add_rows(connection, things, new)
    if run_id is not None:
        link(connection, things, run_id, [row[0] for row in new])


def link(connection: Connection, things: str, run_id: str, ids: Sequence[str]) -> None:
    number = number_of(connection, "runs", run_id)
    add_rows(connection, f"run_{things}", [(run_id, identity, number) for identity in ids])


def circuit_of(connection: Connection, run_id: str) -> int:
    """The number of a run's circuit. Raises KeyError."""
    found = connection.execute(
        "SELECT circuits.number FROM runs JOIN circuits ON circuits.id = runs.circuit_id "
        "WHERE runs.id = ?",
        [run_id],
    ).fetchone()
    if found is None:
        raise KeyError(run_id)
    return int(found[0])
