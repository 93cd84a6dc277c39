"""An exported document as a run: nothing it says of ids and references is believed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...errors import UserError
from ...ids import ID_LENGTH, canonical_json
from ...llm.exchange import Exchange
from ...records.circuit import Circuit, Edge, Faithfulness, Node
from ...records.evidence import Evidence, finite
from ...records.label import Failure, Label
from ...records.run.behavior import parse_behavior
from ...records.run.header import RunHeader
from ...records.run.motif import Motif
from ...records.run.run import Run, to_sentences
from ...records.run.summary import Summary
from ...records.task import Task
from ...records.verdict import WORST_FIRST, Verdict
from .check import mistakes
from .write import SCHEMA, to_document

REQUIRED = (
    *("id", "task", "task_id", "model", "model_id", "status", "created_at", "seed"),
    *("settings", "versions"),
)
"""What an exported run says of itself; other entries came later and may be missing."""


def from_document(document: Any, where: str) -> Run:
    """The run in an exported document, with its origin. Raises UserError that begins with `where`.

    Nothing that the document says of ids and references is believed; numbers must be.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        raise UserError(
            f"{where} is no exported run: its schema is {found!r} where {SCHEMA!r} is expected; "
            "write one with `acdc-explain export RUN`."
        )
    try:
        run = _read(document, f"{where}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        canonical_json(to_document(run))  # no value that JSON cannot hold
        _check(run)
        for wrong in mistakes(run, document):
            raise ValueError(wrong)
        return run
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} is no complete exported run ({type(error).__name__}: {error}); "
            "export it again with `acdc-explain export RUN`."
        ) from error


def _check(run: Run) -> None:
    """What the types cannot say. Raises ValueError."""
    header = run.header
    texts = (header.id, header.task, header.model, header.task_id, header.model_id)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("run: id, task and model must be texts")
    if not re.fullmatch(f"[0-9a-f]{{{ID_LENGTH}}}", header.id):
        raise ValueError(f"{header.id[:40]!r} is no id of a run")
    if not isinstance(header.settings, Mapping) or not isinstance(header.versions, Mapping):
        raise ValueError("run: settings and versions must be objects")
    if not all(text is None or isinstance(text, str) for text in (header.name, header.note)):
        raise ValueError("run: name and note must be texts")
    datetime.fromisoformat(header.created_at)
    if run.task is not None and run.task.id != header.task_id:
        raise ValueError("task: these are not the prompts that the run's task_id stands for")
    for verdict in run.verdicts:
        if verdict.outcome not in WORST_FIRST:
            raise ValueError(f"there is no verdict {verdict.outcome!r}")
        told = (verdict.score, verdict.chance, verdict.percentile, verdict.low, verdict.high)
        if any(x is not None and finite(x) is None for x in told) or type(verdict.n) is not int:
            raise ValueError("verdict: score, chance, percentile, low, high and n must be numbers")
        if not all(
            isinstance(x, str | None) for x in (verdict.reason, verdict.measure, verdict.unit)
        ):
            raise ValueError("verdict: reason, measure and unit must be texts")
    if run.circuit is not None:
        found = run.circuit.faithfulness
        numbers = [found.clean, found.circuit, found.corrupt, run.circuit.seconds]
        numbers += [
            run.circuit.forward_seconds,
            header.seed,
            *(e.effect for e in run.circuit.edges),
        ]
        if run.circuit.n_layers is not None:
            numbers.append(run.circuit.n_layers)
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError("circuit: metric, seconds and effects must be numbers")


def _read(document: Mapping[str, Any], origin: str) -> Run:
    head = document["run"]
    circuit = _read_circuit(document["circuit"], head) if document["circuit"] else None
    header = RunHeader(
        circuit_id=circuit.id if circuit else None,
        origin=origin,
        name=head.get("name"),
        note=head.get("note"),
        **{key: head[key] for key in REQUIRED},
    )
    evidence, labels, verdicts, failures = [], [], [], []
    for component in document["components"]:
        if circuit is None:
            raise ValueError("there are components without a circuit")
        node = Node.parse(component["node"])
        for e in component["evidence"]:
            evidence.append(Evidence(circuit.id, node, e["collector"], e["settings"], e["facts"]))
        if failed := component.get("failed"):
            failures.append(Failure(node, failed["labeler"], failed["reason"]))
        for entry in component["labels"]:
            label = Label(
                circuit_id=circuit.id,
                node=node,
                labeler=entry["labeler"],
                role=entry["role"],
                positions=tuple(entry["positions"]),
                description=entry["description"],
                confidence=entry["confidence"],
                evidence_ids=tuple(entry["evidence_ids"]),
                exchange_id=entry["exchange_id"],
            )
            labels.append(label)
            verdicts += [Verdict(label_id=label.id, **verdict) for verdict in entry["verdicts"]]
    motifs = [
        Motif(
            m["pattern"],
            header.id,
            header.circuit_id or "",
            {step: Node.parse(name) for step, name in m["nodes"].items()},
        )
        for m in document["motifs"]
    ]
    exchanges = [Exchange(**entry) for entry in document["exchanges"]["records"]]
    summary = _read_summary(document.get("summary"), header.id)
    behavior = parse_behavior(document.get("behavior") or {})
    task = document.get("task")
    return Run(
        header,
        circuit,
        evidence,
        labels,
        verdicts,
        motifs,
        exchanges,
        failures,
        summary,
        behavior=behavior,
        task=None if task is None else Task.parse(task),
    )


def _read_summary(entry: Mapping[str, Any] | None, run_id: str) -> Summary | None:
    if entry is None:
        return None
    sentences = to_sentences(entry["sentences"])
    return Summary(run_id, entry["labeler"], sentences, entry["exchange_id"])


def _read_circuit(entry: Mapping[str, Any], head: Mapping[str, Any]) -> Circuit:
    metric = entry["metric"]
    return Circuit(
        task_id=head["task_id"],
        model_id=head["model_id"],
        discoverer=entry["discoverer"],
        settings=entry["settings"],
        edges=tuple(Edge.parse(e["edge"], e["effect"], e.get("share")) for e in entry["edges"]),
        n_edges_total=entry["n_edges_total"],
        n_edges_tested=entry["n_edges_tested"],
        faithfulness=Faithfulness(
            metric["name"],
            metric["clean"],
            metric["circuit"],
            metric["corrupt"],
            entry.get("random", {}).get("metric"),
        ),
        seconds=entry["seconds"],
        forward_seconds=entry["forward_seconds"],
        alternatives={Edge.parse(e): share for e, share in entry.get("alternatives", {}).items()},
        n_layers=entry.get("n_layers"),
    )
