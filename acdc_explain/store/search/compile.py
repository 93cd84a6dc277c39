"""Patterns as SQL: a set of nodes for each step, and the pairs of them that an arrow joins.

A pattern is a chain, so its paths can be counted without listing them: counts are summed from pair
to pair. When paths are listed, each node is kept only if the rest of the pattern can follow it. So
no query is larger than the edges times the steps, however many paths there are, and with a limit
no path is begun that is not finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...records.pattern import ANY, KINDS, Arrow, Condition, Part, Pattern, PatternStep
from ..tables.keys import CIRCUIT_BITS

CIRCUIT = f">> {CIRCUIT_BITS}"  # of a key, its circuit


@dataclass
class Query:
    """A SQL query that is being built; every value from a user is a parameter."""

    tables: list[str] = field(default_factory=list)  # of the WITH clause
    conditions: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def value(self, value: Any) -> str:
        """Add a parameter and return its name in SQL."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"${name}"

    def table(self, name: str, sql: str) -> None:
        """Add a table that is computed once, however often it is read."""
        self.tables.append(f"{name} AS MATERIALIZED ({sql})")

    def where(self) -> str:
        return " AND ".join(["TRUE", *self.conditions])

    def sql(self, select: str) -> tuple[str, Mapping[str, Any]]:
        return f"WITH RECURSIVE {', '.join(self.tables)} {select}", self.values


@dataclass(frozen=True, slots=True)
class PathQuery:
    """Which paths to find.

    `runs`: the numbers of the runs to search, in the order of the results. `outcome`: the verdict
    that every role needs that the pattern names without one (None: any); with `always`, all roles
    need it. `through`: conditions on a standing, each of which some node of the path must meet;
    their parameters are in `values`.
    """

    runs: Sequence[int]
    outcome: str | None = None
    always: bool = False
    through: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_bits(self) -> int:
        """The bits of a path that meets every condition."""
        return (1 << len(self.through)) - 1


def paths_query(
    pattern: Pattern, paths: PathQuery, limit: int | None
) -> tuple[str, Mapping[str, Any]]:
    """The paths that match a pattern: the number of the run, the key of each step."""
    query, last = _pairs(pattern, paths), len(pattern.arrows)
    _rests(query, last)
    cut = "" if limit is None else f"LIMIT {int(limit)}"
    query.table(
        "e0",
        "SELECT DISTINCT place, f0.run, f0.key AS k0, f0.bits FROM f0 JOIN chosen USING (run) "
        f"JOIN r0 ON r0.run = f0.run AND r0.key = f0.key AND r0.bits = {paths.all_bits} "
        f"ORDER BY place, k0 {cut}",
    )
    for i in range(1, last + 1):
        keys = ", ".join(f"k{j}" for j in range(i))
        query.table(
            f"e{i}",
            f"SELECT DISTINCT place, e.run, {keys}, p.b AS k{i}, e.bits | p.bits AS bits "
            f"FROM e{i - 1} AS e JOIN p{i} AS p ON p.run = e.run AND p.a = e.k{i - 1} "
            f"JOIN r{i} AS r ON r.run = p.run AND r.key = p.b "
            f"AND (e.bits | r.bits) = {paths.all_bits} ORDER BY place, {keys}, k{i} {cut}",
        )
    keys = ", ".join(f"k{i}" for i in range(last + 1))
    return query.sql(f"SELECT run, {keys} FROM e{last} ORDER BY place, {keys}")


def count_query(pattern: Pattern, paths: PathQuery) -> tuple[str, Mapping[str, Any]]:
    """How many paths match a pattern in each run that has any: the run's number, the count."""
    query, last = _pairs(pattern, paths), len(pattern.arrows)
    query.table("n0", "SELECT run, key, bits, 1::HUGEINT AS n FROM f0")
    for i in range(1, last + 1):
        query.table(
            f"n{i}",
            "SELECT p.run, p.b AS key, n.bits | p.bits AS bits, sum(n.n)::HUGEINT AS n "
            f"FROM n{i - 1} AS n JOIN p{i} AS p ON p.run = n.run AND p.a = n.key GROUP BY ALL",
        )
    return query.sql(
        f"SELECT run, sum(n)::HUGEINT FROM n{last} WHERE bits = {paths.all_bits} GROUP BY run"
    )


