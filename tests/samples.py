"""Records for tests of what stores and shows them."""

from __future__ import annotations

import pickle
from pathlib import Path

from acdc_explain.llm.exchange import Exchange
from acdc_explain.records.circuit import Circuit, Edge, Faithfulness, Node
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.label import Failure, Label
from acdc_explain.records.run.header import RunHeader, run_id
from acdc_explain.records.run.motif import Motif
from acdc_explain.records.run.run import Run
from acdc_explain.records.run.summary import Sentence, Summary
from acdc_explain.records.verdict import Outcome, Verdict
from acdc_explain.store.store import Store

EDGES = (
    "a0.h1->a1.h0<k>",
    "input->a0.h1<v>",
    "a1.h0->m1",
    "m1->a2.h1<q>",
    "a1.h0->a2.h1<v>",
    "a2.h1->logits",
)
ROLES = {"a0.h1": "previous_token", "a1.h0": "induction", "a2.h1": "name_mover", "m1": "other"}


def make_run(
    task: str = "ioi",
    model: str = "mini",
    *,
    edges: tuple[str, ...] = EDGES,
    roles: dict[str, str] = ROLES,
    outcome: Outcome = "supported",
    created: str = "2026-01-02T03:04:05Z",
) -> Run:
    circuit = Circuit(
        task_id=f"{task}-id",
        model_id=f"{model}@1",
        discoverer="acdc",
        settings={"tau": 0.1, "metric": "logit_diff"},
        edges=tuple(
            Edge.parse(name, 0.1 * place, 0.5 if place else None)
            for place, name in enumerate(edges)
        ),
        n_edges_total=100,
        n_edges_tested=60,
        faithfulness=Faithfulness("logit_diff", 3.0, 2.5, -0.5, -0.25),
        seconds=1.5,
        forward_seconds=0.01,
        alternatives={Edge.parse("input->m0"): 0.25},
    )
    evidence, labels, verdicts = [], [], []
    exchange = Exchange("describe", "llm", "What is it?", '{"role": 1}', None, 10, 5, 0.5, "r1")
    for name, role in roles.items():
        node = Node.parse(name)
        facts = {"measures": {"copying": {"value": 0.5, "percentile": 0.9}}, "text": "<b>é\n"}
        found = Evidence(circuit.id, node, "weights", {}, facts)
        label = Label(
            circuit.id, node, "rules", role, ("END",), f"Head that is {role}.", 0.9,
            (found.id,), exchange.id,
        )  # fmt: skip
        evidence.append(found)
        labels.append(label)
        verdicts.append(Verdict(label.id, "role_card", outcome, 0.8, 0.1, 0.99, 32, "holds"))
    asked = {"discoverer": "acdc", "labeler": "rules", "edges": list(edges)}
    header = RunHeader(
        id=run_id(circuit.task_id, circuit.model_id, asked, {"acdc-explain": "0.1.0"}),
        task=task,
        task_id=circuit.task_id,
        model=model,
        model_id=circuit.model_id,
        circuit_id=circuit.id,
        status="done",
        created_at=created,
        seed=0,
        settings=asked,
        versions={"python": "3.11", "acdc-explain": "0.1.0"},
    )
    motif = Motif("chain", header.id, circuit.id, {"induction": Node.parse("a1.h0")})
    nodes = (Node.parse("a1.h0"), Node.parse("m1"))
    summary = Summary(header.id, "rules", (Sentence("a1.h0 and m1 do it.", nodes),), exchange.id)
    failures = [Failure(Node.parse("m1"), "llm", "the reply is empty")]
    return Run(header, circuit, evidence, labels, verdicts, [motif], [exchange], failures, summary)


def whole_run(task: str = "ioi") -> Run:
    """A sample by its task alone."""
    return make_run(task)


_made: dict[bytes, bytes] = {}


def stored(path: Path, *runs: Run) -> Store:
    """A new store with these runs, in this order; made once, and copied for every other test."""
    key = pickle.dumps(runs)
    if key in _made:
        path.write_bytes(_made[key])
        return Store(path)
    store = Store(path)
    for run in runs:
        store.add_run(run)
    _made[key] = path.read_bytes()
    return store
