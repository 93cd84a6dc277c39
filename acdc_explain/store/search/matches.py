"""What a search finds, and the filters that all searches share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...records.circuit import Node
from ..tables.keys import node_of
from .compile import Query

MOST_WORDS = 16


@dataclass(frozen=True, slots=True)
class Match:
    """A search result: a labeled component, or a path with the node of each step of a pattern.

    `score`: how well it fits the text (BM25), or how similar it is (cosine); else None.
    """

    run_id: str
    task: str
    model: str
    nodes: Mapping[str, Node]
    role: str
    outcome: str | None
    confidence: float | None
    description: str
    score: float | None = None


class Matches(list[Match]):
    """The matches of a search; a table in a notebook.

    `total`: how many there are without the limit; None if they were not counted.
    """

    def __init__(self, matches: Iterable[Match] = (), total: int | None = None) -> None:
        super().__init__(matches)
        self.total = total

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for every match; paths have their nodes joined by `, `."""
        import pandas

        columns = ["run", "task", "model", "nodes", "role", "outcome", "confidence", "score"]
        rows = [
            (m.run_id, m.task, m.model, ", ".join(map(str, m.nodes.values())), m.role or None,
             m.outcome, m.confidence, m.score)
            for m in self
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        html: str = self.to_pandas().to_html(index=False, escape=True)
        return html


@dataclass(frozen=True, slots=True)
class Filters:
    """What matches must have; None: anything."""

    text: str | None = None
    role: str | None = None
    verdict: str | None = None
    task: str | None = None
    model: str | None = None

    @property
    def words(self) -> list[str]:
        """The different words of the text. Raises UserError if they are too many."""
        words = list(dict.fromkeys((self.text or "").lower().split()))
        if len(words) > MOST_WORDS:
            raise UserError(
                f"A text search takes at most {MOST_WORDS} words; this has {len(words)}."
            )
        return words

    def on_run(self, query: Query) -> None:
        """Add the conditions on runs, table `r`, to a query."""
        if self.task is not None:
            query.conditions.append(f"r.task = {query.value(self.task)}")
        if self.model is not None:
            name = query.value(self.model)
            query.conditions.append(f"(r.model = {name} OR r.model_id = {name})")

    def on_standing(self, query: Query) -> None:
        """Add the conditions on standings, table `s`, to a query."""
        if self.role is not None:
            query.conditions.append(f"s.role = {query.value(self.role)}")
        if self.verdict is not None:
            query.conditions.append(f"s.outcome = {query.value(self.verdict)}")


COLUMNS = "r.id, r.task, r.model, s.key, s.role, s.outcome, s.confidence, s.description"
HAS_WORD = "contains(lower({0}.role || ' ' || {0}.description), {1})"


def label_match(row: tuple[Any, ...]) -> Match:
    """A row of `COLUMNS` and the score as a match."""
    run_id, task, model, key, role, outcome, confidence, description, score = row[:9]
    nodes = {role or "component": node_of(key)}
    score = None if score is None else round(score, 4)
    return Match(
        run_id, task, model, nodes, role or "", outcome, confidence, description or "", score
    )


def with_clause(query: Query) -> str:
    return f"WITH RECURSIVE {', '.join(query.tables)}" if query.tables else ""


def limit_clause(limit: int | None) -> str:
    return "" if limit is None else f"LIMIT {int(limit)}"
