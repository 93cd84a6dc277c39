"""Motifs across a store: how often patterns match, and beside how much chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .circuit import Circuit, Edge
from .motif import Enrichment, MotifCount
from .pattern import Pattern
from .progress import Progress, silent
from .randomised import randomised
from .rows import CIRCUIT_BITS, PLACE, edge_row
from .schema import MIGRATIONS
from .search import count_query
from .store import Store, memory
from .writing import append

CIRCUITS = 100  # randomised ones a run


def motif_counts(
    store: Store,
    patterns: Mapping[str, str],
    *,
    sample: int = CIRCUITS,
    progress: Progress = silent,
) -> list[MotifCount]:
    """Where patterns match, by task and model, of each circuit in its newest run.

    Enrichment is of up to `sample` runs of each task and model; 0: leave it out.
    """
    groups = store.labeled_runs()
    counts = {name: store.count(Pattern.parse(text)) for name, text in patterns.items()}
    sampled = [run_id for runs in groups.values() for run_id in runs[:sample]]
    beside: dict[str, dict[str, Enrichment]] = {}
    for done, run_id in enumerate(sampled):
        progress("randomise", done, len(sampled), run_id)
        beside[run_id] = enrich(store, run_id, patterns.values())
    if sampled:
        progress("randomise", len(sampled), len(sampled))
    return [
        _count(name, text, task, model, [(run, counts[name].get(run, 0)) for run in runs], beside)
        for name, text in patterns.items()
        for (task, model), runs in groups.items()
    ]


def _count(
    name: str,
    text: str,
    task: str,
    model: str,
    found: Sequence[tuple[str, int]],
    beside: Mapping[str, Mapping[str, Enrichment]],
) -> MotifCount:
    each = [beside[run][text] for run, _ in found if run in beside]
    return MotifCount(
        name, task, model,
        runs=len(found),
        runs_with=sum(n > 0 for _, n in found),
        matches=sum(n for _, n in found),
        sampled=len(each),
        enrichment=Enrichment.total(each) if each else None,
    )  # fmt: skip


def enrich(store: Store, run_id: str, patterns: Collection[str]) -> dict[str, Enrichment]:
    """How often patterns match in a run's circuit beside randomised ones; computed once."""
    held = store.enrichments(run_id)
    missing = [Pattern.parse(text) for text in dict.fromkeys(patterns) if text not in held]
    circuit = store.circuit(run_id)
    if missing and circuit is not None:
        new = beside_random(circuit, store.standings(run_id), missing)
        store.add_enrichments(run_id, new)
        held |= new
    return {text: held[text] for text in patterns if text in held}


def beside_random(
    circuit: Circuit, standings: Sequence[Sequence[Any]], patterns: Sequence[Pattern]
) -> dict[str, Enrichment]:
    """Count in the circuit and in randomised ones, all in one database: number 0 is the circuit.

    The labels stay where they are; the edges move.
    """
    drawn = randomised(circuit.edges, CIRCUITS, seed=int(circuit.id, 16))
    own = {(e.src.base, (e.dst.base, e.port)) for e in circuit.edges}
    edges, stood = [], []
    for number, pairs in enumerate([sorted(own, key=str), *drawn]):
        edges += [edge_row("", number, 0, Edge(src, dst, port)) for src, (dst, port) in pairs]
        stood += [
            (number, (number << CIRCUIT_BITS) + (key & PLACE), *rest) for _, key, *rest in standings
        ]
    with memory() as connection:
        for step in MIGRATIONS:
            connection.execute(step)
        append(connection, "edges", edges)
        append(connection, "standings", stood)
        connection.execute(
            "INSERT INTO circuits (id, number) SELECT n, n FROM range(?) t(n)", [CIRCUITS + 1]
        )
        connection.execute(
            "INSERT INTO runs (id, circuit_id, number) SELECT n, n, n FROM range(?) t(n)",
            [CIRCUITS + 1],
        )
        found = {}
        for pattern in patterns:
            counts = dict(connection.execute(*count_query(pattern)).fetchall())
            found[pattern.text] = Enrichment(
                counts.get(0, 0), tuple(counts.get(n, 0) for n in range(1, CIRCUITS + 1))
            )
    return found
