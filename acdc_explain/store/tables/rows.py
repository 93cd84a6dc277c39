"""Records as rows of the store's tables, and back.

`number` is the store's own number of the circuit or run that a record belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...ids import canonical_json
from ...llm.exchange import Exchange
from ...records.circuit import INPUT, LOGITS, Circuit, Edge, Faithfulness, Node
from ...records.evidence import Evidence
from ...records.label import Failure, Label, LabelResult
from ...records.run.header import RunHeader
from ...records.run.motif import Motif
from ...records.run.run import to_sentences
from ...records.run.summary import Summary
from ...records.verdict import Verdict

Row = tuple[Any, ...]


CIRCUIT_BITS = 32  # a key: the circuit's number, then the node's place in the forward pass
PLACE = (1 << CIRCUIT_BITS) - 1  # the bits of the place
FIRST, LAST = 0, (1 << 31) - 1  # the places of the input and of the logits
WIDTH = 4096  # places a layer: all of it, its heads, its MLP
MLP = WIDTH - 1


def keys_of(number: int) -> tuple[int, int]:
    """The least key of a circuit's nodes, and the least of the next circuit's."""
    return number << CIRCUIT_BITS, (number + 1) << CIRCUIT_BITS


def node_key(number: int, node: Node) -> int:
    """The key of a node, wherever it is read: sorts by circuit, then in the forward pass' order.

    No two nodes share one: circuit.py has the limits of layers and heads.
    """
    base = node.base
    if base == INPUT:
        place = FIRST
    elif base == LOGITS:
        place = LAST
    else:
        assert node.layer is not None
        within = {"attn": 0, "head": 1 + (node.head or 0), "mlp": MLP}[node.kind]
        place = (node.layer + 1) * WIDTH + within
    return (number << CIRCUIT_BITS) + place


def node_of(key: int) -> Node:
    """The node of a key."""
    place = key & PLACE
    if place == FIRST:
        return INPUT
    if place == LAST:
        return LOGITS
    layer, within = divmod(place, WIDTH)
    if within == MLP:
        return Node("mlp", layer - 1)
    return Node("attn", layer - 1) if within == 0 else Node("head", layer - 1, within - 1)


RUN_COLUMNS = (
    *("id", "task", "task_id", "model", "model_id", "circuit_id", "status", "created_at", "seed"),
    *("settings", "versions", "number", "origin", "name", "note"),
)


def run_row(header: RunHeader, number: int) -> tuple[Any, ...]:
    return (
        header.id,
        header.task,
        header.task_id,
        header.model,
        header.model_id,
        header.circuit_id,
        header.status,
        header.created_at,
        header.seed,
        canonical_json(header.settings),
        canonical_json(header.versions),
        number,
        header.origin,
        header.name,
        header.note,
    )


def to_header(row: Row) -> RunHeader:
    values = [*row[:9], *map(json.loads, row[9:11]), *row[11:]]
    return RunHeader(*values)


def circuit_row(circuit: Circuit, number: int) -> tuple[Any, ...]:
    found = circuit.faithfulness
    return (
        circuit.id,
        circuit.task_id,
        circuit.model_id,
        circuit.discoverer,
        canonical_json(circuit.settings),
        circuit.n_edges_total,
        circuit.n_edges_tested,
        found.metric,
        found.clean,
        found.circuit,
        found.corrupt,
        circuit.seconds,
        circuit.forward_seconds,
        found.random,
        canonical_json({str(edge): share for edge, share in circuit.alternatives.items()}),
        circuit.n_layers,
        number,
    )


def to_circuit(row: Row, edges: Sequence[Row]) -> Circuit:
    """From the circuit's row and the rows of its edges, in order."""
    return Circuit(
        task_id=row[1],
        model_id=row[2],
        discoverer=row[3],
        settings=json.loads(row[4]),
        edges=tuple(map(to_edge, edges)),
        n_edges_total=row[5],
        n_edges_tested=row[6],
        faithfulness=Faithfulness(row[7], row[8], row[9], row[10], row[13]),
        seconds=row[11],
        forward_seconds=row[12],
        alternatives={Edge.parse(name): share for name, share in json.loads(row[14]).items()},
        n_layers=row[15],
    )


def node_row(circuit_id: str, number: int, node: Node) -> tuple[Any, ...]:
    return circuit_id, str(node), node.kind, node.layer, node.head, node_key(number, node)


