"""Circuit -> evidence: every collector on every component, what the store holds already aside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..guard import until_fault
from ..labeling.checked import check_facts
from ..plugins import pick
from ..records.circuit import Circuit, Node
from ..records.evidence import Evidence
from ..store.buffer import WriteBuffer
from .context import RunContext


def collect(run: RunContext, circuit: Circuit) -> dict[Node, list[Evidence]]:
    """The evidence for every component of the circuit.

    What the store holds already is linked to the run at once; each new item is stored as soon as
    it is there.
    """
    evidence: dict[Node, list[Evidence]] = {node: [] for node in circuit.components}
    recorded = {
        name: {**settings, **run.plugins.code("register_collectors", name)}
        for name, settings in run.plan.collectors.items()
    }
    stored = {
        name: run.store.find_evidence(circuit.id, name, settings)
        for name, settings in recorded.items()
    }
    if any(stored.values()):
        run.writer.add_evidence([item for items in stored.values() for item in items])
    for name in run.plan.collectors:
        for item in (*stored[name], *_new(run, circuit, name, recorded[name], stored[name])):
            evidence[item.node].append(item)
    return evidence


def _new(
    run: RunContext,
    circuit: Circuit,
    name: str,
    recorded: Mapping[str, Any],
    stored: Sequence[Evidence],
) -> Iterator[Evidence]:
    """What a collector measures now, on the components without stored evidence of it."""
    done, total = len(stored), len(circuit.components)
    run.progress(name, done, total)
    measured = {item.node for item in stored}
    missing = [node for node in circuit.components if node not in measured]
    if not missing:
        return
    with WriteBuffer(run.writer.add_evidence) as buffer:
        for node, facts in _measure(run, name, missing):
            item = Evidence(circuit.id, node, name, recorded, facts)
            buffer.put(item)
            done += 1
            run.progress(name, done, total, str(node))
            yield item


def _measure(
    run: RunContext, name: str, nodes: Sequence[Node]
) -> Iterator[tuple[Node, dict[str, Any]]]:
    """What a collector yields, checked; up to its first fault, which is noted in `set_aside`."""
    settings = run.plan.collectors[name]
    collector, contrast = pick("collector", run.plugins.collectors(), name), run.contrast

    def checked_facts() -> Iterator[tuple[Node, dict[str, Any]]]:
        for item in collector(contrast, nodes, **settings):
            yield check_facts(item, nodes)

    return until_fault(checked_facts, run.name_of("collector", name), run.set_aside.append)
