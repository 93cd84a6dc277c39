"""Each kind of record as named values, and back: the one form behind the tables and the document.

The order of the names is that of the exported document. Ids are left out: they follow from the
content. Values in `NESTED` are objects and lists, which a table keeps as JSON texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from ...llm.exchange import Exchange
from ...records.circuit import Circuit, Edge, Faithfulness, Node
from ...records.claim import Claim, ClaimResult, ComponentResult, Step
from ...records.evidence import Evidence
from ...records.label import Failure, Label
from ...records.run.header import RunHeader
from ...records.run.motif import Motif
from ...records.run.run import to_sentences
from ...records.run.summary import Summary
from ...records.verdict import Verdict

R = TypeVar("R")
Values = Mapping[str, Any]
NESTED = frozenset(
    {"settings", "versions", "alternatives", "facts", "positions", "evidence_ids", "nodes"}
    | {"sentences", "label_ids", "exchange_ids", "arguments", "votes", "also", "claims"}
)


@dataclass(frozen=True)
class Codec(Generic[R]):
    """How one kind of record is written as named values and read back.

    `names`: the values in their order, which are columns of `table`, too. `decode` raises
    KeyError, TypeError, ValueError or AttributeError for values that make no record.
    """

    table: str
    names: tuple[str, ...]
    encode: Callable[[R], dict[str, Any]]
    decode: Callable[[Values], R]


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


def _values(record: Any) -> dict[str, Any]:
    """The fields of a record that has no nodes."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _circuit_values(circuit: Circuit) -> dict[str, Any]:
    """All but the edges, which have rows of their own."""
    measured = circuit.faithfulness
    return {
        "task_id": circuit.task_id,
        "model_id": circuit.model_id,
        "discoverer": circuit.discoverer,
        "settings": circuit.settings,
        "n_edges_total": circuit.n_edges_total,
        "n_edges_tested": circuit.n_edges_tested,
        "n_layers": circuit.n_layers,
        "alternatives": {str(edge): share for edge, share in circuit.alternatives.items()},
        "metric": measured.metric,
        "clean": measured.clean,
        "circuit": measured.circuit,
        "corrupt": measured.corrupt,
        "random": measured.random,
        "seconds": circuit.seconds,
        "forward_seconds": circuit.forward_seconds,
    }


CIRCUIT_NAMES = (
    *("task_id", "model_id", "discoverer", "settings", "n_edges_total", "n_edges_tested"),
    *("n_layers", "alternatives", "metric", "clean", "circuit", "corrupt", "random"),
    *("seconds", "forward_seconds"),
)


def to_circuit(values: Values, edges: Iterable[Edge]) -> Circuit:
    """A circuit from its values and its edges, in order."""
    return Circuit(
        task_id=values["task_id"],
        model_id=values["model_id"],
        discoverer=values["discoverer"],
        settings=values["settings"],
        edges=tuple(edges),
        n_edges_total=values["n_edges_total"],
        n_edges_tested=values["n_edges_tested"],
        faithfulness=Faithfulness(
            *(values[name] for name in ("metric", "clean", "circuit", "corrupt", "random"))
        ),
        seconds=values["seconds"],
        forward_seconds=values["forward_seconds"],
        alternatives={Edge.parse(name): share for name, share in values["alternatives"].items()},
        n_layers=values["n_layers"],
    )


def _edge_values(edge: Edge) -> dict[str, Any]:
    """Token positions have columns of their own, so that patterns match nodes at all of them."""
    return {
        "src": str(edge.src.base),
        "dst": str(edge.dst.base),
        "port": edge.port,
        "effect": edge.effect,
        "src_place": edge.src.place,
        "dst_place": edge.dst.place,
        "share": edge.share,
    }


def _to_edge(values: Values) -> Edge:
    src = Node.parse(values["src"]).at(values["src_place"])
    dst = Node.parse(values["dst"]).at(values["dst_place"])
    return Edge(src, dst, values["port"], values["effect"], values["share"])


def _evidence_values(evidence: Evidence) -> dict[str, Any]:
    return {**_values(evidence), "node": str(evidence.node)}


def _to_evidence(values: Values) -> Evidence:
    return Evidence(
        circuit_id=values["circuit_id"],
        node=Node.parse(values["node"]),
        collector=values["collector"],
        settings=values["settings"],
        facts=values["facts"],
    )