def _pairs(pattern: Pattern, paths: PathQuery) -> Query:
    """A query with the tables that both kinds of query read.

    f0, f1 ...: the nodes that paths may start from or reach, by step. p1, p2 ...: the pairs of
    them that each arrow joins.
    """
    query = Query(values=dict(paths.values))
    runs = query.value(list(paths.runs))
    query.table(
        "chosen",
        f"SELECT unnest({runs}::INTEGER[]) AS run, generate_subscripts({runs}::INTEGER[], 1) "
        "AS place",
    )
    bits = [f"(bool_or({condition})::INTEGER << {i})" for i, condition in enumerate(paths.through)]
    query.table(
        "has",
        f"SELECT run, key, {' | '.join(bits)} AS bits FROM standings "
        "WHERE run IN (SELECT run FROM chosen) GROUP BY run, key"
        if bits
        else "SELECT 0 AS run, 0::BIGINT AS key, 0 AS bits LIMIT 0",
    )
    for i, step in enumerate(pattern.steps):
        query.table(f"s{i}", _standings(step, query, paths))
    within = " INTERSECT ".join(
        f"SELECT key {CIRCUIT} FROM s{i}" for i in range(len(pattern.steps))
    )
    query.table(
        "links",
        f"SELECT DISTINCT src_key, dst_key, port FROM edges WHERE src_key {CIRCUIT} IN ({within})",
    )
    query.table("f0", "SELECT run, key, bits FROM s0")
    for i, arrow in enumerate(pattern.arrows, start=1):
        left, right = ("dst_key", "src_key") if arrow.backward else ("src_key", "dst_key")
        table = _far(i, arrow, query) if arrow.far else _near(arrow, query)
        query.table(
            f"p{i}",
            "SELECT DISTINCT f.run, f.key AS a, f.bits AS before, s.key AS b, s.bits AS bits "
            f"FROM f{i - 1} AS f JOIN {table} AS link ON link.{left} = f.key "
            f"JOIN s{i} AS s ON s.key = link.{right} AND s.run = f.run",
        )
        query.table(f"f{i}", f"SELECT DISTINCT run, b AS key, bits FROM p{i}")
    return query


def _rests(query: Query, last: int) -> None:
    """Add tables r0, r1 ...: the nodes that the rest of the pattern can follow, with its bits."""
    query.table(f"r{last}", f"SELECT run, key, bits FROM f{last}")
    for i in range(last, 0, -1):
        query.table(
            f"r{i - 1}",
            "SELECT DISTINCT p.run, p.a AS key, p.before | r.bits AS bits "
            f"FROM p{i} AS p JOIN r{i} AS r ON r.run = p.run AND r.key = p.b",
        )


def _standings(step: PatternStep, query: Query, paths: PathQuery) -> str:
    """The nodes of each run that a step allows, with the bits of the conditions they meet."""
    allowed = " OR ".join(f"({_allows(part, query, paths)})" for part in step.parts)
    return (
        "SELECT DISTINCT s.run, s.key, coalesce(has.bits, 0) AS bits FROM standings AS s "
        "LEFT JOIN has ON has.run = s.run AND has.key = s.key "
        f"WHERE s.run IN (SELECT run FROM chosen) AND ({allowed})"
    )


