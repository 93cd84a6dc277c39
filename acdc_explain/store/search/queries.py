"""Searches over all runs, as SQL: components by role, text or likeness, and paths of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...plugins import load_plugins
from ...records.circuit import Node
from ...records.pattern import Pattern
from ..duck.connection import Connection
from ..tables.rows import node_of
from .compile import Query, RecordingTransport, count_query, paths_query

MOST_WORDS = 16
SUPPORTED = "supported"
FIRST_BATCH, LARGEST_BATCH = 256, 2048  # runs in one query
K1, B = 1.2, 0.75  # of BM25, as Lucene and DuckDB's fts have them


@dataclass(frozen=True, slots=True)
class Match:
    """A search result: the labeled component, or each step of a pattern with its node.

    `score`: how well it fits a text (BM25) or how alike it is (cosine), where that was asked.
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
    """What a search found, and of how many; a table in a notebook.

    `total`: how many there are without the limit; None: not known, or not counted.
    """

    def __init__(self, found: Iterable[Match] = (), total: int | None = None) -> None:
        super().__init__(found)
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
    """What a match must have besides its place; None: anything."""

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
        """Of table r, runs."""
        if self.task is not None:
            query.conditions.append(f"r.task = {query.value(self.task)}")
        if self.model is not None:
            name = query.value(self.model)
            query.conditions.append(f"(r.model = {name} OR r.model_id = {name})")

    def on_standing(self, query: Query) -> None:
        """Of table s, standings."""
        if self.role is not None:
            query.conditions.append(f"s.role = {query.value(self.role)}")
        if self.verdict is not None:
            query.conditions.append(f"s.outcome = {query.value(self.verdict)}")


COLUMNS = "r.id, r.task, r.model, s.key, s.role, s.outcome, s.confidence, s.description"
SAYS = "contains(lower({0}.role || ' ' || {0}.description), {1})"


def labels_query(
    filters: Filters, limit: int | None, ranked: Sequence[tuple[int, float]] | None = None
) -> tuple[str, Mapping[str, Any]]:
    """Labeled components, the best fit to the text first, else those of the newest run.

    `ranked`: rowids of standings with their scores, where the text was searched already.
    """
    query = Query(conditions=["s.role IS NOT NULL"])
    filters.on_run(query)
    filters.on_standing(query)
    score, said = "said.score", "JOIN said ON said.id = s.rowid"
    if ranked is None:
        score, said = _score(filters.words, query), ""
    else:
        ids, scores = query.value([id for id, _ in ranked]), query.value([x for _, x in ranked])
        query.tables.append(
            f"said AS (SELECT unnest({ids}::BIGINT[]) AS id, unnest({scores}::DOUBLE[]) AS score)"
        )
    sql = f"""{_with(query)} SELECT {COLUMNS}, {score} AS score, count(*) OVER () AS total
        FROM standings AS s JOIN runs AS r ON r.number = s.run {said} WHERE {query.where()}
        ORDER BY score DESC NULLS LAST, r.created_at DESC, r.id, s.confidence DESC, s.key, s.role
        {_limit(limit)}"""
    return sql, query.values


def _score(words: Sequence[str], query: Query) -> str:
    """BM25 of table s, of which only what says every word is left.

    A word counts wherever it occurs, within others too (`copy` in `copying`).
    """
    if not words:
        return "NULL"
    names = [query.value(word) for word in words]
    counts = ", ".join(
        f"count_if({SAYS.format('standings', name)}) AS n{i}" for i, name in enumerate(names)
    )
    query.tables.append(
        f"counts AS MATERIALIZED (SELECT count(*) AS n, avg(length(role) + 1 + length(description))"
        f" AS mean, {counts} FROM standings WHERE role IS NOT NULL)"
    )
    query.conditions += [SAYS.format("s", name) for name in names]
    text = "lower(s.role || ' ' || s.description)"
    terms = []
    for i, name in enumerate(names):
        times = f"(length({text}) - length(replace({text}, {name}, ''))) / length({name})"
        rare = f"(SELECT ln(1 + (n - n{i} + 0.5) / (n{i} + 0.5)) FROM counts)"
        norm = f"{K1} * (1 - {B} + {B} * length({text}) / (SELECT mean FROM counts))"
        terms.append(f"{rare} * {times} * {K1 + 1} / ({times} + {norm})")
    return " + ".join(terms)


