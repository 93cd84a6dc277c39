"""Motifs over a store: how often patterns match, compared with randomised circuits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..plugins import load_plugins
from ..progress import Progress, silent
from ..records.circuit import Circuit, Edge
from ..records.pattern import Pattern
from ..records.run.motif import Enrichment, MotifCount
from .database import NARROW
from .duck.connection import Connection
from .duck.engine import memory
from .duck.limits import search_limits
from .search.matches import Filters
from .search.null_circuits import randomised
from .search.paths import count_paths
from .store import Store
from .tables import codec
from .tables.keys import CIRCUIT_BITS, PLACE, node_key
from .tables.read import read_circuit, read_headers
from .tables.rows import Row, append, number_of, row_of
from .tables.schema import MIGRATIONS

N_RANDOMISED = 100  # circuits for each run


def motifs(
    store: Store,
    patterns: Mapping[str, str] | None = None,
    *,
    chance: bool = True,
    any_verdict: bool = False,
    progress: Progress = silent,
) -> list[MotifCount]:
    """Count where patterns match, by task and model, each pair represented by one run.

    Args:
        store: The store, whose `labeled_runs` chooses the runs.
        patterns: The text of each pattern by its name; None: those that plugins name.
        chance: Count in randomised circuits, too.
        any_verdict: Count roles wherever they were proposed, not only where the label is supported.
        progress: Is called for each run.

    Returns:
        For each pattern, task and model: how often it matches, and how often it would by chance.

    Raises:
        UserError: A pattern cannot be read, or a search takes too long or too much memory.
    """
    if patterns is None:
        patterns = load_plugins().patterns()
    groups = store.labeled_runs()
    parsed = {name: Pattern.parse(text) for name, text in patterns.items()}
    counts = {name: store.count(p, any_verdict=any_verdict) for name, p in parsed.items()}
    texts = [pattern.text for pattern in parsed.values() if pattern.may_be_more_than_chance]
    enrichments: dict[str, dict[str, Enrichment]] = {}
    if chance and texts:
        for done, (run, *_) in enumerate(groups.values()):
            progress("randomise", done, len(groups), run)
            enrichments[run] = enrich(store, run, texts, any_verdict=any_verdict)
        progress("randomise", len(groups), len(groups))
    return [
        MotifCount(
            name, task, model, runs[0],
            matches=counts[name].get(runs[0], 0),
            runs=len(runs),
            runs_with=sum(run in counts[name] for run in runs),
            enrichment=enrichments.get(runs[0], {}).get(patterns[name]),
        )
        for name in patterns
        for (task, model), runs in groups.items()
    ]  # fmt: skip


def enrich(
    store: Store, run_id: str, patterns: Collection[str], *, any_verdict: bool = False
) -> dict[str, Enrichment]:
    """How often patterns match in a run's circuit and in randomised ones; stored for the next call.

    Empty for a run without a circuit. Raises UserError as `motifs`.
    """
    suffix = " (any verdict)" if any_verdict else ""
    with store.database.reading() as connection:
        stored = read_enrichments(connection, run_id)
        missing = [text for text in dict.fromkeys(patterns) if text + suffix not in stored]
        circuit = _circuit(connection, run_id) if missing else None
        standings = _standings(connection, run_id) if missing else []
    if circuit is not None:
        counted = compare_with_random(
            circuit, standings, [Pattern.parse(text) for text in missing], any_verdict=any_verdict
        )
        new = {text + suffix: enrichment for text, enrichment in counted.items()}
        with store.database.writing() as connection:
            _add_enrichments(connection, run_id, new)
        stored |= new
    return {text: stored[text + suffix] for text in patterns if text + suffix in stored}


def compare_with_random(
    circuit: Circuit,
    standings: Sequence[Row],
    patterns: Sequence[Pattern],
    *,
    any_verdict: bool = False,
) -> dict[str, Enrichment]:
    """Count matches in a circuit and in randomised ones, by the text of the pattern.

    The nodes keep their labels, `standings`; the edges are exchanged. All circuits are in one
    database in memory, where number 0 is the circuit itself.
    """
    null = randomised(circuit.edges, N_RANDOMISED, seed=int(circuit.id, 16))
    actual = {(edge.src.base, (edge.dst.base, edge.port)) for edge in circuit.edges}
    edges, rows = [], []
    for number, pairs in enumerate([sorted(actual, key=str), *null]):
        edges += [_edge_row(number, Edge(src, dst, port)) for src, (dst, port) in pairs]
        rows += [
            {**row, "run": number, "key": (number << CIRCUIT_BITS) + (row["key"] & PLACE)}
            for row in standings
        ]
    with memory() as connection:
        for step in MIGRATIONS:
            connection.execute(step)
        append(connection, "edges", edges)
        append(connection, "standings", rows)
        enrichments, numbers = {}, range(N_RANDOMISED + 1)
        with search_limits(connection, NARROW):
            for pattern in patterns:
                counts = count_paths(connection, pattern, Filters(), numbers, any_verdict)
                matches, *null_matches = (counts.get(number, 0) for number in numbers)
                enrichments[pattern.text] = Enrichment(matches, tuple(null_matches))
    return enrichments


def _edge_row(number: int, edge: Edge) -> Row:
    keys = {"src_key": node_key(number, edge.src), "dst_key": node_key(number, edge.dst)}
    return row_of(codec.EDGE, edge, circuit_id="", place=0, **keys)


# --- in the store ------------------------------------------------------------------------------


def read_enrichments(connection: Connection, run_id: str) -> dict[str, Enrichment]:
    """The stored enrichments of a run, by the text of the pattern."""
    rows = connection.execute(
        "SELECT pattern, found, counts FROM enrichments WHERE run = ?",
        [number_of(connection, "runs", run_id)],
    ).fetchall()
    return {text: Enrichment(n, tuple(counts)) for text, n, counts in rows}


def _add_enrichments(
    connection: Connection, run_id: str, enrichments: Mapping[str, Enrichment]
) -> None:
    number = number_of(connection, "runs", run_id)
    rows = [
        {"run": number, "pattern": text, "found": x.found, "counts": list(x.counts)}
        for text, x in enrichments.items()
    ]
    append(connection, "enrichments", rows)


def _standings(connection: Connection, run_id: str) -> list[dict[str, Any]]:
    """What a run says of each node, as patterns see it."""
    number = number_of(connection, "runs", run_id)
    result = connection.execute("SELECT * FROM standings WHERE run = ?", [number])
    columns = [column[0] for column in result.description]
    return [dict(zip(columns, row)) for row in result.fetchall()]


def _circuit(connection: Connection, run_id: str) -> Circuit | None:
    header = read_headers(connection, "WHERE id = $id", {"id": run_id})[0]
    return read_circuit(connection, header.circuit_id) if header.circuit_id else None
