"""Records as rows of the store's tables, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .circuit import Edge, Node
from .evidence import Evidence
from .exchange import Exchange
from .ids import canonical_json
from .label import Failure, Label, Labeling
from .motif import Motif
from .run import RunHeader, to_sentences
from .summary import Summary
from .task import Example, Task
from .verdict import Verdict

Row = tuple[Any, ...]


def run_row(header: RunHeader) -> tuple[Any, ...]:
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
    )


def to_header(row: Row) -> RunHeader:
    values = [*row[:9], *map(json.loads, row[9:])]
    return RunHeader(*values)


def edge_row(circuit_id: str, number: int, edge: Edge) -> tuple[Any, ...]:
    """Places have columns of their own, so that patterns match nodes wherever they are read."""
    return (
        circuit_id,
        number,
        str(edge.src.base),
        str(edge.dst.base),
        edge.port,
        edge.effect,
        edge.src.place,
        edge.dst.place,
        edge.share,
    )


def to_edge(row: Sequence[Any]) -> Edge:
    _, _, src, dst, port, effect, src_place, dst_place, share = row
    return Edge(Node.parse(src).at(src_place), Node.parse(dst).at(dst_place), port, effect, share)


def evidence_row(evidence: Evidence) -> tuple[Any, ...]:
    return (
        evidence.id,
        evidence.circuit_id,
        str(evidence.node),
        evidence.collector,
        canonical_json(evidence.settings),
        canonical_json(evidence.facts),
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


def label_row(label: Label) -> tuple[Any, ...]:
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
    )


def labeling_row(labeling: Labeling) -> tuple[Any, ...]:
    first = labeling.labels[0]
    ids = canonical_json([label.id for label in labeling.labels])
    exchange_ids = canonical_json(labeling.exchange_ids)
    return labeling.question_id, first.circuit_id, str(first.node), first.labeler, ids, exchange_ids


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


def verdict_row(verdict: Verdict) -> tuple[Any, ...]:
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
    )


def motif_row(motif: Motif) -> tuple[Any, ...]:
    nodes = canonical_json(motif.nodes)
    return motif.id, motif.pattern, motif.run_id, motif.circuit_id, nodes


def to_motif(row: Sequence[Any]) -> Motif:
    nodes = {step: Node.parse(name) for step, name in json.loads(row[4]).items()}
    return Motif(row[1], row[2], row[3], nodes)


def to_task(body: Mapping[str, Any]) -> Task:
    def examples(entries: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
        return tuple(
            Example(
                e["clean"], e["corrupt"], tuple(e["answers"]), tuple(e["foils"]), e["positions"]
            )
            for e in entries
        )

    return Task(
        name=body["name"],
        description=body["description"],
        metric=body["metric"],
        discover=examples(body["discover"]),
        held_out=examples(body["held_out"]),
        schemes={name: tuple(prompts) for name, prompts in body["schemes"].items()},
    )
