"""Adding records to the tables of an open store, none twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...ids import canonical_json
from ...llm.exchange import Exchange
from ...records.circuit import Circuit, Node
from ...records.evidence import Evidence
from ...records.label import Label, LabelResult
from ...records.run.behavior import Behavior
from ...records.run.header import RunHeader
from ...records.run.motif import Motif
from ...records.run.run import Run
from ...records.run.summary import Summary
from ...records.task import Task
from ...records.verdict import JudgeResult, Verdict
from ..duck.connection import Connection
from . import codec
from .keys import keys_of, node_key
from .origin import is_local, mark_origin
from .rows import (
    IDENTITY,
    Row,
    add_keyed,
    add_rows,
    append,
    circuit_of,
    delete_rows,
    next_number,
    number_of,
    row_of,
    row_of_values,
)

# --- runs, tasks and circuits ------------------------------------------------------------------


def add_header(connection: Connection, header: RunHeader) -> None:
    """Add a run, or update its status and circuit.

    The stored name and note stay where the header has none.
    """
    row = row_of(codec.HEADER, header, number=next_number(connection, "runs"))
    add_keyed(connection, "runs", [row])
    connection.execute(
        "UPDATE runs SET status = ?, circuit_id = ?, name = coalesce(?, name), "
        "note = coalesce(?, note) WHERE id = ?",
        [header.status, header.circuit_id, header.name, header.note, header.id],
    )


def add_task(connection: Connection, task: Task) -> None:
    row = {"id": task.id, "name": task.name, "body": canonical_json(task)}
    add_keyed(connection, "tasks", [row])


def add_behavior(connection: Connection, run_id: str, behavior: Mapping[str, Behavior]) -> None:
    """Replace what a run says of the model's behavior; an empty mapping changes nothing."""
    if behavior:
        text = canonical_json(behavior)
        connection.execute("UPDATE runs SET behavior = ? WHERE id = ?", [text, run_id])


def add_circuit(connection: Connection, circuit: Circuit, *, local: bool = True) -> int:
    """Add a circuit that is not stored yet, and return its number.

    A local one replaces one that was only imported: the id does not say how faithful the circuit
    is or how large the effects of its edges are.
    """
    identity, number = circuit.id, None
    row = connection.execute(
        "SELECT circuits.number, imported.id IS NULL FROM circuits LEFT JOIN imported "
        "ON things = 'circuits' AND imported.id = circuits.id WHERE circuits.id = ?",
        [identity],
    ).fetchone()
    if row is not None:
        number, stored_is_local = row
        if stored_is_local or not local:
            return int(number)
        remove_circuit(connection, number)
    if number is None:
        number = next_number(connection, "circuits")
    mark_origin(connection, "circuits", [identity], number, local=local)
    add_keyed(connection, "circuits", [row_of(codec.CIRCUIT, circuit, id=identity, number=number)])
    _add_nodes_and_edges(connection, circuit, identity, number)
    return int(number)


def _add_nodes_and_edges(
    connection: Connection, circuit: Circuit, identity: str, number: int
) -> None:
    nodes = [
        {"circuit_id": identity, "node": str(node), "kind": node.kind, "layer": node.layer,
         "head": node.head, "key": node_key(number, node)}
        for node in circuit.nodes
    ]  # fmt: skip
    append(connection, "nodes", nodes)
    edges = [
        row_of(codec.EDGE, edge, circuit_id=identity, place=place,
               src_key=node_key(number, edge.src), dst_key=node_key(number, edge.dst))
        for place, edge in enumerate(circuit.edges)
    ]  # fmt: skip
    append(connection, "edges", edges)


def remove_circuit(connection: Connection, number: int) -> dict[str, int]:
    """Delete a circuit, but not the evidence and labels of it; how many rows of each table."""
    low, high = keys_of(number)
    counts = {
        table: delete_rows(connection, table, f"{column} >= {low} AND {column} < {high}")
        for table, column in (("nodes", "key"), ("edges", "src_key"))
    }
    return counts | {"circuits": delete_rows(connection, "circuits", f"number = {int(number)}")}


# --- evidence, exchanges and motifs ------------------------------------------------------------


def add_evidence(connection: Connection, run_id: str, evidence: Sequence[Evidence]) -> None:
    if not evidence:
        return
    number = number_of(connection, "circuits", evidence[0].circuit_id)
    rows = [row_of(codec.EVIDENCE, item, id=item.id, circuit=number) for item in evidence]
    local = is_local(connection, run_id)
    mark_origin(connection, "evidence", [row["id"] for row in rows], number, local=local)
    _add_linked(connection, "evidence", run_id, rows)


def add_exchanges(
    connection: Connection, run_id: str | None, exchanges: Sequence[Exchange], *, local: bool = True
) -> None:
    """Exchanges of a run, or of none. `local`: the LLM was asked here."""
    rows = [row_of(codec.EXCHANGE, exchange, id=exchange.id) for exchange in exchanges]
    mark_origin(connection, "exchanges", [row["id"] for row in rows], None, local=local)
    _add_linked(connection, "exchanges", run_id, rows)


def add_motifs(connection: Connection, run_id: str, motifs: Sequence[Motif]) -> None:
    number = number_of(connection, "runs", run_id)
    rows = [row_of(codec.MOTIF, motif, id=motif.id, run=number) for motif in motifs]
    add_rows(connection, "motifs", rows)


