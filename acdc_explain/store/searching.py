"""Searching a store: components, paths and motifs over all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import UserError
from ..records.circuit import Circuit
from ..records.pattern import Pattern
from ..records.run.motif import MOST_MATCHES, Enrichment, Motif
from .database import StoreFile
from .duck.engine import memory
from .search import full_text
from .search.compile import paths_query
from .search.queries import (
    Filters,
    Match,
    Matches,
    check_roles,
    component,
    count_paths,
    label_match,
    labels_query,
    like_query,
    nearest,
    path_match,
    search_paths,
    wanted_paths,
)
from .tables import rows
from .tables.read import find_run, read_circuit, read_headers
from .tables.write import append, number_of


class StoreSearching(StoreFile):
    """No search holds the file longer than `connecting.SEARCH_SECONDS`."""

    def search(
        self,
        text: str | None = None,
        *,
        role: str | None = None,
        pattern: str | None = None,
        like: str | None = None,
        verdict: str | None = None,
        task: str | None = None,
        model: str | None = None,
        limit: int = 50,
        any_verdict: bool = False,
    ) -> Matches:
        """Labeled components over all runs, or with `pattern` paths of them. Filters combine.

        Roles in a pattern count where the label is supported, with `any_verdict` wherever it was
        proposed. `like` is RUN:NODE: components that behave as that one does, those of other
        models first. Raises UserError.
        """
        filters = Filters(text, role, verdict, task, model)
        if like is not None and pattern is not None:
            raise UserError("A search is by pattern or by likeness, not both.")
        if like is not None:
            found = self._search_like(like, filters, limit)
            return Matches(found, len(found) if len(found) < limit else None)
        if pattern is not None:
            parsed = Pattern.parse(pattern)
            with self._searching() as connection:
                return Matches(*search_paths(connection, parsed, filters, limit, any_verdict))
        with self._searching("narrow it with `role=`, `task=` or `model=`") as connection:
            ranked = None
            if filters.words and full_text.usable(connection, filters.words):
                with memory("fts") as empty:
                    ranked = full_text.rank(empty, full_text.texts(connection), filters.words)
            rows = connection.execute(*labels_query(filters, limit, ranked)).fetchall()
        return Matches(map(label_match, rows), rows[0][-1] if rows else 0)

    def _search_like(self, like: str, filters: Filters, limit: int) -> list[Match]:
        run, node = component(like)
        with self._searching("narrow it with `role=`, `task=` or `model=`") as connection:
            header = find_run(connection, self.path, run)
            key = rows.node_key(number_of(connection, "circuits", header.circuit_id), node)
            row = connection.execute(
                "SELECT vector FROM fingerprints WHERE key = ?", [key]
            ).fetchone()
            if row is None or row[0] is None:
                raise UserError(
                    f"Nothing was measured of {node} in run {header.id} that tells it from others; "
                    "`acdc-explain show` lists its components."
                )
            roles = connection.execute("SELECT role FROM standings WHERE key = ?", [key]).fetchall()
            found: list[tuple[Any, ...]] = []
            for own in (False, True):
                query = partial(like_query, row[0], node, header.model_id, own, filters)
                wanted = limit - len(found)
                found += nearest(connection, query, {role for (role,) in roles}, wanted)
            return [label_match(row) for row in found]

    def match(
        self, run_id: str, patterns: Mapping[str, str], *, any_verdict: bool = False
    ) -> list[Motif]:
        """Where named patterns match in one run's labeled circuit, of each the first places.

        Roles count where the label is supported, with `any_verdict` wherever it was proposed.
        """
        motifs: list[Motif] = []
        with self._searching("leave out the plugin whose pattern it is") as connection:
            header = find_run(connection, self.path, run_id)
            told = (header.id, header.task, header.model)
            number = number_of(connection, "runs", header.id)
            wanted = wanted_paths(Filters(), [number], any_verdict=any_verdict)
            for name, text in patterns.items():
                pattern = Pattern.parse(text)
                query = paths_query(pattern, wanted, MOST_MATCHES)
                for _, *keys in connection.execute(*query).fetchall():
                    nodes = path_match(pattern, told, keys).nodes
                    motifs.append(Motif(name, header.id, header.circuit_id or "", nodes))
        return motifs

    # --- motifs --------------------------------------------------------------------------------

    def labeled_runs(self) -> dict[tuple[str, str], list[str]]:
        """The runs with labels by task and model; the first is the one that speaks for them.

        That is one that is done before others, one made here before imported ones, and of those
        the newest.
        """
        with self._reading() as connection:
            found = connection.execute(
                "SELECT task, model, id FROM runs "
                "WHERE number IN (SELECT run FROM standings WHERE role IS NOT NULL) "
                "ORDER BY task, model, status = 'done' DESC, origin IS NULL DESC, "
                "created_at DESC, id"
            ).fetchall()
        groups: dict[tuple[str, str], list[str]] = {}
        for task, model, run_id in found:
            groups.setdefault((task, model), []).append(run_id)
        return groups

    def count(
        self, pattern: Pattern, runs: Sequence[str] | None = None, *, any_verdict: bool = False
    ) -> dict[str, int]:
        """How many paths fit a pattern, by the id of the run; runs without any are left out.

        `runs`: in these alone. Roles count as in `match`.
        """
        with self._searching() as connection:
            check_roles(connection, pattern)
            ids = dict(connection.execute("SELECT number, id FROM runs ORDER BY number").fetchall())
            chosen = [n for n, run_id in ids.items() if runs is None or run_id in runs]
            found = count_paths(connection, pattern, Filters(), chosen, any_verdict)
        return {ids[number]: n for number, n in found.items()}

    def standings(self, run_id: str) -> list[tuple[Any, ...]]:
        """The rows of the table, as patterns see them."""
        with self._reading() as connection:
            number = number_of(connection, "runs", run_id)
            found: list[tuple[Any, ...]] = connection.execute(
                "SELECT * FROM standings WHERE run = ?", [number]
            ).fetchall()
        return found

    def circuit(self, run_id: str) -> Circuit | None:
        with self._reading() as connection:
            header = read_headers(connection, "WHERE id = $id", {"id": run_id})[0]
            return read_circuit(connection, header.circuit_id) if header.circuit_id else None

    def enrichments(self, run_id: str) -> dict[str, Enrichment]:
        """What was computed before, by the text of the pattern."""
        with self._reading() as connection:
            number = number_of(connection, "runs", run_id)
            found = connection.execute(
                "SELECT pattern, found, counts FROM enrichments WHERE run = ?", [number]
            ).fetchall()
        return {text: Enrichment(n, tuple(counts)) for text, n, counts in found}

    def add_enrichments(self, run_id: str, new: Mapping[str, Enrichment]) -> None:
        with self._open() as connection:
            number = number_of(connection, "runs", run_id)
            values = [(number, text, one.found, list(one.counts)) for text, one in new.items()]
            append(connection, "enrichments", values)
