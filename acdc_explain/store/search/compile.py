"""Patterns as SQL: a set of nodes for each step, and the pairs of them that an arrow joins.

A pattern is a chain, so its paths need not be made to be counted, or to know which of them there
are: counts are summed from pair to pair, and of each node it is known whether the rest of the
pattern can follow. So no query is larger than the edges times the steps, however many paths there
are, and of a limited number of paths no other is begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...records.pattern import ANY, KINDS, Arrow, Part, Pattern, PatternStep
from ..tables.rows import CIRCUIT_BITS

CIRCUIT = f">> {CIRCUIT_BITS}"  # of a key, its circuit


@dataclass
class Query:
    """SQL in the making; every value a user wrote is a parameter."""

    tables: list[str] = field(default_factory=list)  # of the WITH clause
    conditions: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def value(self, value: Any) -> str:
        """The name of a parameter that holds it."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"${name}"

    def table(self, name: str, sql: str) -> None:
        """A table that is computed once, for all that read it."""
        self.tables.append(f"{name} AS MATERIALIZED ({sql})")

    def where(self) -> str:
        return " AND ".join(["TRUE", *self.conditions])

    def sql(self, select: str) -> tuple[str, Mapping[str, Any]]:
        return f"WITH RECURSIVE {', '.join(self.tables)} {select}", self.values


@dataclass(frozen=True, slots=True)
class RecordingTransport:
    """Which paths are wanted.

    `runs`: the numbers of the runs to look in, in the order of the results. `outcome`: what every
    role must have that the pattern names without a verdict (None: whatever became of it); with
    `always`, the others too. `through`: conditions on a standing, each of which some node of the
    path must fulfil; their values are in `values`.
    """

    runs: Sequence[int]
    outcome: str | None = None
    always: bool = False
    through: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> int:
        """The bits of a path that fulfils every condition."""
        return (1 << len(self.through)) - 1


def paths_query(
    pattern: Pattern, wanted: RecordingTransport, limit: int | None
) -> tuple[str, Mapping[str, Any]]:
    """The paths that fit a pattern: the number of the run, the key of each step."""
    query, last = _pairs(pattern, wanted), len(pattern.arrows)
    _rests(query, last)
    cut = "" if limit is None else f"LIMIT {int(limit)}"
    query.table(
        "e0",
        "SELECT DISTINCT place, f0.run, f0.key AS k0, f0.bits FROM f0 JOIN chosen USING (run) "
        f"JOIN r0 ON r0.run = f0.run AND r0.key = f0.key AND r0.bits = {wanted.all} "
        f"ORDER BY place, k0 {cut}",
    )
    for at in range(1, last + 1):
        keys = ", ".join(f"k{i}" for i in range(at))
        query.table(
            f"e{at}",
            f"SELECT DISTINCT place, e.run, {keys}, p.b AS k{at}, e.bits | p.bits AS bits "
            f"FROM e{at - 1} AS e JOIN p{at} AS p ON p.run = e.run AND p.a = e.k{at - 1} "
            f"JOIN r{at} AS r ON r.run = p.run AND r.key = p.b "
            f"AND (e.bits | r.bits) = {wanted.all} ORDER BY place, {keys}, k{at} {cut}",
        )
    keys = ", ".join(f"k{i}" for i in range(last + 1))
    return query.sql(f"SELECT run, {keys} FROM e{last} ORDER BY place, {keys}")


def count_query(pattern: Pattern, wanted: RecordingTransport) -> tuple[str, Mapping[str, Any]]:
    """How many paths fit a pattern in each run that has any: the run's number, the count."""
    query, last = _pairs(pattern, wanted), len(pattern.arrows)
    query.table("n0", "SELECT run, key, bits, 1::HUGEINT AS n FROM f0")
    for at in range(1, last + 1):
        query.table(
            f"n{at}",
            "SELECT p.run, p.b AS key, n.bits | p.bits AS bits, sum(n.n)::HUGEINT AS n "
            f"FROM n{at - 1} AS n JOIN p{at} AS p ON p.run = n.run AND p.a = n.key GROUP BY ALL",
        )
    return query.sql(
        f"SELECT run, sum(n)::HUGEINT FROM n{last} WHERE bits = {wanted.all} GROUP BY run"
    )


