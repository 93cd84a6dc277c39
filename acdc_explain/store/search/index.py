"""The tables that searches read, derived from the records: standings and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ...records.circuit import Node
from ...records.evidence import Evidence
from ...records.verdict import WORST_FIRST
from ..duck.connection import Connection
from ..tables.keys import keys_of, node_key
from ..tables.rows import Row, append, number_of
from .fingerprint import Measure, fingerprint, sign

LABEL_COLUMNS = ("role", "outcome", "confidence", "description")  # of standings
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
"""A run's labels, each with the worst of its verdicts."""

EVIDENCE = """
    WITH stored AS (
        SELECT evidence.id, node, facts, imported.id IS NULL AS local
        FROM evidence LEFT JOIN (SELECT id FROM imported WHERE things = 'evidence'
            AND number = $circuit) AS imported ON imported.id = evidence.id
        WHERE circuit = $circuit AND node IN (SELECT unnest($nodes::VARCHAR[])))
    SELECT node, facts FROM stored
    QUALIFY local OR NOT bool_or(local) OVER (PARTITION BY node) ORDER BY id
"""
"""Of each node the local evidence; what was imported only where there is no other."""


def index_run(connection: Connection, run_id: str) -> None:
    """Rewrite a run's standings: a row for every label of a node, or one without a role."""
    row = connection.execute(
        "SELECT runs.number, circuits.number, circuits.n_layers FROM runs "
        "JOIN circuits ON circuits.id = runs.circuit_id WHERE runs.id = ?",
        [run_id],
    ).fetchone()
    if row is None:  # it has no circuit yet
        return
    run, circuit, n_layers = row
    between = dict(zip(("low", "high"), keys_of(circuit)))
    names = connection.execute(
        "SELECT DISTINCT node FROM nodes WHERE key >= $low AND key < $high", between
    ).fetchall()
    signs = dict(
        connection.execute(
            "SELECT node, sign FROM fingerprints WHERE key >= $low AND key < $high", between
        ).fetchall()
    )
    labels: dict[Node, list[Row]] = {Node.parse(name).base: [] for (name,) in names}
    for name, *label in connection.execute(LABELS, {"run": run, "circuit": circuit}).fetchall():
        labels.setdefault(Node.parse(name).base, []).append(dict(zip(LABEL_COLUMNS, label)))
    last_layer = max((node.layer or 0 for node in labels), default=0)
    last_layer = last_layer if n_layers is None else n_layers - 1
    for derived in ("standings", "enrichments"):
        connection.execute(f"DELETE FROM {derived} WHERE run = ?", [run])
    standings = [
        {"run": run, "key": node_key(circuit, node), "node": str(node), "kind": node.kind,
         "layer": node.layer, "depth": _depth(node, last_layer), "sign": signs.get(str(node)),
         **label}
        for node, labels_of_node in labels.items()
        for label in labels_of_node or [dict.fromkeys(LABEL_COLUMNS)]
    ]  # fmt: skip
    append(connection, "standings", standings)


def _depth(node: Node, last_layer: int) -> float:
    """0 for the first layer and the input, 1 for the last layer and the logits."""
    if node.layer is None:
        return float(node.kind == "logits")
    return node.layer / last_layer if last_layer > 0 else 0.0


def index_evidence(connection: Connection, evidence: Sequence[Evidence]) -> None:
    """Rewrite the fingerprints of all nodes with new evidence."""
    for circuit_id in dict.fromkeys(item.circuit_id for item in evidence):
        index_nodes(connection, circuit_id, {item.node for item in evidence})


def index_nodes(connection: Connection, circuit_id: str, nodes: Iterable[Node]) -> None:
    """Rewrite the fingerprints of some nodes of a circuit, from all stored evidence.

    Imported evidence counts only where nothing was measured here.
    """
    number = number_of(connection, "circuits", circuit_id)
    by_name = {str(node): node for node in nodes}
    measures: dict[str, dict[str, Measure]] = {name: {} for name in by_name}
    for name, facts in connection.execute(
        EVIDENCE, {"circuit": number, "nodes": list(by_name)}
    ).fetchall():
        measures[name].update(_measures(facts))
    (model_id,) = connection.execute(
        "SELECT model_id FROM circuits WHERE number = ?", [number]
    ).fetchone()
    keys = {name: node_key(number, node) for name, node in by_name.items()}
    connection.execute(
        "DELETE FROM fingerprints WHERE key IN (SELECT unnest(?::BIGINT[]))", [list(keys.values())]
    )
    fingerprints = [
        {
            "key": keys[name],
            "node": name,
            "kind": node.kind,
            "model_id": model_id,
            "sign": sign(measures[name]),
            "vector": fingerprint(node.kind, measures[name]),
        }
        for name, node in by_name.items()
    ]
    append(connection, "fingerprints", fingerprints)


def _measures(text: str) -> dict[str, Measure]:
    """The measures in the facts of evidence; what an import has in another form is left out."""
    facts = json.loads(text)
    measures = facts.get("measures") if isinstance(facts, dict) else None
    if not isinstance(measures, dict):
        return {}
    return {name: measure for name, measure in measures.items() if isinstance(measure, dict)}


def index_circuit(connection: Connection, circuit_id: str) -> None:
    """Rewrite the fingerprints of all nodes of a circuit that have evidence."""
    number = number_of(connection, "circuits", circuit_id)
    rows = connection.execute("SELECT DISTINCT node FROM evidence WHERE circuit = ?", [number])
    index_nodes(connection, circuit_id, [Node.parse(name) for (name,) in rows.fetchall()])


def index_circuit_runs(connection: Connection, circuit_id: str) -> None:
    """Rewrite the standings of all runs of a circuit, whose number of layers may have changed."""
    runs = connection.execute("SELECT id FROM runs WHERE circuit_id = ?", [circuit_id]).fetchall()
    for (run_id,) in runs:
        index_run(connection, run_id)


def index_all(connection: Connection) -> None:
    """Write all standings and fingerprints, for a store from before there were any."""
    for (circuit_id,) in connection.execute("SELECT id FROM circuits").fetchall():
        index_circuit(connection, circuit_id)
    for (run_id,) in connection.execute("SELECT id FROM runs").fetchall():
        index_run(connection, run_id)
