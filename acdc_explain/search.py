"""Searches over all runs, as SQL: labeled components, and paths of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .circuit import Node
from .motif import ANY, Pattern, step_names
from .verdict import WORST_FIRST

LABELED = f"""
WITH outcomes AS (
    SELECT run_id, label_id,
        arg_min(outcome, list_position({list(WORST_FIRST)}, outcome)) AS outcome
    FROM run_verdicts JOIN verdicts ON verdicts.id = run_verdicts.verdict_id
    GROUP BY run_id, label_id
), labeled AS (
    SELECT run_labels.run_id, labels.*, outcomes.outcome
    FROM run_labels JOIN labels ON labels.id = run_labels.label_id
    LEFT JOIN outcomes ON outcomes.label_id = labels.id AND outcomes.run_id = run_labels.run_id
)
"""
"""Every label of every run with the worst of its verdicts: a contradicted label is downgraded."""


@dataclass(frozen=True, slots=True)
class Match:
    """A search result: the labeled component, or each step of a pattern with its node."""

    run_id: str
    task: str
    model: str
    nodes: Mapping[str, Node]
    role: str
    outcome: str | None
    confidence: float | None
    description: str


@dataclass
class Query:
    """A WHERE clause in the making; every value is a parameter."""

    conditions: list[str] = field(default_factory=lambda: ["TRUE"])
    values: list[Any] = field(default_factory=list)

    def add(self, condition: str, *values: Any) -> None:
        self.conditions.append(condition)
        self.values += values

    def where(self) -> str:
        return " AND ".join(self.conditions)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a match must have besides its place; None: anything."""

    text: str | None = None
    role: str | None = None
    verdict: str | None = None
    task: str | None = None
    model: str | None = None
    run_id: str | None = None

    def on_run(self, query: Query) -> None:
        if self.task is not None:
            query.add("r.task = ?", self.task)
        if self.model is not None:
            query.add("(r.model = ? OR r.model_id = ?)", self.model, self.model)
        if self.run_id is not None:
            query.add("r.id = ?", self.run_id)

    def on_labels(self, query: Query, labels: list[str]) -> None:
        """Every label has the verdict; some label has the role, some all words of the text."""
        if self.verdict is not None:
            for label in labels:
                query.add(f"{label}.outcome = ?", self.verdict)
        if self.role is not None:
            some = " OR ".join(f"{label}.role = ?" for label in labels) or "FALSE"
            query.add(f"({some})", *[self.role] * len(labels))
        words = (self.text or "").lower().split()
        if words:
            each = " AND ".join(
                "contains(lower({0}.role || ' ' || {0}.description), ?)" for _ in words
            )
            some = " OR ".join(f"({each.format(label)})" for label in labels) or "FALSE"
            query.add(f"({some})", *words * len(labels))


def labels_query(filters: Filters, limit: int | None) -> tuple[str, list[Any]]:
    """Labeled components, those of the newest run first. Rows: see `label_match`."""
    query = Query()
    filters.on_run(query)
    filters.on_labels(query, ["l"])
    sql = f"""{LABELED}
        SELECT r.id, r.task, r.model, l.node, l.role, l.outcome, l.confidence, l.description
        FROM runs r JOIN labeled l ON l.run_id = r.id WHERE {query.where()}
        ORDER BY r.created_at DESC, r.id, l.confidence DESC, l.node {_limit(limit)}"""
    return sql, query.values


def label_match(row: tuple[Any, ...]) -> Match:
    run_id, task, model, node, role, outcome, confidence, description = row
    nodes = {role: Node.parse(node)}
    return Match(run_id, task, model, nodes, role, outcome, confidence, description)


def paths_query(pattern: Pattern, filters: Filters, limit: int | None) -> tuple[str, list[Any]]:
    """Paths of kept edges whose nodes bear the pattern's roles: one self-join of the edges."""
    query = Query()
    joins: list[str] = []
    nodes = ["e1.src"]
    for place, port in enumerate(pattern.ports, start=1):
        on = f"e{place}.circuit_id = r.circuit_id"
        on += f" AND e{place}.src = e{place - 1}.dst" if place > 1 else ""
        joins.append(f"JOIN edges e{place} ON {on}")
        nodes.append(f"e{place}.dst")
        if port is not None:
            query.add(f"e{place}.port = ?", port)
    labels: list[str] = []
    for place, (step, node) in enumerate(zip(pattern.steps, nodes)):
        if step == ANY:
            query.add(f"{node} NOT IN ('input', 'logits')")
        elif step in ("input", "logits"):
            query.add(f"{node} = ?", step)
        else:
            labels.append(f"l{place}")
            joins.append(
                f"JOIN labeled l{place} ON l{place}.run_id = r.id AND l{place}.node = {node}"
            )
            query.add(f"l{place}.role = ?", step)
    filters.on_run(query)
    filters.on_labels(query, labels)
    sql = f"""{LABELED}
        SELECT DISTINCT r.created_at, r.id, r.task, r.model, {", ".join(nodes)}
        FROM runs r {" ".join(joins)} WHERE {query.where()}
        ORDER BY r.created_at DESC, r.id, {", ".join(nodes)} {_limit(limit)}"""
    return sql, query.values


def path_match(pattern: Pattern, row: tuple[Any, ...]) -> Match:
    _, run_id, task, model, *nodes = row
    named = dict(zip(step_names(pattern.steps), map(Node.parse, nodes)))
    return Match(run_id, task, model, named, "", None, None, pattern.text)


def _limit(limit: int | None) -> str:
    return "" if limit is None else f"LIMIT {int(limit)}"