def label_match(row: tuple[Any, ...]) -> Match:
    run_id, task, model, key, role, outcome, confidence, description, score = row[:9]
    nodes = {role or "component": node_of(key)}
    score = None if score is None else round(score, 4)
    return Match(
        run_id, task, model, nodes, role or "", outcome, confidence, description or "", score
    )


def wanted_paths(
    filters: Filters, runs: Sequence[int], *, any_verdict: bool = False
) -> RecordingTransport:
    """With a role or a text, paths through a node that has it.

    A role counts where its label is supported; with the filter `verdict` where it has that one;
    with `any_verdict` wherever it was proposed.
    """
    query = Query()
    outcome = filters.verdict or (None if any_verdict else SUPPORTED)
    through = []
    if filters.role is not None:
        through.append(f"coalesce(role = {query.value(filters.role)}, FALSE)")
        if outcome is not None:
            through[0] += f" AND coalesce(outcome = {query.value(outcome)}, FALSE)"
    if words := filters.words:
        says = " AND ".join(SAYS.format("standings", query.value(word)) for word in words)
        through.append(f"coalesce({says}, FALSE)")
    return RecordingTransport(runs, outcome, filters.verdict is not None, through, query.values)


def runs_query(filters: Filters) -> tuple[str, Mapping[str, Any]]:
    """The runs that may have matches, the newest first: number, id, task, model."""
    query = Query(conditions=["r.circuit_id IS NOT NULL"])
    filters.on_run(query)
    sql = f"""SELECT r.number, r.id, r.task, r.model FROM runs AS r WHERE {query.where()}
        ORDER BY r.created_at DESC, r.id"""
    return sql, query.values


def search_paths(
    connection: Connection, pattern: Pattern, filters: Filters, limit: int, any_verdict: bool
) -> tuple[list[Match], int | None]:
    """Paths whose nodes fit a pattern, those of the newest run first; of how many."""
    check_roles(connection, pattern)
    runs = {number: told for number, *told in connection.execute(*runs_query(filters)).fetchall()}
    found: list[Match] = []
    for batch in batches(list(runs)):
        wanted = wanted_paths(filters, batch, any_verdict=any_verdict)
        query = paths_query(pattern, wanted, limit - len(found))
        for number, *keys in connection.execute(*query).fetchall():
            found.append(path_match(pattern, runs[number], keys))
        if len(found) >= limit:
            counts = count_paths(connection, pattern, filters, list(runs), any_verdict)
            return found, sum(counts.values())
    return found, len(found)


def count_paths(
    connection: Connection,
    pattern: Pattern,
    filters: Filters,
    runs: Sequence[int],
    any_verdict: bool,
) -> dict[int, int]:
    """How many paths fit a pattern, by the number of the run; runs without any are left out."""
    found: dict[int, int] = {}
    for batch in batches(runs):
        wanted = wanted_paths(filters, batch, any_verdict=any_verdict)
        found |= dict(connection.execute(*count_query(pattern, wanted)).fetchall())
    return found


def batches(runs: Sequence[int]) -> Iterator[Sequence[int]]:
    """The newest few first, which may be enough; then more at once, but not all that there are."""
    start, size = 0, FIRST_BATCH
    while start < len(runs):
        yield runs[start : start + size]
        start, size = start + size, min(4 * size, LARGEST_BATCH)


def path_match(pattern: Pattern, run: Sequence[str], keys: Sequence[int]) -> Match:
    """`run`: its id, task and model."""
    named = dict(zip(pattern.step_names, map(node_of, keys)))
    run_id, task, model = run
    return Match(run_id, task, model, named, "", None, None, pattern.text)


