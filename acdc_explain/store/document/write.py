"""A run as the JSON document of the contract `acdc-explain/run/1`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from ...ids import plain
from ...records.circuit import Circuit, Edge, Node
from ...records.claim import ClaimResult, Coverage
from ...records.label import Label
from ...records.run.run import WAITS, Run
from ..tables import codec
from ..tables.codec import NESTED, Codec

SCHEMA = "acdc-explain/run/1"

R = TypeVar("R")


def to_document(run: Run) -> dict[str, Any]:
    """A run as an object of JSON types."""
    circuit = run.circuit
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "run": _entry(codec.HEADER, run.header, without={"circuit_id"}),
        "behavior": plain(run.behavior),
        "task": None if run.task is None else plain(run.task),
        "circuit": None if circuit is None else circuit_document(circuit, run.claims),
        "coverage": None if run.coverage is None else plain(_coverage(run.coverage)),
        "components": [_component(run, node) for node in (circuit.components if circuit else ())],
        "algorithm": [_entry(codec.STEP, step, without=()) for step in run.algorithm],
        "motifs": [_entry(codec.MOTIF, x, without={"run_id", "circuit_id"}) for x in run.motifs],
        "summary": run.summary and _entry(codec.SUMMARY, run.summary, without={"run_id"}),
        "exchanges": _exchanges(run),
    }
    return document


def _entry(kind: Codec[R], record: R, without: Iterable[str]) -> dict[str, Any]:
    """The values of a record but for those that follow from where the entry stands."""
    return {
        name: plain(value) if name in NESTED else value
        for name, value in kind.encode(record).items()
        if name not in without
    }


def circuit_document(circuit: Circuit, claims: Sequence[ClaimResult] = ()) -> dict[str, Any]:
    """The entry of a circuit, as an object of JSON types.

    `claims`: the tested claims of the run; those on an edge stand beside it.
    """
    values, measured = codec.CIRCUIT.encode(circuit), circuit.faithfulness
    first = ("discoverer", "settings", "n_edges_total", "n_edges_tested", "n_layers")
    return {
        "id": circuit.id,
        **{name: plain(values[name]) for name in first},
        "nodes": [str(node) for node in circuit.nodes],
        "edges": [_edge(edge, claims) for edge in circuit.edges],
        "alternatives": values["alternatives"],
        "metric": {
            "name": values["metric"],
            **{name: values[name] for name in ("clean", "circuit", "corrupt")},
        },
        "faithfulness": measured.share,
        "random": {"metric": values["random"], "faithfulness": measured.random_share},
        **{name: values[name] for name in ("seconds", "forward_seconds")},
    }


def _edge(edge: Edge, claims: Sequence[ClaimResult]) -> dict[str, Any]:
    entry: dict[str, Any] = {"edge": str(edge), "effect": edge.effect}
    if edge.share is not None:
        entry["share"] = edge.share
    about = [_claim(result) for result in claims if result.is_about(edge)]
    return {**entry, "claims": about} if about else entry


def _claim(result: ClaimResult) -> dict[str, Any]:
    entry = _entry(codec.CLAIM, result, without={"node"})
    return {"id": result.claim.id, **plain(_with_interval(entry))}


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {"components": coverage.components, "effect": coverage.effect, "idle": coverage.idle}


def _component(run: Run, node: Node) -> dict[str, Any]:
    belongs = {"circuit_id", "node"}
    failure = next((failure for failure in run.failures if failure.node == node), None)
    result = next((result for result in run.components if result.node == node), None)
    matters = {} if result is None else _entry(codec.COMPONENT, result, without={"node"})
    return {
        "node": str(node),
        **_with_interval(matters),
        "claims": [_claim(claim) for claim in run.claims_of(node)],
        "evidence": [
            {"id": evidence.id, **_entry(codec.EVIDENCE, evidence, without=belongs)}
            for evidence in run.evidence
            if evidence.node == node
        ],
        "labels": [_label(run, label) for label in run.labels_of(node)],
        **({"failed": _entry(codec.FAILURE, failure, without={"node"})} if failure else {}),
        **({"waiting": WAITS} if run.waits(node) else {}),
    }


def _with_interval(values: dict[str, Any]) -> dict[str, Any]:
    """The values with `interval` in place of `low` and `high`."""
    if not values:
        return {}
    low, high = values["low"], values["high"]
    rest = {name: value for name, value in values.items() if name not in ("low", "high")}
    return {**rest, "interval": None if low is None else [low, high]}


def _label(run: Run, label: Label) -> dict[str, Any]:
    return {
        "id": label.id,
        **_entry(codec.LABEL, label, without={"circuit_id", "node"}),
        "verdicts": [
            plain(_entry(codec.VERDICT, verdict, without={"label_id"}))
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
        "records": [plain(codec.EXCHANGE.encode(exchange)) for exchange in exchanges],
    }
