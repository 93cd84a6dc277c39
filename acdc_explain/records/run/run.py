"""One run: what was asked, and everything found, as a record and as the exported document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ...errors import UserError
from ...ids import ID_LENGTH, canonical_json, plain
from ...llm.exchange import Exchange
from ..circuit import Circuit, Edge, Faithfulness, Node
from ..evidence import Evidence, finite
from ..label import Failure, Label
from ..task import Task
from ..verdict import WORST_FIRST, Verdict, worst
from .behavior import Behavior, parse_behavior
from .motif import Motif
from .summary import Sentence, Summary

SCHEMA = "acdc-explain/run/1"
WAITS = "no answer of the LLM yet"
REQUIRED = (
    *("id", "task", "task_id", "model", "model_id", "status", "created_at", "seed"),
    *("settings", "versions"),
)
"""What an exported run says of itself; other entries came later and may be missing."""


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What was asked for. The id is a hash of the task, the model and all settings."""

    id: str
    task: str
    task_id: str
    model: str
    model_id: str
    circuit_id: str | None
    status: str  # "unfinished"; "incomplete": not all labels could be had; "done"
    created_at: str  # UTC, ISO 8601
    seed: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    origin: str | None = None  # the file it was imported from and when; None: it was made here
    name: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run with everything the store holds of it."""

    header: RunHeader
    circuit: Circuit | None
    evidence: Sequence[Evidence]
    labels: Sequence[Label]
    verdicts: Sequence[Verdict]
    motifs: Sequence[Motif]
    exchanges: Sequence[Exchange]
    failures: Sequence[Failure] = ()
    summary: Summary | None = None
    reused: bool = False
    behavior: Mapping[str, Behavior] = field(default_factory=dict)  # by split; empty: not known
    task: Task | None = None
    set_aside: Sequence[str] = ()  # what plugins failed to do just now; it is not stored

    @property
    def id(self) -> str:
        return self.header.id

    def labels_of(self, node: Node) -> list[Label]:
        return [label for label in self.labels if label.node == node]

    def verdicts_of(self, label: Label) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.label_id == label.id]

    def failure_of(self, node: Node) -> str | None:
        """Why a node has no label."""
        return next((failure.reason for failure in self.failures if failure.node == node), None)

    def waits(self, node: Node) -> bool:
        """Whether an LLM has still to be asked about a node, now or by way of a batch file."""
        if self.header.status == "done" or self.labels_of(node) or self.failure_of(node):
            return False
        settings = self.header.settings.get("labeler_settings")
        return isinstance(settings, Mapping) and "llm_model" in settings

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for every label, and the verdict that counts."""
        import pandas

        columns = ["node", "role", "labeler", "confidence", "outcome", "score", "chance"]
        rows = []
        for label in self.labels:
            found = worst(self.verdicts_of(label))
            told = (found.outcome, found.score, found.chance) if found else (None,) * 3
            rows.append((str(label.node), label.role, label.labeler, label.confidence, *told))
        return pandas.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        """The circuit drawn with its roles, in a notebook."""
        from ...report.html import drawn

        return drawn(self.circuit, self) if self.circuit else f"run {self.id}: no circuit yet"

    @property
    def cost_usd(self) -> float | None:
        """What its exchanges cost, whichever run asked first; None if one's cost is not known."""
        answered = [x for x in self.exchanges if x.reply is not None or x.tokens_in]
        if any(exchange.cost_usd is None for exchange in answered):
            return None
        return sum(exchange.cost_usd or 0.0 for exchange in answered)


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


def from_document(document: Any, where: str) -> Run:
    """The run in an exported document, with its origin. Raises UserError that begins with `where`.

    Nothing that the document says of ids and references is believed; numbers must be.
    """
    from ...store.check import mistakes

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


def to_sentences(entries: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    return tuple(Sentence(e["text"], tuple(map(Node.parse, e["nodes"]))) for e in entries)


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
