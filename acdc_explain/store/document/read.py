"""Reading an exported document: ids are derived again, and references and numbers checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...errors import UserError
from ...ids import ID_LENGTH, canonical_json
from ...records.circuit import Circuit, Edge, Node
from ...records.claim import OUTCOMES, TOPICS, ClaimResult
from ...records.evidence import finite
from ...records.run.behavior import parse_behavior
from ...records.run.header import RunHeader
from ...records.run.run import Run
from ...records.task import Task
from ...records.verdict import WORST_FIRST, Verdict
from ..tables import codec
from .check import mistakes
from .write import SCHEMA, to_document

REQUIRED = (
    *("id", "task", "task_id", "model", "model_id", "status", "created_at", "seed"),
    *("settings", "versions"),
)
"""What the entry of a run must have; other values came later and may be missing."""
MATTERS = ("effect", "interval", "idle", "explained")
"""What the entry of a component says of how much it matters."""
LATER: Mapping[str, Any] = {"alternatives": {}, "n_layers": None}
"""Values of circuits that older documents do not have."""


def from_document(document: Any, where: str) -> Run:
    """Read an exported document, in which ids, references and numbers are checked.

    Args:
        document: What JSON gave.
        where: The name of the file, which becomes the origin of the run and begins error messages.

    Raises:
        UserError: It is not an exported run, or something in it is wrong or missing.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        schema = (
            document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        )
        raise UserError(
            f"{where} is no exported run: its schema is {schema!r} where {SCHEMA!r} is expected; "
            "write one with `acdc-explain export RUN`."
        )
    try:
        run = _read(document, f"{where}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        canonical_json(to_document(run))  # no value that JSON cannot hold
        _check(run)
        for mistake in mistakes(run, document):
            raise ValueError(mistake)
        return run
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} is no complete exported run ({type(error).__name__}: {error}); "
            "export it again with `acdc-explain export RUN`."
        ) from error


# --- checks of the values ----------------------------------------------------------------------


def _check(run: Run) -> None:
    """Check what the types of the records do not. Raises ValueError."""
    _check_header(run.header)
    if run.task is not None and run.task.id != run.header.task_id:
        raise ValueError("task: these are not the prompts that the run's task_id stands for")
    for verdict in run.verdicts:
        _check_verdict(verdict)
    for result in run.claims:
        _check_claim(result)
    for component in run.components:
        numbers = (component.effect, component.low, component.high)
        flags = (component.idle, component.explained)
        if any(finite(x) is None for x in numbers) or not all(type(x) is bool for x in flags):
            raise ValueError(f"{component.node}: effect and interval must be numbers")
    if run.circuit is not None:
        _check_circuit(run.circuit, run.header.seed)


def _check_header(header: RunHeader) -> None:
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


def _check_verdict(verdict: Verdict) -> None:
    if verdict.outcome not in WORST_FIRST:
        raise ValueError(f"there is no verdict {verdict.outcome!r}")
    numbers = (verdict.score, verdict.chance, verdict.percentile, verdict.low, verdict.high)
    if any(x is not None and finite(x) is None for x in numbers) or type(verdict.n) is not int:
        raise ValueError("verdict: score, chance, percentile, low, high and n must be numbers")
    texts = (verdict.reason, verdict.measure, verdict.unit)
    if not all(isinstance(text, str | None) for text in texts):
        raise ValueError("verdict: reason, measure and unit must be texts")


def _check_claim(result: ClaimResult) -> None:
    if result.outcome not in OUTCOMES or result.topic not in TOPICS:
        raise ValueError(f"there is no outcome {result.outcome!r} or topic {result.topic!r}")
    numbers = (result.value, result.low, result.high, result.chance, result.percentile)
    if any(x is not None and finite(x) is None for x in numbers) or type(result.n) is not int:
        raise ValueError("claim: value, interval, chance, percentile and n must be numbers")
    texts = (result.claim.name, result.text, result.unit, result.reason)
    if not all(isinstance(text, str) for text in texts) or type(result.specific) is not bool:
        raise ValueError("claim: its name, text, unit and reason must be texts")
    if not isinstance(result.claim.arguments, Mapping) or not isinstance(result.votes, Mapping):
        raise ValueError("claim: arguments and votes must be objects")