def _pairs(pattern: Pattern, wanted: RecordingTransport) -> Query:
    """Tables f0, f1 ...: the nodes that paths may begin with or reach, by step; p1, p2 ...: the
    pairs of them that each arrow joins."""
    query = Query(values=dict(wanted.values))
    runs = query.value(list(wanted.runs))
    query.table(
        "chosen",
        f"SELECT unnest({runs}::INTEGER[]) AS run, generate_subscripts({runs}::INTEGER[], 1) "
        "AS place",
    )
    bits = [f"(bool_or({condition})::INTEGER << {i})" for i, condition in enumerate(wanted.through)]
    query.table(
        "has",
        f"SELECT run, key, {' | '.join(bits)} AS bits FROM standings "
        "WHERE run IN (SELECT run FROM chosen) GROUP BY run, key"
        if bits
        else "SELECT 0 AS run, 0::BIGINT AS key, 0 AS bits LIMIT 0",
    )
    for at, step in enumerate(pattern.steps):
        query.table(f"s{at}", _standings(step, query, wanted))
    within = " INTERSECT ".join(
        f"SELECT key {CIRCUIT} FROM s{at}" for at in range(len(pattern.steps))
    )
    query.table(
        "links",
        f"SELECT DISTINCT src_key, dst_key, port FROM edges WHERE src_key {CIRCUIT} IN ({within})",
    )
    query.table("f0", "SELECT run, key, bits FROM s0")
    for at, arrow in enumerate(pattern.arrows, start=1):
        left, right = ("dst_key", "src_key") if arrow.backward else ("src_key", "dst_key")
        table = _far(at, arrow, query) if arrow.far else _near(arrow, query)
        query.table(
            f"p{at}",
            "SELECT DISTINCT f.run, f.key AS a, f.bits AS before, s.key AS b, s.bits AS bits "
            f"FROM f{at - 1} AS f JOIN {table} AS link ON link.{left} = f.key "
            f"JOIN s{at} AS s ON s.key = link.{right} AND s.run = f.run",
        )
        query.table(f"f{at}", f"SELECT DISTINCT run, b AS key, bits FROM p{at}")
    return query


def _rests(query: Query, last: int) -> None:
    """Tables r0, r1 ...: from which nodes the rest of the pattern can follow, and what it has."""
    query.table(f"r{last}", f"SELECT run, key, bits FROM f{last}")
    for at in range(last, 0, -1):
        query.table(
            f"r{at - 1}",
            "SELECT DISTINCT p.run, p.a AS key, p.before | r.bits AS bits "
            f"FROM p{at} AS p JOIN r{at} AS r ON r.run = p.run AND r.key = p.b",
        )


def _standings(step: PatternStep, query: Query, wanted: RecordingTransport) -> str:
    """The nodes of each run that a step allows, with the bits of what they fulfil."""
    allowed = " OR ".join(f"({_allows(part, query, wanted)})" for part in step.parts)
    return (
        "SELECT DISTINCT s.run, s.key, coalesce(has.bits, 0) AS bits FROM standings AS s "
        "LEFT JOIN has ON has.run = s.run AND has.key = s.key "
        f"WHERE s.run IN (SELECT run FROM chosen) AND ({allowed})"
    )


def _allows(part: Part, query: Query, wanted: RecordingTransport) -> str:
    conditions = []
    if part.name == ANY:
        conditions.append("kind NOT IN ('input', 'logits')")
    elif part.name in KINDS:
        conditions.append(f"kind = {query.value(part.name)}")
    else:
        column = "node" if part.role is None else "role"
        conditions.append(f"{column} = {query.value(part.name)}")
    said = any(condition.key == "verdict" for condition in part.conditions)
    if part.role is not None and wanted.outcome is not None and (wanted.always or not said):
        conditions.append(f"outcome = {query.value(wanted.outcome)}")
    if part.sign is not None:
        conditions.append(f"sign = {part.sign}")
    for condition in part.conditions:
        column = {"verdict": "outcome"}.get(condition.key, condition.key)
        operator = {"!=": "IS DISTINCT FROM"}.get(condition.operator, condition.operator)
        value: Any = condition.value
        kind = "::FLOAT" if column == "depth" else ""  # 0.7 as a FLOAT, as the column has it
        conditions.append(f"{column} {operator} {query.value(value)}{kind}")
    return " AND ".join(conditions)


def _ports(arrow: Arrow, query: Query) -> str:
    if not arrow.ports:
        return "TRUE"
    allowed = ", ".join(query.value(port) for port in arrow.ports)
    return f"port IN ({allowed})"


def _near(arrow: Arrow, query: Query) -> str:
    """The edges an arrow may stand for."""
    return f"(SELECT src_key, dst_key FROM links WHERE {_ports(arrow, query)})"


def _far(at: int, arrow: Arrow, query: Query) -> str:
    """All pairs of a node the path starts from and one it may end in, as a table of edges."""
    here, there = f"SELECT DISTINCT key FROM f{at - 1}", f"SELECT DISTINCT key FROM s{at}"
    starts, ends = (there, here) if arrow.backward else (here, there)
    query.table(f"start{at}", starts)
    query.table(f"end{at}", ends)
    query.tables.append(
        f"reach{at}(first, node) AS (SELECT key, key FROM start{at} "
        f"WHERE key {CIRCUIT} IN (SELECT key {CIRCUIT} FROM end{at}) UNION "
        f"SELECT first, dst_key FROM reach{at} JOIN links ON links.src_key = reach{at}.node)"
    )
    query.table(
        f"far{at}",
        f"SELECT DISTINCT first AS src_key, last.dst_key FROM reach{at} JOIN "
        f"(SELECT src_key, dst_key FROM links WHERE {_ports(arrow, query)}) AS last "
        f"ON last.src_key = reach{at}.node JOIN end{at} ON end{at}.key = last.dst_key",
    )
    return f"far{at}"
