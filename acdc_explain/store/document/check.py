"""Checks of an exported run before it is imported: all that `verify` checks of a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...records.circuit import Node
from ...records.run.header import RunHeader, run_id
from ...records.run.run import Run

STATUSES = ("unfinished", "incomplete", "done")


def derived_id(header: RunHeader) -> str:
    """The id that follows from the content. Raises KeyError if `versions` lacks the program's."""
    return run_id(header.task_id, header.model_id, header.settings, header.versions)


def mistakes(run: Run, document: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong in an exported run, a sentence each.

    `document`: what the run was read from, with the ids that it gives its records.
    """
    header, circuit = run.header, run.circuit
    if header.id != derived_id(header):
        yield f"run {header.id} has the id {derived_id(header)} by its task, model and settings"
    if header.status not in STATUSES:
        yield f"there is no status {header.status!r}"
    if circuit is not None:
        entry = document["circuit"]
        yield from _wrong_names("circuit", [circuit.id], [entry["id"]])
        yield from _wrong_names("nodes of the circuit", map(str, circuit.nodes), entry["nodes"])
    components = document["components"]
    for things, records in (("evidence", run.evidence), ("labels", run.labels)):
        yield from _wrong_names(
            things,
            (record.id for record in records),
            [entry["id"] for component in components for entry in component[things]],
        )
    yield from _unknown_node(run)
    yield from _missing_record(run)


def _wrong_names(things: str, derived: Iterable[str], given: Sequence[str]) -> Iterator[str]:
    """The ids or names in a document must be those that follow from its content, each once."""
    correct = list(derived)
    if sorted(correct) != sorted(map(str, given)):
        wrong = next((name for name in given if name not in correct), next(iter(given), None))
        yield f"{things}: {str(wrong)[:40]!r} is not what the content says"
    elif len(set(correct)) != len(correct):
        yield f"{things}: one is there twice"


def _unknown_node(run: Run) -> Iterator[str]:
    """All records must be about nodes of the circuit."""
    nodes = {node.base for node in run.circuit.nodes} if run.circuit else set()
    for node in _nodes_of_records(run):
        if node.base not in nodes:
            yield f"{node} is no node of the circuit"
            return


def _nodes_of_records(run: Run) -> Iterator[Node]:
    yield from (evidence.node for evidence in run.evidence)
    yield from (label.node for label in run.labels)
    yield from (failure.node for failure in run.failures)
    yield from (result.node for result in run.claims)
    yield from (result.node for result in run.components)
    yield from (node for motif in run.motifs for node in motif.nodes.values())
    if run.summary is not None:
        yield from (node for sentence in run.summary.sentences for node in sentence.nodes)


def _missing_record(run: Run) -> Iterator[str]:
    """Every reference must lead to a record of the document."""
    exchanges, evidence = {x.id for x in run.exchanges}, {e.id for e in run.evidence}
    exchange_ids = [label.exchange_id for label in run.labels]
    exchange_ids += [run.summary.exchange_id] if run.summary else []
    for identity in exchange_ids:
        if identity is not None and identity not in exchanges:
            yield f"the exchange {identity[:40]!r} is not there"
            return
    tested = {result.claim.id for result in run.claims}
    cited = [("step", name) for step in run.algorithm for name in step.claims]
    sentences = run.summary.sentences if run.summary else ()
    cited += [("sentence", name) for sentence in sentences for name in sentence.claims]
    for what, identity in cited:
        if identity not in tested:
            yield f"the claim {str(identity)[:40]!r} of a {what} is not there"
            return
    for label in run.labels:
        for identity in label.evidence_ids:
            if identity not in evidence:
                yield f"the evidence {identity[:40]!r} of a label is not there"
                return
