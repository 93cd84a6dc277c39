"""Taking a run out of an open store, with what no other run uses."""

from __future__ import annotations

from collections.abc import Mapping

from ..records.circuit import Node
from ..records.run.header import RunHeader
from .duck.connection import Connection
from .search.index import index_nodes
from .tables.rows import keys_of
from .tables.write import number_of, remove_circuit, removed

OF_RUN = ("motifs", "standings", "enrichments")  # by its number
BY_ID = ("failures", "summaries")
LINKED = {
    "verdicts": "verdict_id",
    "labels": "label_id",
    "evidence": "evidence_id",
    "exchanges": "exchange_id",
}
"""What runs share, with the column that links it; what others name comes after those others."""

NAMED_BY: Mapping[str, tuple[str, ...]] = {
    "verdicts": (),
    "labels": ("SELECT label_id FROM verdicts",),
    "evidence": ("SELECT unnest(from_json(evidence_ids, '[\"VARCHAR\"]')) FROM labels",),
    "exchanges": (
        "SELECT exchange_id FROM labels",
        "SELECT unnest(from_json(exchange_ids, '[\"VARCHAR\"]')) FROM labelings",
        "SELECT exchange_id FROM summaries",
    ),
}
"""Where else a record may be named than by a run."""


def remove_run(connection: Connection, header: RunHeader, *, task: bool = True) -> dict[str, int]:
    """Remove a run and the records that nothing else uses; how many rows of each table.

    `task`: its prompts too, if they are those of no other run.
    """
    number = number_of(connection, "runs", header.id)
    counts = {table: removed(connection, table, "run = ?", [number]) for table in OF_RUN}
    counts |= {table: removed(connection, table, "run_id = ?", [header.id]) for table in BY_ID}
    counts["runs"] = removed(connection, "runs", "number = ?", [number])
    for things in LINKED:
        counts[things] = _release(connection, things, number, counts)
    if header.circuit_id is not None:
        counts |= _circuit(connection, header.circuit_id)
    if task:
        used = "id IN (SELECT task_id FROM runs UNION ALL SELECT task_id FROM circuits)"
        counts["tasks"] = removed(connection, "tasks", f"id = ? AND NOT ({used})", [header.task_id])
    return {table: count for table, count in counts.items() if count}


def _release(connection: Connection, things: str, run: int, counts: dict[str, int]) -> int:
    """Remove the records of one kind that only this run was linked to."""
    column = LINKED[things]
    named = " ".join(
        f"AND id NOT IN (SELECT * FROM ({query}) AS named(id) WHERE id IS NOT NULL)"
        for query in NAMED_BY[things]
    )
    found = connection.execute(
        f"SELECT DISTINCT {column} AS id FROM run_{things} WHERE run = ? AND {column} NOT IN "
        f"(SELECT {column} FROM run_{things} WHERE run <> ?) {named}",
        [run, run],
    ).fetchall()
    removed(connection, f"run_{things}", "run = ?", [run])
    gone, ids = "IN (SELECT unnest(?::VARCHAR[]))", [[identity for (identity,) in found]]
    if things == "verdicts":
        counts["judgings"] = removed(connection, "judgings", f"verdict_id {gone}", ids)
    if things == "labels":
        listed = "SELECT id, unnest(from_json(label_ids, '[\"VARCHAR\"]')) AS label FROM labelings"
        lost = f"SELECT id FROM ({listed}) WHERE label {gone}"
        counts["labelings"] = removed(connection, "labelings", f"id IN ({lost})", ids)
    connection.execute(f"DELETE FROM imported WHERE things = ? AND id {gone}", [things, *ids])
    return removed(connection, things, f"id {gone}", ids)


def _circuit(connection: Connection, circuit_id: str) -> dict[str, int]:
    """Remove a circuit that no run has, or bring its fingerprints up to date."""
    number = number_of(connection, "circuits", circuit_id)
    among = dict(zip(("low", "high"), keys_of(number)))
    (used,) = connection.execute(
        "SELECT count(*) FROM runs WHERE circuit_id = ?", [circuit_id]
    ).fetchone()
    for table in ("evidence", "labels", "verdicts"):
        held = connection.execute(f"SELECT count(*) FROM {table} WHERE circuit = ?", [number])
        used += held.fetchone()[0]
    removed(connection, "fingerprints", "key >= $low AND key < $high", among)
    if not used:
        connection.execute(
            "DELETE FROM imported WHERE things = 'circuits' AND id = ?", [circuit_id]
        )
        return remove_circuit(connection, number)
    held = connection.execute("SELECT DISTINCT node FROM evidence WHERE circuit = ?", [number])
    index_nodes(connection, circuit_id, [Node.parse(name) for (name,) in held.fetchall()])
    return {}
