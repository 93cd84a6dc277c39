"""Motifs across a store: how often patterns match, and beside how much chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..progress import Progress, silent
from ..records.circuit import Circuit, Edge
from ..records.pattern import Pattern
from ..records.run.motif import Enrichment, MotifCount
from .database import NARROW
from .duck.engine import memory, search_limits
from .search.null_circuits import randomised
from .search.queries import Filters, count_paths
from .store import Store
from .tables.rows import CIRCUIT_BITS, PLACE, edge_row
from .tables.schema import MIGRATIONS
from .tables.write import append

CIRCUITS = 100  # randomised ones a run


def motif_counts(
    store: Store,
    patterns: Mapping[str, str],
    *,
    chance: bool = True,
    any_verdict: bool = False,
    progress: Progress = silent,
) -> list[MotifCount]:
    """Where patterns match, by task and model: one run speaks for each (`Store.labeled_runs`).

    `chance`: count in randomised circuits too. Roles count where the label is supported, with
    `any_verdict` wherever it was proposed.
    """
    groups = store.labeled_runs()
    parsed = {name: Pattern.parse(text) for name, text in patterns.items()}
    counts = {name: store.count(p, any_verdict=any_verdict) for name, p in parsed.items()}
    texts = [pattern.text for pattern in parsed.values() if pattern.may_be_more_than_chance]
    beside: dict[str, dict[str, Enrichment]] = {}
    if chance and texts:
        for done, (voter, *_) in enumerate(groups.values()):
            progress("randomise", done, len(groups), voter)
            beside[voter] = enrich(store, voter, texts, any_verdict=any_verdict)
        progress("randomise", len(groups), len(groups))
    return [
        MotifCount(
            name, task, model, runs[0],
            matches=counts[name].get(runs[0], 0),
            runs=len(runs),
            runs_with=sum(run in counts[name] for run in runs),
            enrichment=beside.get(runs[0], {}).get(patterns[name]),
        )
        for name in patterns
        for (task, model), runs in groups.items()
    ]  # fmt: skip


def enrich(
    store: Store, run_id: str, patterns: Collection[str], *, any_verdict: bool = False
) -> dict[str, Enrichment]:
    """How often patterns match in a run's circuit beside randomised ones; computed once."""
    suffix = " (any verdict)" if any_verdict else ""
    held = store.enrichments(run_id)
    missing = [Pattern.parse(text) for text in dict.fromkeys(patterns) if text + suffix not in held]
    circuit = store.circuit(run_id)
    if missing and circuit is not None:
        found = beside_random(circuit, store.standings(run_id), missing, any_verdict=any_verdict)
        new = {text + suffix: enrichment for text, enrichment in found.items()}
        store.add_enrichments(run_id, new)
        held |= new
    return {text: held[text + suffix] for text in patterns if text + suffix in held}


def beside_random(
    circuit: Circuit,
    standings: Sequence[Sequence[Any]],
    patterns: Sequence[Pattern],
    *,
    any_verdict: bool = False,
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
        found, numbers = {}, range(CIRCUITS + 1)
        with search_limits(connection, NARROW):
            for pattern in patterns:
                counts = count_paths(connection, pattern, Filters(), numbers, any_verdict)
                here, *others = (counts.get(n, 0) for n in numbers)
                found[pattern.text] = Enrichment(here, tuple(others))
    return found