def _check_circuit(circuit: Circuit, seed: Any) -> None:
    measured = circuit.faithfulness
    numbers = [measured.clean, measured.circuit, measured.corrupt, seed]
    numbers += [circuit.seconds, circuit.forward_seconds, *(e.effect for e in circuit.edges)]
    if circuit.n_layers is not None:
        numbers.append(circuit.n_layers)
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("circuit: metric, seconds and effects must be numbers")


# --- from the document to records --------------------------------------------------------------


def _read(document: Mapping[str, Any], origin: str) -> Run:
    head = document["run"]
    circuit = _read_circuit(document["circuit"], head) if document["circuit"] else None
    header = codec.HEADER.decode(
        {
            **{key: head[key] for key in REQUIRED},
            "circuit_id": circuit.id if circuit else None,
            "origin": origin,
            "name": head.get("name"),
            "note": head.get("note"),
        }
    )
    evidence, labels, verdicts, failures = [], [], [], []
    claims, components = [], []
    for component in document["components"]:
        if circuit is None:
            raise ValueError("there are components without a circuit")
        place = {"circuit_id": circuit.id, "node": component["node"]}
        Node.parse(component["node"])  # it must be a node even if nothing is known of it
        evidence += [codec.EVIDENCE.decode({**x, **place}) for x in component["evidence"]]
        claims += [codec.CLAIM.decode({**_ends(x), **place}) for x in component.get("claims", ())]
        if "effect" in component:
            values = _ends({name: component.get(name) for name in MATTERS})
            components.append(codec.COMPONENT.decode({**values, "node": component["node"]}))
        if failure := component.get("failed"):
            failures.append(codec.FAILURE.decode({**failure, **place}))
        for entry in component["labels"]:
            label = codec.LABEL.decode({**entry, **place})
            labels.append(label)
            verdicts += [  # TypeError for one that names a label itself
                codec.VERDICT.decode(dict(**verdict, label_id=label.id))
                for verdict in entry["verdicts"]
            ]
    run = {"run_id": header.id, "circuit_id": header.circuit_id or ""}
    summary = document.get("summary")
    task = document.get("task")
    return Run(
        header,
        circuit,
        evidence,
        labels,
        verdicts,
        [codec.MOTIF.decode({**motif, **run}) for motif in document["motifs"]],
        [codec.EXCHANGE.decode(entry) for entry in document["exchanges"]["records"]],
        failures,
        None if summary is None else codec.SUMMARY.decode({**summary, **run}),
        behavior=parse_behavior(document.get("behavior") or {}),
        task=None if task is None else Task.parse(task),
        claims=claims,
        components=components,
        algorithm=[codec.STEP.decode(step) for step in document.get("algorithm", ())],
    )


def _ends(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with `low` and `high` in place of `interval`."""
    low, high = entry.get("interval") or (None, None)
    rest = {name: value for name, value in entry.items() if name != "interval"}
    return {**rest, "low": low, "high": high}


def _read_circuit(entry: Mapping[str, Any], head: Mapping[str, Any]) -> Circuit:
    metric = entry["metric"]
    edges = [Edge.parse(edge["edge"], edge["effect"], edge.get("share")) for edge in entry["edges"]]
    values = {
        **LATER,
        **entry,
        "task_id": head["task_id"],
        "model_id": head["model_id"],
        "metric": metric["name"],
        **{name: metric[name] for name in ("clean", "circuit", "corrupt")},
        "random": entry.get("random", {}).get("metric"),
    }
    return codec.to_circuit(values, edges)
