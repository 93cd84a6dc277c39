"""Circuit -> evidence: every collector on every component, what the store holds already aside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..guard import until_fault
from ..labeling import checked
from ..plugins import pick
from ..records.circuit import Circuit, Node
from ..records.evidence import Evidence
from ..store.buffer import WriteBuffer
from .context import RunContext


def collect(run: RunContext, circuit: Circuit) -> dict[Node, list[Evidence]]:
    """The evidence for every component of the circuit."""
    evidence: dict[Node, list[Evidence]] = {node: [] for node in circuit.components}
    for name, settings in run.plan.collectors.items():
        for item in _by_collector(run, circuit, name, settings):
            evidence[item.node].append(item)
    return evidence


def _by_collector(
    run: RunContext, circuit: Circuit, name: str, settings: Mapping[str, Any]
) -> Iterator[Evidence]:
    """The evidence of one collector; each new item is stored as soon as it is there."""
    recorded = {**settings, **run.plugins.code("register_collectors", name)}
    stored = run.store.find_evidence(circuit.id, name, recorded)
    yield from stored
    done, total = len(stored), len(circuit.components)
    run.progress(name, done, total)
    measured = {item.node for item in stored}
    missing = [node for node in circuit.components if node not in measured]
    with WriteBuffer(run.writer.add_evidence) as buffer:
        for item in stored:
            buffer.put(item)
        if not missing:
            return
        for node, facts in _measure(run, name, settings, missing):
            item = Evidence(circuit.id, node, name, recorded, facts)
            buffer.put(item)
            done += 1
            run.progress(name, done, total, str(node))
            yield item


def _measure(
    run: RunContext, name: str, settings: Mapping[str, Any], nodes: Sequence[Node]
) -> Iterator[tuple[Node, dict[str, Any]]]:
    """What a collector yields, checked; up to its first fault, which is noted in `set_aside`."""
    collector, contrast = pick("collector", run.plugins.collectors(), name), run.contrast

    def checked_facts() -> Iterator[tuple[Node, dict[str, Any]]]:
        for item in collector(contrast, nodes, **settings):
            yield checked.collected(item, nodes)

    return until_fault(checked_facts, run.name_of("collector", name), run.set_aside.append)
