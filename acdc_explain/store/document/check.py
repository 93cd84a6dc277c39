"""An exported run before it is imported: all that `verify` checks of a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...records.run.header import RunHeader, run_id
from ...records.run.run import Run

STATUSES = ("unfinished", "incomplete", "done")


def derived_id(header: RunHeader) -> str:
    """The id that a run must have: what was asked of which version. Raises KeyError."""
    return run_id(header.task_id, header.model_id, header.settings, header.versions)


def mistakes(run: Run, document: Mapping[str, Any]) -> Iterator[str]:
    """What an exported run says of itself that is not so, a sentence each.

    `document`: the one that the run was read from, whose ids are not believed.
    """
    header, circuit = run.header, run.circuit
    if header.id != derived_id(header):
        yield f"run {header.id} has the id {derived_id(header)} by its task, model and settings"
    if header.status not in STATUSES:
        yield f"there is no status {header.status!r}"
    if circuit is not None:
        told = document["circuit"]
        yield from _told("circuit", [circuit.id], [told["id"]])
        yield from _told("nodes of the circuit", map(str, circuit.nodes), told["nodes"])
    entries = document["components"]
    for what, records in (("evidence", run.evidence), ("labels", run.labels)):
        yield from _told(
            what,
            (record.id for record in records),
            [one["id"] for entry in entries for one in entry[what]],
        )
    yield from _strange_nodes(run)
    yield from _lost(run)


def _told(what: str, derived: Iterable[str], told: Sequence[str]) -> Iterator[str]:
    """Ids must be those of the content, each once."""
    own = list(derived)
    if sorted(own) != sorted(map(str, told)):
        wrong = next((x for x in told if x not in own), next(iter(told), None))
        yield f"{what}: {str(wrong)[:40]!r} is not what the content says"
    elif len(set(own)) != len(own):
        yield f"{what}: one is there twice"


def _strange_nodes(run: Run) -> Iterator[str]:
    """Everything is about nodes of the circuit."""
    circuit = run.circuit
    held = {node.base for node in circuit.nodes} if circuit else set()
    spoken = [evidence.node for evidence in run.evidence]
    spoken += [label.node for label in run.labels]
    spoken += [failure.node for failure in run.failures]
    spoken += [node for motif in run.motifs for node in motif.nodes.values()]
    sentences = run.summary.sentences if run.summary else ()
    spoken += [node for sentence in sentences for node in sentence.nodes]
    for node in spoken:
        if node.base not in held:
            yield f"{node} is no node of the circuit"
            return


def _lost(run: Run) -> Iterator[str]:
    """Every reference leads to a record of the document."""
    exchanges, evidence = {x.id for x in run.exchanges}, {e.id for e in run.evidence}
    named = [label.exchange_id for label in run.labels]
    named += [run.summary.exchange_id] if run.summary else []
    for identity in named:
        if identity is not None and identity not in exchanges:
            yield f"the exchange {identity[:40]!r} is not there"
            return
    for label in run.labels:
        for identity in label.evidence_ids:
            if identity not in evidence:
                yield f"the evidence {identity[:40]!r} of a label is not there"
                return