def add_summary(connection: Connection, summary: Summary) -> None:
    """A summary replaces an earlier one of the same run."""
    identity = summary.id
    connection.execute(
        "DELETE FROM summaries WHERE run_id = ? AND id <> ?", [summary.run_id, identity]
    )
    add_keyed(connection, "summaries", [row_of(codec.SUMMARY, summary, id=identity)])


# --- labels ------------------------------------------------------------------------------------


def add_labels(connection: Connection, run_id: str, labels: Sequence[Label]) -> None:
    if not labels:
        return
    number = number_of(connection, "circuits", labels[0].circuit_id)
    rows = [row_of(codec.LABEL, label, id=label.id, circuit=number) for label in labels]
    _add_linked(connection, "labels", run_id, rows)
    _delete_failures(connection, run_id, [label.node for label in labels])


def add_label_results(connection: Connection, run_id: str, results: Sequence[LabelResult]) -> None:
    """Store the answers to questions, with their evidence and labels, and the failures."""
    add_evidence(connection, run_id, [x.evidence for x in results if x.evidence is not None])
    add_labels(connection, run_id, [label for result in results for label in result.labels])
    answers = [result for result in results if result.labels]
    if answers:
        number = number_of(connection, "circuits", answers[0].labels[0].circuit_id)
        add_rows(connection, "labelings", [_label_result_row(x, number) for x in answers])
    waiting = [result.waiting for result in results if result.waiting is not None]
    _delete_failures(connection, run_id, waiting)
    failures = [result.failure for result in results if result.failure is not None]
    add_keyed(
        connection,
        "failures",
        [row_of(codec.FAILURE, failure, run_id=run_id) for failure in failures],
        "UPDATE SET labeler = excluded.labeler, reason = excluded.reason",
    )


def _label_result_row(result: LabelResult, number: int) -> Row:
    first = result.labels[0]
    return row_of_values(
        {"label_ids": [label.id for label in result.labels], "exchange_ids": result.exchange_ids},
        id=result.question_id,
        circuit_id=first.circuit_id,
        node=str(first.node),
        labeler=first.labeler,
        circuit=number,
    )


def link_label_results(connection: Connection, run_id: str, results: Sequence[LabelResult]) -> None:
    """Add to a run answers that are stored, with their labels, evidence and exchanges."""
    labels = [label for result in results for label in result.labels]
    exchanges = {name for result in results for name in result.exchange_ids}
    evidence = {name for label in labels for name in label.evidence_ids}
    _link(connection, "exchanges", run_id, sorted(exchanges))
    _link(connection, "evidence", run_id, sorted(evidence))
    _link(connection, "labels", run_id, [label.id for label in labels])
    _delete_failures(connection, run_id, [label.node for label in labels])


def answered_questions(connection: Connection, results: Sequence[LabelResult]) -> list[str]:
    """The ids of those questions that have stored labels already."""
    answers = [result for result in results if result.labels]
    if not answers:
        return []
    rows = connection.execute(
        "SELECT id FROM labelings WHERE circuit = ? AND id IN (SELECT unnest(?::VARCHAR[]))",
        [
            number_of(connection, "circuits", answers[0].labels[0].circuit_id),
            [answer.question_id for answer in answers],
        ],
    ).fetchall()
    return [identity for (identity,) in rows]


def _delete_failures(connection: Connection, run_id: str, nodes: Sequence[Node]) -> None:
    """Nodes that have labels now, or wait for them, have not failed."""
    connection.execute(
        "DELETE FROM failures WHERE run_id = ? AND node IN (SELECT unnest(?::VARCHAR[]))",
        [run_id, sorted({str(node) for node in nodes})],
    )


def add_evidence_and_labels(connection: Connection, run_id: str, run: Run) -> None:
    """Add to a run the evidence and labels of `run`, with their exchanges and failures."""
    add_evidence(connection, run_id, run.evidence)
    add_exchanges(connection, run_id, run.exchanges, local=is_local(connection, run_id))
    add_labels(connection, run_id, run.labels)
    rows = [row_of(codec.FAILURE, failure, run_id=run_id) for failure in run.failures]
    add_keyed(connection, "failures", rows)


# --- verdicts ----------------------------------------------------------------------------------


def add_verdicts(connection: Connection, run_id: str, verdicts: Sequence[Verdict]) -> None:
    if verdicts:
        number = circuit_of(connection, run_id)
        rows = [row_of(codec.VERDICT, item, id=item.id, circuit=number) for item in verdicts]
        _add_linked(connection, "verdicts", run_id, rows)


def add_judge_results(connection: Connection, run_id: str, results: Sequence[JudgeResult]) -> None:
    """Store verdicts, and which question each answers."""
    add_verdicts(connection, run_id, [result.verdict for result in results])
    if results:
        number = circuit_of(connection, run_id)
        rows = [
            {"id": x.question_id, "verdict_id": x.verdict.id, "circuit": number} for x in results
        ]
        add_rows(connection, "judgings", rows)


# --- links between runs and records ------------------------------------------------------------


def _add_linked(
    connection: Connection, things: str, run_id: str | None, rows: Sequence[Row]
) -> None:
    """Add rows with an id, and link a run to them."""
    add_rows(connection, things, rows)
    if run_id is not None:
        _link(connection, things, run_id, [row["id"] for row in rows])


def _link(connection: Connection, things: str, run_id: str, ids: Sequence[str]) -> None:
    number = number_of(connection, "runs", run_id)
    table = f"run_{things}"
    column, _ = IDENTITY[table]
    rows = [{"run_id": run_id, column: identity, "run": number} for identity in ids]
    add_rows(connection, table, rows)
