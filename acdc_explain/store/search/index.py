"""The tables that searches read, derived from the records: standings and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ...records.circuit import Node
from ...records.evidence import Evidence
from ...records.verdict import WORST_FIRST
from ..duck.connection import Connection
from ..tables.rows import keys_of, node_key
from ..tables.write import append, number_of
from .fingerprint import Measure, fingerprint, sign

LABELS = f"""
    WITH outcomes AS (
        SELECT label_id, arg_min(outcome, list_position({list(WORST_FIRST)}, outcome)) AS outcome
        FROM run_verdicts JOIN verdicts ON verdicts.id = run_verdicts.verdict_id
        WHERE run_verdicts.run = $run AND verdicts.circuit = $circuit GROUP BY label_id)
    SELECT labels.node, labels.role, outcomes.outcome, labels.confidence, labels.description
    FROM run_labels JOIN labels ON labels.id = run_labels.label_id
    LEFT JOIN outcomes ON outcomes.label_id = labels.id
    WHERE run_labels.run = $run AND labels.circuit = $circuit ORDER BY labels.id
"""
"""A run's labels, each with the worst of its verdicts: a contradicted label is downgraded."""


EVIDENCE = """
    WITH held AS (
        SELECT evidence.id, node, facts, imported.id IS NULL AS own
        FROM evidence LEFT JOIN (SELECT id FROM imported WHERE things = 'evidence'
            AND number = $circuit) AS imported ON imported.id = evidence.id
        WHERE circuit = $circuit AND node IN (SELECT unnest($nodes::VARCHAR[])))
    SELECT node, facts FROM held
    QUALIFY own OR NOT bool_or(own) OVER (PARTITION BY node) ORDER BY id
"""


def index_run(connection: Connection, run_id: str) -> None:
    """Write anew what a run says of each node: a row for every label, or one without a role."""
    row = connection.execute(
        "SELECT runs.number, circuits.number, circuits.n_layers FROM runs "
        "JOIN circuits ON circuits.id = runs.circuit_id WHERE runs.id = ?",
        [run_id],
    ).fetchone()
    if row is None:  # it has no circuit yet
        return
    run, circuit, n_layers = row
    among = dict(zip(("low", "high"), keys_of(circuit)))
    found = connection.execute(
        "SELECT DISTINCT node FROM nodes WHERE key >= $low AND key < $high", among
    ).fetchall()
    signs = dict(
        connection.execute(
            "SELECT node, sign FROM fingerprints WHERE key >= $low AND key < $high", among
        ).fetchall()
    )
    labeled: dict[Node, list[tuple[object, ...]]] = {Node.parse(n).base: [] for (n,) in found}
    for name, *label in connection.execute(LABELS, {"run": run, "circuit": circuit}).fetchall():
        labeled.setdefault(Node.parse(name).base, []).append(tuple(label))
    last = max((node.layer or 0 for node in labeled), default=0)
    last = last if n_layers is None else n_layers - 1
    for derived in ("standings", "enrichments"):
        connection.execute(f"DELETE FROM {derived} WHERE run = ?", [run])
    standings = [
        (run, node_key(circuit, node), str(node), node.kind, node.layer, _depth(node, last),
         signs.get(str(node)), *label)
        for node, labels in labeled.items()
        for label in labels or [(None, None, None, None)]
    ]  # fmt: skip
    append(connection, "standings", standings)


def _depth(node: Node, last: int) -> float:
    """0: the first layer and the input, 1: the last layer and the logits."""
    if node.layer is None:
        return float(node.kind == "logits")
    return node.layer / last if last > 0 else 0.0


def index_evidence(connection: Connection, evidence: Sequence[Evidence]) -> None:
    """Bring the fingerprints of all nodes with new evidence up to date."""
    for circuit_id in dict.fromkeys(item.circuit_id for item in evidence):
        index_nodes(connection, circuit_id, {item.node for item in evidence})


def index_nodes(connection: Connection, circuit_id: str, nodes: Iterable[Node]) -> None:
    """Write anew the fingerprints of some nodes of a circuit, from all evidence there is.

    What was imported counts only where nothing was measured here.
    """
    number = number_of(connection, "circuits", circuit_id)
    wanted = {str(node): node for node in nodes}
    measures: dict[str, dict[str, Measure]] = {name: {} for name in wanted}
    for name, facts in connection.execute(
        EVIDENCE,
        {"circuit": number, "nodes": list(wanted)},
    ).fetchall():
        measures[name].update(_measures(facts))
    (model_id,) = connection.execute(
        "SELECT model_id FROM circuits WHERE number = ?", [number]
    ).fetchone()
    keys = {name: node_key(number, node) for name, node in wanted.items()}
    connection.execute(
        "DELETE FROM fingerprints WHERE key IN (SELECT unnest(?::BIGINT[]))", [list(keys.values())]
    )
    new = [
        (
            keys[name],
            name,
            wanted[name].kind,
            model_id,
            sign(found),
            fingerprint(wanted[name].kind, found),
        )
        for name, found in measures.items()
    ]
    append(connection, "fingerprints", new)


def _measures(facts: str) -> dict[str, Measure]:
    """Evidence of others may hold anything: what does not read as measures is none."""
    found = json.loads(facts)
    held = found.get("measures") if isinstance(found, dict) else None
    if not isinstance(held, dict):
        return {}
    return {name: entry for name, entry in held.items() if isinstance(entry, dict)}


def index_all(connection: Connection) -> None:
    """Write every standing and fingerprint: for a store from before there were any."""
    circuits = connection.execute("SELECT id, number FROM circuits").fetchall()
    for circuit_id, number in circuits:
        held = connection.execute(
            "SELECT DISTINCT node FROM evidence WHERE circuit = ?", [number]
        ).fetchall()
        index_nodes(connection, circuit_id, [Node.parse(name) for (name,) in held])
    for (run_id,) in connection.execute("SELECT id FROM runs").fetchall():
        index_run(connection, run_id)