LABEL_NAMES = (
    *("circuit_id", "node", "role", "labeler", "confidence", "description"),
    *("positions", "evidence_ids", "exchange_id", "claims"),
)


def _label_values(label: Label) -> dict[str, Any]:
    claims = [{"claim": claim.name, "arguments": claim.arguments} for claim in label.claims]
    values = {name: getattr(label, name) for name in LABEL_NAMES}
    return {**values, "node": str(label.node), "claims": claims}


def _to_label(values: Values) -> Label:
    node = Node.parse(values["node"])
    claims = values.get("claims") or ()  # older documents have none
    return Label(
        circuit_id=values["circuit_id"],
        node=node,
        labeler=values["labeler"],
        role=values["role"],
        positions=tuple(values["positions"]),
        description=values["description"],
        confidence=values["confidence"],
        evidence_ids=tuple(values["evidence_ids"]),
        exchange_id=values["exchange_id"],
        claims=tuple(Claim(node, entry["claim"], dict(entry["arguments"])) for entry in claims),
    )


CLAIM_NAMES = (
    *("node", "claim", "arguments", "text", "topic", "outcome", "value", "low", "high", "chance"),
    *("percentile", "unit", "n", "specific", "votes", "reason", "also"),
)


def _claim_values(result: ClaimResult) -> dict[str, Any]:
    claim = result.claim
    named = {"node": str(claim.node), "claim": claim.name, "arguments": claim.arguments}
    return named | {name: getattr(result, name) for name in CLAIM_NAMES[3:]}


def _to_claim(values: Values) -> ClaimResult:
    claim = Claim(Node.parse(values["node"]), values["claim"], values["arguments"])
    also = values.get("also", {})  # older documents have none
    return ClaimResult(claim, **{name: values[name] for name in CLAIM_NAMES[3:-1]}, also=also)


def _component_values(result: ComponentResult) -> dict[str, Any]:
    return {**_values(result), "node": str(result.node)}


def _to_component(values: Values) -> ComponentResult:
    return ComponentResult(**{**values, "node": Node.parse(values["node"])})


def _failure_values(failure: Failure) -> dict[str, Any]:
    return {**_values(failure), "node": str(failure.node)}


def _to_failure(values: Values) -> Failure:
    return Failure(Node.parse(values["node"]), values["labeler"], values["reason"])


def _to_motif(values: Values) -> Motif:
    nodes = {step: Node.parse(name) for step, name in values["nodes"].items()}
    return Motif(values["pattern"], values["run_id"], values["circuit_id"], nodes)


def _to_summary(values: Values) -> Summary:
    sentences = to_sentences(values["sentences"])
    return Summary(values["run_id"], values["labeler"], sentences, values["exchange_id"])


HEADER_NAMES = (
    *("id", "task", "model", "status", "created_at", "seed", "settings", "versions"),
    *("task_id", "model_id", "origin", "name", "note", "circuit_id"),
)


def _header_values(header: RunHeader) -> dict[str, Any]:
    return {name: getattr(header, name) for name in HEADER_NAMES}


HEADER = Codec("runs", HEADER_NAMES, _header_values, lambda values: RunHeader(**values))
CIRCUIT = Codec("circuits", CIRCUIT_NAMES, _circuit_values, lambda values: to_circuit(values, ()))
EDGE = Codec(
    "edges",
    ("src", "dst", "port", "effect", "src_place", "dst_place", "share"),
    _edge_values,
    _to_edge,
)
EVIDENCE = Codec("evidence", _names(Evidence), _evidence_values, _to_evidence)
LABEL = Codec("labels", LABEL_NAMES, _label_values, _to_label)
VERDICT = Codec("verdicts", _names(Verdict), _values, lambda values: Verdict(**values))
EXCHANGE = Codec("exchanges", _names(Exchange), _values, lambda values: Exchange(**values))
CLAIM = Codec("claims", CLAIM_NAMES, _claim_values, _to_claim)
STEP = Codec("steps", _names(Step), _values, lambda values: Step(**values))
COMPONENT = Codec("components", _names(ComponentResult), _component_values, _to_component)
FAILURE = Codec("failures", _names(Failure), _failure_values, _to_failure)
MOTIF = Codec("motifs", _names(Motif), _values, _to_motif)
SUMMARY = Codec("summaries", _names(Summary), _values, _to_summary)
