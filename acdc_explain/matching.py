"""Patterns as SQL: joins of the edges, with a set of standings for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .pattern import ANY, KINDS, Arrow, Part, Pattern, Step
from .rows import CIRCUIT_BITS, FIRST, LAST, PLACE


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

    def where(self) -> str:
        return " AND ".join(["TRUE", *self.conditions])


@dataclass(frozen=True)
class Paths:
    """A compiled pattern: the key of each step, and what they come from."""

    keys: Sequence[str]
    joins: Sequence[str]
    run: str  # the number of the run

    @property
    def source(self) -> str:
        return " ".join(self.joins)


def compile_paths(
    pattern: Pattern, query: Query, verdict: str | None = None, run: int | None = None
) -> Paths:
    """Add what a pattern needs to a query.

    With `verdict`, every role in it must have that one; with `run`, in that run alone.
    """
    among = "" if run is None else f"run = {int(run)} AND "
    sets = [
        None if step.anything and run is None else _standings(at, step, query, verdict, among)
        for at, step in enumerate(pattern.steps)
    ]
    if not pattern.arrows:
        only = sets[0] or _standings(0, pattern.steps[0], query, verdict, among)
        return Paths([f"{only}.key"], [only], f"{only}.run")
    keys, joins = [""] * len(sets), []
    for at, arrow in enumerate(pattern.arrows, start=1):
        edges = f"e{at}"
        left, right = ("dst_key", "src_key") if arrow.backward else ("src_key", "dst_key")
        table = _far(at, arrow, sets, query) if arrow.far else "edges"
        if at == 1:
            keys[0] = f"{edges}.{left}"
            joins.append(f"{table} AS {edges}")
        else:
            joins.append(f"JOIN {table} AS {edges} ON {edges}.{left} = {keys[at - 1]}")
        keys[at] = f"{edges}.{right}"
        if arrow.ports and not arrow.far:
            query.conditions.append(_ports(edges, arrow, query))
    whose = ""
    for name, key in zip(sets, keys):
        if name is None:
            query.conditions.append(f"({key} & {PLACE}) NOT IN ({FIRST}, {LAST})")
            continue
        same = f" AND {name}.run = {whose}" if whose else ""
        joins.append(f"JOIN {name} ON {name}.key = {key}{same}")
        whose = whose or f"{name}.run"
    if not whose:  # wildcards alone: whatever run has such a circuit
        joins.append(f"JOIN circuits AS c ON c.number = {keys[0]} >> {CIRCUIT_BITS}")
        joins.append("JOIN runs AS whose ON whose.circuit_id = c.id")
        whose = "whose.number"
    return Paths(keys, joins, whose)


def _standings(at: int, step: Step, query: Query, verdict: str | None, among: str) -> str:
    """The nodes of each run that a step allows."""
    allowed = " OR ".join(f"({_allows(part, query, verdict)})" for part in step.parts)
    name = f"s{at}"
    query.tables.append(
        f"{name} AS MATERIALIZED (SELECT DISTINCT run, key FROM standings WHERE {among}({allowed}))"
    )
    return name


def _allows(part: Part, query: Query, verdict: str | None) -> str:
    conditions = []
    if part.name == ANY:
        conditions.append("kind NOT IN ('input', 'logits')")
    elif part.name in KINDS:
        conditions.append(f"kind = {query.value(part.name)}")
    else:
        column = "node" if part.role is None else "role"
        conditions.append(f"{column} = {query.value(part.name)}")
    if verdict is not None and part.role is not None:
        conditions.append(f"outcome = {query.value(verdict)}")
    if part.sign is not None:
        conditions.append(f"sign = {part.sign}")
    for condition in part.conditions:
        column = {"verdict": "outcome"}.get(condition.key, condition.key)
        operator = {"!=": "IS DISTINCT FROM"}.get(condition.operator, condition.operator)
        value: Any = condition.value
        kind = "::FLOAT" if column == "depth" else ""  # 0.7 as a FLOAT, as the column has it
        conditions.append(f"{column} {operator} {query.value(value)}{kind}")
    return " AND ".join(conditions)


def _ports(edges: str, arrow: Arrow, query: Query) -> str:
    allowed = ", ".join(query.value(port) for port in arrow.ports)
    return f"{edges}.port IN ({allowed})"


def _far(at: int, arrow: Arrow, sets: Sequence[str | None], query: Query) -> str:
    """All pairs of a node the path starts from and one it may end in, as a table of edges."""
    start, end = (sets[at], sets[at - 1]) if arrow.backward else (sets[at - 1], sets[at])
    starts = f"SELECT DISTINCT key FROM {start}" if start else "SELECT DISTINCT src_key FROM edges"
    ends = f"SELECT DISTINCT key FROM {end}" if end else "SELECT DISTINCT dst_key FROM edges"
    both = f"WHERE key >> {CIRCUIT_BITS} IN (SELECT key >> {CIRCUIT_BITS} FROM end{at})"
    query.tables += [
        f"start{at}(key) AS MATERIALIZED ({starts})",
        f"end{at}(key) AS MATERIALIZED ({ends})",
        f"reach{at}(first, node) AS (SELECT key, key FROM start{at} {both} UNION SELECT first, "
        f"dst_key FROM reach{at} JOIN edges ON edges.src_key = reach{at}.node)",
    ]
    port = f"AND {_ports('last', arrow, query)}" if arrow.ports else ""
    query.tables.append(
        f"far{at} AS MATERIALIZED (SELECT DISTINCT first AS src_key, last.dst_key FROM reach{at} "
        f"JOIN edges AS last ON last.src_key = reach{at}.node {port} "
        f"JOIN end{at} ON end{at}.key = last.dst_key)"
    )
    return f"far{at}"