def _allows(part: Part, query: Query, paths: PathQuery) -> str:
    conditions = []
    if part.name == ANY:
        conditions.append("kind NOT IN ('input', 'logits')")
    elif part.name in KINDS:
        conditions.append(f"kind = {query.value(part.name)}")
    else:
        column = "node" if part.role is None else "role"
        conditions.append(f"{column} = {query.value(part.name)}")
    has_verdict = any(condition.key == "verdict" for condition in part.conditions)
    if part.role is not None and paths.outcome is not None and (paths.always or not has_verdict):
        conditions.append(f"outcome = {query.value(paths.outcome)}")
    if part.sign is not None:
        conditions.append(f"sign = {part.sign}")
    for condition in part.conditions:
        if condition.claim is not None:
            conditions.append(_claims(condition, query))
            continue
        column = {"verdict": "outcome"}.get(condition.key, condition.key)
        operator = {"!=": "IS DISTINCT FROM"}.get(condition.operator, condition.operator)
        value: Any = condition.value
        kind = "::FLOAT" if column == "depth" else ""  # 0.7 as a FLOAT, as the column has it
        conditions.append(f"{column} {operator} {query.value(value)}{kind}")
    return " AND ".join(conditions)


MAIN = ("to", "variable", "what", "receiver", "relation", "at")
"""Arguments of claims: a condition that names none means the first of these that the claim has."""


def _claims(condition: Condition, query: Query) -> str:
    """Whether a claim about the node holds. Claims of one author or of several, composed or not."""
    name = query.value(condition.claim)
    holds = (
        "(s.run, s.node) IN (SELECT run, node FROM claims WHERE outcome = 'holds' "
        f"AND run IN (SELECT run FROM chosen) AND (claim = {name} OR topic = {name})"
    )
    if not condition.operator:
        return f"{holds})"
    argument = condition.key.partition(".")[2]
    parts = [argument] if argument else MAIN
    paths = [query.value(f"$.{part}") for part in parts]
    value = query.value(condition.value)
    said = [f"json_extract({column}, {{}})" for column in ("arguments", "also")]
    first = " ".join(
        f"WHEN json_exists(arguments, {path}) THEN "
        + " OR ".join(_has(text.format(path), value) for text in said)
        for path in paths
    )
    negated = "NOT " if condition.operator == "!=" else ""
    return f"{negated}{holds} AND CASE {first} ELSE FALSE END)"


def _has(json: str, value: str) -> str:
    """Whether a string or a list of strings in JSON has a value; `_` may stand for a space."""
    as_list = f"CASE json_type({json}) WHEN 'ARRAY' THEN {json} ELSE json_array({json}) END"
    either = f"[{value}, replace({value}, '_', ' ')]"
    return f"coalesce(list_has_any(({as_list})::VARCHAR[], {either}), FALSE)"


def _ports(arrow: Arrow, query: Query) -> str:
    if not arrow.ports:
        return "TRUE"
    allowed = ", ".join(query.value(port) for port in arrow.ports)
    return f"port IN ({allowed})"


def _near(arrow: Arrow, query: Query) -> str:
    """The edges that a simple arrow may stand for."""
    return f"(SELECT src_key, dst_key FROM links WHERE {_ports(arrow, query)})"


def _far(i: int, arrow: Arrow, query: Query) -> str:
    """A table of the pairs of nodes that an arrow over many edges joins, like edges."""
    before, after = f"SELECT DISTINCT key FROM f{i - 1}", f"SELECT DISTINCT key FROM s{i}"
    starts, ends = (after, before) if arrow.backward else (before, after)
    query.table(f"start{i}", starts)
    query.table(f"end{i}", ends)
    query.tables.append(
        f"reach{i}(first, node) AS (SELECT key, key FROM start{i} "
        f"WHERE key {CIRCUIT} IN (SELECT key {CIRCUIT} FROM end{i}) UNION "
        f"SELECT first, dst_key FROM reach{i} JOIN links ON links.src_key = reach{i}.node)"
    )
    query.table(
        f"far{i}",
        f"SELECT DISTINCT first AS src_key, last.dst_key FROM reach{i} JOIN "
        f"(SELECT src_key, dst_key FROM links WHERE {_ports(arrow, query)}) AS last "
        f"ON last.src_key = reach{i}.node JOIN end{i} ON end{i}.key = last.dst_key",
    )
    return f"far{i}"