def edge_row(circuit_id: str, number: int, at: int, edge: Edge) -> tuple[Any, ...]:
    """Places have columns of their own, so that patterns match nodes wherever they are read."""
    return (
        circuit_id,
        at,
        str(edge.src.base),
        str(edge.dst.base),
        edge.port,
        edge.effect,
        edge.src.place,
        edge.dst.place,
        edge.share,
        node_key(number, edge.src),
        node_key(number, edge.dst),
    )


def to_edge(row: Sequence[Any]) -> Edge:
    _, _, src, dst, port, effect, src_place, dst_place, share = row[:9]
    return Edge(Node.parse(src).at(src_place), Node.parse(dst).at(dst_place), port, effect, share)


def evidence_row(evidence: Evidence, number: int | None) -> tuple[Any, ...]:
    return (
        evidence.id,
        evidence.circuit_id,
        str(evidence.node),
        evidence.collector,
        canonical_json(evidence.settings),
        canonical_json(evidence.facts),
        number,
    )


def to_evidence(row: Sequence[Any]) -> Evidence:
    return Evidence(row[1], Node.parse(row[2]), row[3], json.loads(row[4]), json.loads(row[5]))


def exchange_row(exchange: Exchange) -> tuple[Any, ...]:
    return (
        exchange.id,
        exchange.template,
        exchange.llm,
        exchange.prompt,
        exchange.reply,
        exchange.error,
        exchange.tokens_in,
        exchange.tokens_out,
        exchange.seconds,
        exchange.request_id,
        exchange.cost_usd,
    )


def to_exchange(row: Sequence[Any]) -> Exchange:
    return Exchange(*row[1:])


def label_row(label: Label, number: int | None) -> tuple[Any, ...]:
    return (
        label.id,
        label.circuit_id,
        str(label.node),
        label.labeler,
        label.role,
        canonical_json(label.positions),
        label.description,
        label.confidence,
        canonical_json(label.evidence_ids),
        label.exchange_id,
        number,
    )


def label_result_row(labeling: LabelResult, number: int | None) -> tuple[Any, ...]:
    first = labeling.labels[0]
    ids = canonical_json([label.id for label in labeling.labels])
    exchange_ids = canonical_json(labeling.exchange_ids)
    return (
        labeling.question_id,
        first.circuit_id,
        str(first.node),
        first.labeler,
        ids,
        exchange_ids,
        number,
    )


def failure_row(run_id: str, failure: Failure) -> tuple[Any, ...]:
    return run_id, str(failure.node), failure.labeler, failure.reason


def to_failure(row: Sequence[Any]) -> Failure:
    return Failure(Node.parse(row[1]), row[2], row[3])


def summary_row(summary: Summary) -> tuple[Any, ...]:
    sentences = canonical_json(summary.sentences)
    return summary.id, summary.run_id, summary.labeler, sentences, summary.exchange_id


def to_summary(row: Sequence[Any]) -> Summary:
    return Summary(row[1], row[2], to_sentences(json.loads(row[3])), row[4])


def to_label(row: Sequence[Any]) -> Label:
    return Label(
        circuit_id=row[1],
        node=Node.parse(row[2]),
        labeler=row[3],
        role=row[4],
        positions=tuple(json.loads(row[5])),
        description=row[6],
        confidence=row[7],
        evidence_ids=tuple(json.loads(row[8])),
        exchange_id=row[9],
    )


def verdict_row(verdict: Verdict, number: int | None) -> tuple[Any, ...]:
    return (
        verdict.id,
        verdict.label_id,
        verdict.judge,
        verdict.outcome,
        verdict.score,
        verdict.chance,
        verdict.percentile,
        verdict.n,
        verdict.reason,
        verdict.measure,
        verdict.unit,
        verdict.low,
        verdict.high,
        number,
    )


def motif_row(motif: Motif, number: int | None) -> tuple[Any, ...]:
    nodes = canonical_json(motif.nodes)
    return motif.id, motif.pattern, motif.run_id, motif.circuit_id, nodes, number


def to_verdict(row: Sequence[Any]) -> Verdict:
    return Verdict(*row[1:13])


def to_motif(row: Sequence[Any]) -> Motif:
    nodes = {step: Node.parse(name) for step, name in json.loads(row[4]).items()}
    return Motif(row[1], row[2], row[3], nodes)
