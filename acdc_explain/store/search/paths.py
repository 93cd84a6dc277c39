"""Searches for paths whose nodes match a pattern, and their counts in each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...plugins import load_plugins
from ...records.circuit import Node
from ...records.pattern import Pattern
from ...records.run.motif import MOST_MATCHES, Motif
from ..duck.connection import Connection
from ..tables.keys import node_of
from ..tables.read import find_run
from ..tables.rows import number_of
from .compile import PathQuery, Query, count_query, paths_query
from .matches import HAS_WORD, Filters, Match, Matches

SUPPORTED = "supported"
FIRST_BATCH, LARGEST_BATCH = 256, 2048  # runs in one query


def search_paths(
    connection: Connection, pattern: Pattern, filters: Filters, limit: int, any_verdict: bool
) -> Matches:
    """Paths whose nodes match a pattern, those of the newest run first; the total is known."""
    check_names(connection, pattern)
    runs = {number: rest for number, *rest in connection.execute(*runs_query(filters)).fetchall()}
    matches: list[Match] = []
    for batch in batches(list(runs)):
        paths = path_query(filters, batch, any_verdict=any_verdict)
        query = paths_query(pattern, paths, limit - len(matches))
        for number, *keys in connection.execute(*query).fetchall():
            run_id, task, model = runs[number]
            nodes = nodes_of(pattern, keys)
            matches.append(Match(run_id, task, model, nodes, "", None, None, pattern.text))
        if len(matches) >= limit:
            counts = count_paths(connection, pattern, filters, list(runs), any_verdict)
            return Matches(matches, sum(counts.values()))
    return Matches(matches, len(matches))


def match_run(
    connection: Connection, path: Path, run: str, patterns: Mapping[str, str], any_verdict: bool
) -> list[Motif]:
    """Where named patterns match in one run, at most `MOST_MATCHES` places each."""
    header = find_run(connection, path, run)
    number = number_of(connection, "runs", header.id)
    paths = path_query(Filters(), [number], any_verdict=any_verdict)
    motifs = []
    for name, text in patterns.items():
        pattern = Pattern.parse(text)
        query = paths_query(pattern, paths, MOST_MATCHES)
        for _, *keys in connection.execute(*query).fetchall():
            nodes = nodes_of(pattern, keys)
            motifs.append(Motif(name, header.id, header.circuit_id or "", nodes))
    return motifs


def count_by_run(
    connection: Connection, pattern: Pattern, runs: Sequence[str] | None, any_verdict: bool
) -> dict[str, int]:
    """How many paths match a pattern, by the id of the run; without runs that have none."""
    check_names(connection, pattern)
    ids = dict(connection.execute("SELECT number, id FROM runs ORDER BY number").fetchall())
    numbers = [number for number, run_id in ids.items() if runs is None or run_id in runs]
    counts = count_paths(connection, pattern, Filters(), numbers, any_verdict)
    return {ids[number]: n for number, n in counts.items()}


def count_paths(
    connection: Connection,
    pattern: Pattern,
    filters: Filters,
    runs: Sequence[int],
    any_verdict: bool,
) -> dict[int, int]:
    """How many paths match a pattern, by the number of the run; without runs that have none."""
    counts: dict[int, int] = {}
    for batch in batches(runs):
        paths = path_query(filters, batch, any_verdict=any_verdict)
        counts |= dict(connection.execute(*count_query(pattern, paths)).fetchall())
    return counts


def batches(runs: Sequence[int]) -> Iterator[Sequence[int]]:
    """First the newest few runs, which may be enough, then larger batches."""
    start, size = 0, FIRST_BATCH
    while start < len(runs):
        yield runs[start : start + size]
        start, size = start + size, min(4 * size, LARGEST_BATCH)


def nodes_of(pattern: Pattern, keys: Sequence[int]) -> dict[str, Node]:
    """The node of each step of a pattern, from their keys."""
    return dict(zip(pattern.step_names, map(node_of, keys)))


def path_query(filters: Filters, runs: Sequence[int], *, any_verdict: bool = False) -> PathQuery:
    """With a role or a text in the filters, paths through a node that has it.

    A role counts where its label is supported; with the filter `verdict` where it has that
    verdict; with `any_verdict` wherever it was proposed.
    """
    query = Query()
    outcome = filters.verdict or (None if any_verdict else SUPPORTED)
    through = []
    if filters.role is not None:
        through.append(f"coalesce(role = {query.value(filters.role)}, FALSE)")
        if outcome is not None:
            through[0] += f" AND coalesce(outcome = {query.value(outcome)}, FALSE)"
    if words := filters.words:
        conditions = " AND ".join(HAS_WORD.format("standings", query.value(word)) for word in words)
        through.append(f"coalesce({conditions}, FALSE)")
    return PathQuery(runs, outcome, filters.verdict is not None, through, query.values)


def runs_query(filters: Filters) -> tuple[str, Mapping[str, Any]]:
    """The runs that may have matches, the newest first: number, id, task, model."""
    query = Query(conditions=["r.circuit_id IS NOT NULL"])
    filters.on_run(query)
    sql = f"""SELECT r.number, r.id, r.task, r.model FROM runs AS r WHERE {query.where()}
        ORDER BY r.created_at DESC, r.number DESC"""
    return sql, query.values


def labeled_runs(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """The runs with labels by task and model, the one that represents the pair first.

    That is one that is done before others, a local one before imported ones, and of those the
    newest.
    """
    rows = connection.execute(
        "SELECT task, model, id FROM runs "
        "WHERE number IN (SELECT run FROM standings WHERE role IS NOT NULL) "
        "ORDER BY task, model, status = 'done' DESC, origin IS NULL DESC, "
        "created_at DESC, number DESC"
    ).fetchall()
    groups: dict[tuple[str, str], list[str]] = {}
    for task, model, run_id in rows:
        groups.setdefault((task, model), []).append(run_id)
    return groups


def check_names(connection: Connection, pattern: Pattern) -> None:
    """A pattern may name roles and claims of the store, and installed ones. Raises UserError."""
    roles = _distinct(connection, "SELECT role FROM standings WHERE role IS NOT NULL")
    claims = _distinct(connection, "SELECT claim FROM claims UNION SELECT topic FROM claims")
    missing = any(role not in roles for role, _ in pattern.roles)
    if missing or any(claim not in claims for claim, _ in pattern.claims):
        plugins = load_plugins()
        kinds = plugins.claims()
        topics = {kind.topic for kind in kinds.values()}
        pattern.check({*roles, *plugins.roles()}, {*claims, *kinds, *topics})


def _distinct(connection: Connection, select: str) -> set[str]:
    return {name for (name,) in connection.execute(f"SELECT DISTINCT * FROM ({select})").fetchall()}