def like_query(
    vector: Sequence[float], node: Node, model_id: str, own: bool, filters: Filters, limit: int
) -> tuple[str, Mapping[str, Any]]:
    """Components of a node's kind with the nearest fingerprints: its model's own, or all others'.

    One row for every label of each; rows: as in `label_match`, with the model's id in front.
    """
    query = Query()
    conditions = ["vector IS NOT NULL", f"kind = {query.value(node.kind)}"]
    name = query.value(model_id)
    conditions += (
        [f"model_id = {name}", f"node <> {query.value(str(node))}"]
        if own
        else [f"model_id <> {name}"]
    )
    filters.on_run(query)
    filters.on_standing(query)
    query.conditions += [SAYS.format("s", query.value(word)) for word in filters.words]
    joined = "standings AS s JOIN runs AS r ON r.number = s.run"
    if filters != Filters():
        conditions.append(f"key IN (SELECT s.key FROM {joined} WHERE {query.where()})")
    place = query.value(list(vector))
    query.tables.append(  # of vectors of length 1 the inner product is the cosine
        f"near AS MATERIALIZED (SELECT key, model_id, array_inner_product(vector, "
        f"{place}::FLOAT[{len(vector)}]) AS score FROM fingerprints "
        f"WHERE {' AND '.join(conditions)} ORDER BY score DESC, key LIMIT {int(limit)})"
    )
    sql = f"""{_with(query)} SELECT near.model_id, {COLUMNS}, near.score
        FROM {joined} JOIN near ON near.key = s.key WHERE {query.where()}
        ORDER BY near.score DESC, near.key, s.run DESC"""
    return sql, query.values


def likenesses(
    rows: Sequence[tuple[Any, ...]], roles: Collection[str], limit: int
) -> list[tuple[Any, ...]]:
    """A row for each component of each model, in the order of its nearest fingerprint.

    Of its labels in all runs, one that names one of `roles`, and rather a supported one.
    """
    labels: dict[tuple[str, Node], list[tuple[Any, ...]]] = {}
    for model_id, *row in rows:
        labels.setdefault((model_id, node_of(row[3])), []).append(tuple(row))

    def telling(row: tuple[Any, ...]) -> tuple[bool, bool, float]:
        role, outcome, confidence = row[4:7]
        return role in roles, outcome == "supported", confidence or 0.0

    return [(*max(each, key=telling)[:8], each[0][8]) for each in labels.values()][:limit]


def check_roles(connection: Connection, pattern: Pattern) -> None:
    """Roles of the store and those installed may be named. Raises UserError."""
    found = connection.execute("SELECT DISTINCT role FROM standings WHERE role IS NOT NULL")
    known = {role for (role,) in found.fetchall()}
    if any(role not in known for role, _ in pattern.roles):
        pattern.check({*known, *load_plugins().roles()})


def component(name: str) -> tuple[str, Node]:
    """RUN:NODE. Raises UserError."""
    run, colon, node = name.partition(":")
    if not colon:
        raise UserError(f"`like=` takes RUN:NODE, like last:a1.h3; {name[:80]!r} has no colon.")
    try:
        return run, Node.parse(node)
    except ValueError as error:
        raise UserError(f"`like=`: {str(error)[:200]}.") from None


def nearest(
    connection: Connection,
    query: Callable[[int], tuple[str, Mapping[str, Any]]],
    roles: Collection[str],
    limit: int,
) -> list[tuple[Any, ...]]:
    """The `limit` nearest components. One may be in many circuits: further until all are found."""
    near = 2 * limit + 50
    while limit > 0:
        found = connection.execute(*query(near)).fetchall()
        nearest = likenesses(found, roles, limit)
        if len(nearest) == limit or len({row[4] for row in found}) < near:
            return nearest
        near *= 4
    return []


def _with(query: Query) -> str:
    return f"WITH RECURSIVE {', '.join(query.tables)}" if query.tables else ""


def _limit(limit: int | None) -> str:
    return "" if limit is None else f"LIMIT {int(limit)}"
