"""A run as the JSON document of the contract `acdc-explain/run/1`."""

from __future__ import annotations

from typing import Any

from ...ids import plain
from ...records.circuit import Circuit, Edge, Node
from ...records.label import Label
from ...records.run.run import WAITS, Run
from ...records.run.summary import Summary

SCHEMA = "acdc-explain/run/1"


def to_document(run: Run) -> dict[str, Any]:
    """The run as the JSON document of the contract `acdc-explain/run/1`."""
    header, circuit = run.header, run.circuit
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "run": {
            "id": header.id,
            "task": header.task,
            "model": header.model,
            "status": header.status,
            "created_at": header.created_at,
            "seed": header.seed,
            "settings": plain(header.settings),
            "versions": plain(header.versions),
            "task_id": header.task_id,
            "model_id": header.model_id,
            "origin": header.origin,
            "name": header.name,
            "note": header.note,
        },
        "behavior": plain(run.behavior),
        "task": None if run.task is None else plain(run.task),
        "circuit": None if circuit is None else circuit_document(circuit),
        "components": [_component(run, node) for node in (circuit.components if circuit else ())],
        "motifs": [{"pattern": m.pattern, "nodes": plain(m.nodes)} for m in run.motifs],
        "summary": None if run.summary is None else _summary(run.summary),
        "exchanges": _exchanges(run),
    }
    return document


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "labeler": summary.labeler,
        "sentences": plain(summary.sentences),
        "exchange_id": summary.exchange_id,
    }


def circuit_document(circuit: Circuit) -> dict[str, Any]:
    found = circuit.faithfulness
    return {
        "id": circuit.id,
        "discoverer": circuit.discoverer,
        "settings": plain(circuit.settings),
        "n_edges_total": circuit.n_edges_total,
        "n_edges_tested": circuit.n_edges_tested,
        "n_layers": circuit.n_layers,
        "nodes": [str(node) for node in circuit.nodes],
        "edges": [_edge(edge) for edge in circuit.edges],
        "alternatives": {str(edge): share for edge, share in circuit.alternatives.items()},
        "metric": {
            "name": found.metric,
            "clean": found.clean,
            "circuit": found.circuit,
            "corrupt": found.corrupt,
        },
        "faithfulness": found.share,
        "random": {"metric": found.random, "faithfulness": found.random_share},
        "seconds": circuit.seconds,
        "forward_seconds": circuit.forward_seconds,
    }


def _edge(edge: Edge) -> dict[str, Any]:
    entry: dict[str, Any] = {"edge": str(edge), "effect": edge.effect}
    return entry if edge.share is None else {**entry, "share": edge.share}


def _component(run: Run, node: Node) -> dict[str, Any]:
    failed = next((failure for failure in run.failures if failure.node == node), None)
    return {
        "node": str(node),
        "evidence": [
            {
                "id": evidence.id,
                "collector": evidence.collector,
                "settings": plain(evidence.settings),
                "facts": plain(evidence.facts),
            }
            for evidence in run.evidence
            if evidence.node == node
        ],
        "labels": [_label(run, label) for label in run.labels_of(node)],
        **({"failed": {"labeler": failed.labeler, "reason": failed.reason}} if failed else {}),
        **({"waiting": WAITS} if run.waits(node) else {}),
    }


def _label(run: Run, label: Label) -> dict[str, Any]:
    return {
        "id": label.id,
        "role": label.role,
        "labeler": label.labeler,
        "confidence": label.confidence,
        "description": label.description,
        "positions": list(label.positions),
        "evidence_ids": list(label.evidence_ids),
        "exchange_id": label.exchange_id,
        "verdicts": [
            {key: value for key, value in plain(verdict).items() if key != "label_id"}
            for verdict in run.verdicts_of(label)
        ],
    }


def _exchanges(run: Run) -> dict[str, Any]:
    exchanges = run.exchanges
    return {
        "n": len(exchanges),
        "failed": sum(exchange.error is not None for exchange in exchanges),
        "tokens_in": sum(exchange.tokens_in or 0 for exchange in exchanges),
        "tokens_out": sum(exchange.tokens_out or 0 for exchange in exchanges),
        "cost_usd": run.cost_usd,
        "records": [plain(exchange) for exchange in exchanges],
    }
