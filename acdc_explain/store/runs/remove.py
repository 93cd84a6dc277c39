"""Removing a run from an open store, with the records that no other run uses."""

from __future__ import annotations

from collections.abc import Mapping

from ...records.run.header import RunHeader
from ..duck.connection import Connection
from ..search.index import index_circuit
from ..tables.keys import keys_of
from ..tables.rows import IDENTITY, delete_rows, number_of
from ..tables.write import remove_circuit

OF_RUN = (
    "motifs",
    "standings",
    "enrichments",
    "claims",
    "components",
    "steps",
)  # tables with the run's number
OF_RUN_ID = ("failures", "summaries")  # tables with the run's id
LINKED = ("verdicts", "labels", "evidence", "exchanges")
"""The tables of records that runs share. Those that others refer to come after these others."""

REFERENCES: Mapping[str, tuple[str, ...]] = {
    "verdicts": (),
    "labels": ("SELECT label_id FROM verdicts",),
    "evidence": ("SELECT unnest(from_json(evidence_ids, '[\"VARCHAR\"]')) FROM labels",),
    "exchanges": (
        "SELECT exchange_id FROM labels",
        "SELECT unnest(from_json(exchange_ids, '[\"VARCHAR\"]')) FROM labelings",
        "SELECT exchange_id FROM summaries",
    ),
}
"""The ids of records of each table that other records refer to."""


def remove_run(connection: Connection, header: RunHeader, *, task: bool = True) -> dict[str, int]:
    """Remove a run and the records that nothing else uses; how many rows of each table.

    `task`: remove its prompts, too, if no other run has them.
    """
    number = number_of(connection, "runs", header.id)
    counts = {table: delete_rows(connection, table, "run = ?", [number]) for table in OF_RUN}
    for table in OF_RUN_ID:
        counts[table] = delete_rows(connection, table, "run_id = ?", [header.id])
    counts["runs"] = delete_rows(connection, "runs", "number = ?", [number])
    for things in LINKED:
        counts |= _remove_unused(connection, things, number)
    if header.circuit_id is not None:
        counts |= _remove_unused_circuit(connection, header.circuit_id)
    if task:
        used = "id IN (SELECT task_id FROM runs UNION ALL SELECT task_id FROM circuits)"
        counts["tasks"] = delete_rows(
            connection, "tasks", f"id = ? AND NOT ({used})", [header.task_id]
        )
    return {table: count for table, count in counts.items() if count}


def _remove_unused(connection: Connection, things: str, run: int) -> dict[str, int]:
    """Unlink a run from the records of one table, and remove those that nothing else uses."""
    link = f"run_{things}"
    column, _ = IDENTITY[link]
    unreferenced = " ".join(
        f"AND id NOT IN (SELECT * FROM ({query}) AS named(id) WHERE id IS NOT NULL)"
        for query in REFERENCES[things]
    )
    rows = connection.execute(
        f"SELECT DISTINCT {column} AS id FROM {link} WHERE run = ? AND {column} NOT IN "
        f"(SELECT {column} FROM {link} WHERE run <> ?) {unreferenced}",
        [run, run],
    ).fetchall()
    delete_rows(connection, link, "run = ?", [run])
    among, ids = "IN (SELECT unnest(?::VARCHAR[]))", [[identity for (identity,) in rows]]
    counts = {}
    if things == "verdicts":
        counts["judgings"] = delete_rows(connection, "judgings", f"verdict_id {among}", ids)
    if things == "labels":
        listed = "SELECT id, unnest(from_json(label_ids, '[\"VARCHAR\"]')) AS label FROM labelings"
        removed = f"SELECT id FROM ({listed}) WHERE label {among}"
        counts["labelings"] = delete_rows(connection, "labelings", f"id IN ({removed})", ids)
    connection.execute(f"DELETE FROM imported WHERE things = ? AND id {among}", [things, *ids])
    return counts | {things: delete_rows(connection, things, f"id {among}", ids)}


def _remove_unused_circuit(connection: Connection, circuit_id: str) -> dict[str, int]:
    """Remove a circuit that nothing uses any more, or else rewrite its fingerprints."""
    number = number_of(connection, "circuits", circuit_id)
    (n_uses,) = connection.execute(
        "SELECT count(*) FROM runs WHERE circuit_id = ?", [circuit_id]
    ).fetchone()
    for table in ("evidence", "labels", "verdicts"):
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE circuit = ?", [number])
        n_uses += row.fetchone()[0]
    low, high = keys_of(number)
    delete_rows(connection, "fingerprints", "key >= ? AND key < ?", [low, high])
    if not n_uses:
        connection.execute(
            "DELETE FROM imported WHERE things = 'circuits' AND id = ?", [circuit_id]
        )
        return remove_circuit(connection, number)
    index_circuit(connection, circuit_id)
    return {}
