"""One DuckDB file that keeps every record as soon as it exists."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from . import rows
from .circuit import Circuit, Edge, Faithfulness
from .errors import UserError
from .evidence import Evidence
from .exchange import Exchange
from .ids import canonical_json
from .label import Label, Labeling
from .motif import Motif, Pattern
from .run import Run, RunHeader
from .schema import MIGRATIONS, VERSION
from .search import Filters, Match, label_match, labels_query, path_match, paths_query
from .summary import Summary
from .task import Task
from .verdict import Judging, Verdict
from .verifying import problems

LOCK_SECONDS = 30.0
CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": True,  # the file itself; switched off right after opening
}

_turn = threading.Lock()  # DuckDB refuses a second connection while a thread closes the first


class Store:
    """Append-only: adding a record that is there changes nothing. No connection is kept open."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a store's file with --db.")
        if not self.path.parent.is_dir():
            raise UserError(
                f"The folder {self.path.parent} does not exist; make it or change --db."
            )

    # --- opening -------------------------------------------------------------------------------

    @contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside one transaction; commits if the body ends well."""
        with _turn:
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                self._migrate(connection)
                yield connection
                connection.execute("COMMIT")
            except duckdb.Error as error:
                raise UserError(f"{self.path}: {_first_line(error)}") from error
            finally:
                connection.close()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return duckdb.connect(str(self.path), config=CONFIG)
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise UserError(
                        f"{self.path} cannot be opened: {_first_line(error)}"
                    ) from error
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.path} is in use by another process, still after "
                        f"{LOCK_SECONDS:.0f} s ({_first_line(error)}); stop it or use another --db."
                    ) from error
                time.sleep(0.05)
            except (duckdb.Error, RuntimeError) as error:
                raise UserError(
                    f"{self.path} is no DuckDB store ({_first_line(error)}); give another --db."
                ) from error

    def _migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        tables = {name for (name,) in connection.execute("SHOW TABLES").fetchall()}
        if tables and "meta" not in tables:
            raise UserError(
                f"{self.path} is a database of something else (it has a table {min(tables)!r}); "
                "give another --db."
            )
        connection.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BIGINT)")
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        found = row[0] if row else 0
        if found > VERSION:
            raise UserError(
                f"{self.path} was written by a newer acdc-explain (schema {found}, this one knows "
                f"{VERSION}); upgrade with `pip install -U acdc-explain`."
            )
        if found == VERSION:
            return
        for step in MIGRATIONS[found:]:
            connection.execute(step)
        connection.execute(
            "INSERT INTO meta VALUES ('schema', ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value",
            [VERSION],
        )

    # --- adding --------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        with self._open() as connection:
            _insert(connection, "tasks", [(task.id, task.name, canonical_json(task))])

    def add_header(self, header: RunHeader) -> None:
        """Add a run, or bring its status and circuit up to date."""
        with self._open() as connection:
            _insert(connection, "runs", [rows.run_row(header)])
            connection.execute(
                "UPDATE runs SET status = ?, circuit_id = ? WHERE id = ?",
                [header.status, header.circuit_id, header.id],
            )

    def add_circuit(self, circuit: Circuit) -> None:
        with self._open() as connection:
            _insert_circuit(connection, circuit)

    def add_evidence(self, run_id: str, evidence: Sequence[Evidence]) -> None:
        with self._open() as connection:
            _insert(connection, "evidence", map(rows.evidence_row, evidence))
            _insert(connection, "run_evidence", [(run_id, e.id) for e in evidence])

    def add_exchange(self, run_id: str | None, exchange: Exchange) -> None:
        """Of a run, or of none: a benchmark's."""
        with self._open() as connection:
            _insert(connection, "exchanges", [rows.exchange_row(exchange)])
            if run_id is not None:
                _insert(connection, "run_exchanges", [(run_id, exchange.id)])

    def add_labelings(self, run_id: str, labelings: Sequence[Labeling]) -> None:
        """Answers to questions: labels, or failures. Labels of a node end its failure."""
        labels = [label for answer in labelings for label in answer.labels]
        evidence = [answer.evidence for answer in labelings if answer.evidence is not None]
        failures = [answer.failure for answer in labelings if answer.failure is not None]
        with self._open() as connection:
            _insert(connection, "evidence", map(rows.evidence_row, evidence))
            _insert(connection, "run_evidence", [(run_id, e.id) for e in evidence])
            _insert(connection, "labels", map(rows.label_row, labels))
            _insert(connection, "run_labels", [(run_id, label.id) for label in labels])
            _insert(connection, "labelings", [rows.labeling_row(x) for x in labelings if x.labels])
            _forget_failures(connection, run_id, labels)
            _insert(
                connection,
                "failures",
                [rows.failure_row(run_id, failure) for failure in failures],
                "UPDATE SET labeler = excluded.labeler, reason = excluded.reason",
            )

    def link_labelings(self, run_id: str, labelings: Sequence[Labeling]) -> None:
        """Say that a run uses labels that an earlier run was given, with all behind them."""
        labels = [label for answer in labelings for label in answer.labels]
        exchanges = {name for answer in labelings for name in answer.exchange_ids}
        evidence = {name for label in labels for name in label.evidence_ids}
        with self._open() as connection:
            _insert(connection, "run_labels", [(run_id, label.id) for label in labels])
            _insert(connection, "run_exchanges", [(run_id, name) for name in exchanges])
            _insert(connection, "run_evidence", [(run_id, name) for name in evidence])
            _forget_failures(connection, run_id, labels)

    def add_summary(self, summary: Summary) -> None:
        """In place of an earlier one of the same run."""
        with self._open() as connection:
            connection.execute(
                "DELETE FROM summaries WHERE run_id = ? AND id <> ?", [summary.run_id, summary.id]
            )
            _insert(connection, "summaries", [rows.summary_row(summary)])

    def add_judgings(self, run_id: str, judgings: Sequence[Judging]) -> None:
        verdicts = [judging.verdict for judging in judgings]
        with self._open() as connection:
            _insert(connection, "verdicts", map(rows.verdict_row, verdicts))
            _insert(connection, "run_verdicts", [(run_id, verdict.id) for verdict in verdicts])
            answers = [(judging.question_id, judging.verdict.id) for judging in judgings]
            _insert(connection, "judgings", answers)

    def add_motifs(self, motifs: Iterable[Motif]) -> None:
        with self._open() as connection:
            _insert(connection, "motifs", map(rows.motif_row, motifs))

    def add_run(self, run: Run) -> bool:
        """Add a whole run in one transaction. False if it is there already.

        Raises UserError if a run of the same id holds something else.
        """
        with self._open() as connection:
            present = _headers(connection, "WHERE id = ?", [run.id])
            if present:
                held = present[0]
                other_circuit = None not in (held.circuit_id, run.header.circuit_id) and (
                    held.circuit_id != run.header.circuit_id
                )
                if other_circuit or held.settings != run.header.settings:
                    raise UserError(
                        f"{self.path} holds another run with the id {run.id}; nothing was imported."
                    )
                if held.status == "done" or run.header.status != "done":
                    return False
            _insert(connection, "runs", [rows.run_row(run.header)])
            connection.execute(
                "UPDATE runs SET status = ?, circuit_id = ? WHERE id = ?",
                [run.header.status, run.header.circuit_id, run.id],
            )
            if run.circuit is not None:
                _insert_circuit(connection, run.circuit)
            _insert_labeled(connection, run.id, run)
            _insert(connection, "verdicts", map(rows.verdict_row, run.verdicts))
            _insert(connection, "run_verdicts", [(run.id, v.id) for v in run.verdicts])
            _insert(connection, "motifs", map(rows.motif_row, run.motifs))
            _insert(connection, "summaries", map(rows.summary_row, filter(None, [run.summary])))
        return True

    def add_labeled(self, run_id: str, run: Run) -> None:
        """Another run's evidence and labels, with all behind them, for a run that tests them."""
        with self._open() as connection:
            _insert_labeled(connection, run_id, run)

    # --- getting -------------------------------------------------------------------------------

    def runs(self) -> list[RunHeader]:
        """All runs, the newest first."""
        with self._open() as connection:
            return _headers(connection, "ORDER BY created_at DESC, id", [])

    def header(self, run: str) -> RunHeader:
        """A run by id, unique prefix of an id, or `last`. Raises UserError."""
        headers = self.runs()
        if not headers:
            raise UserError(f"{self.path} holds no run yet; make one with `acdc-explain run ioi`.")
        if run == "last":
            return headers[0]
        found = [header for header in headers if header.id.startswith(run)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"{self.path} holds no run {run!r}; see `acdc-explain runs`.")
        ids = ", ".join(header.id for header in found[:5])
        raise UserError(f"{run!r} is the beginning of {len(found)} runs ({ids}); write more of it.")

    def get(self, run: str) -> Run:
        """A run with everything found, by id, prefix or `last`. Raises UserError."""
        header = self.header(run)
        with self._open() as connection:
            circuit = _circuit(connection, header.circuit_id) if header.circuit_id else None
            evidence = _linked(connection, "evidence", "run_evidence", "evidence_id", header.id)
            labels = _linked(connection, "labels", "run_labels", "label_id", header.id)
            exchanges = _linked(connection, "exchanges", "run_exchanges", "exchange_id", header.id)
            verdicts = _linked(connection, "verdicts", "run_verdicts", "verdict_id", header.id)
            motifs = connection.execute(
                "SELECT * FROM motifs WHERE run_id = ? ORDER BY pattern, nodes", [header.id]
            ).fetchall()
            failures, summaries = (
                connection.execute(
                    f"SELECT * FROM {table} WHERE run_id = ?", [header.id]
                ).fetchall()
                for table in ("failures", "summaries")
            )
        return Run(
            header,
            circuit,
            [rows.to_evidence(row) for row in evidence],
            [rows.to_label(row) for row in labels],
            [Verdict(*row[1:]) for row in verdicts],
            [rows.to_motif(row) for row in motifs],
            [Exchange(*row[1:]) for row in exchanges],
            [rows.to_failure(row) for row in failures],
            rows.to_summary(summaries[0]) if summaries else None,
        )

    def find_circuit(
        self, task_id: str, model_id: str, discoverer: str, settings: Mapping[str, Any]
    ) -> Circuit | None:
        """The circuit that the same discovery found before."""
        with self._open() as connection:
            row = connection.execute(
                "SELECT id FROM circuits "
                "WHERE task_id = ? AND model_id = ? AND discoverer = ? AND settings = ?",
                [task_id, model_id, discoverer, canonical_json(settings)],
            ).fetchone()
            return _circuit(connection, row[0]) if row else None

    def read_page(self, book: str, page: str) -> Any:
        """What a search noted about how far it is; None if nothing."""
        with self._open() as connection:
            row = connection.execute(
                "SELECT content FROM pages WHERE book = ? AND page = ?", [book, page]
            ).fetchone()
        return json.loads(row[0]) if row else None

    def write_page(self, book: str, page: str, content: Any) -> None:
        with self._open() as connection:
            connection.execute(
                "INSERT INTO pages VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET content = excluded.content",
                [book, page, canonical_json(content)],
            )

    def find_evidence(
        self, circuit_id: str, collector: str, settings: Mapping[str, Any]
    ) -> list[Evidence]:
        with self._open() as connection:
            found = connection.execute(
                "SELECT * FROM evidence WHERE circuit_id = ? AND collector = ? AND settings = ?",
                [circuit_id, collector, canonical_json(settings)],
            ).fetchall()
        return [rows.to_evidence(row) for row in found]

    def find_replies(self, request_id: str) -> list[Exchange]:
        """What was replied to a request before, good or bad."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT * FROM exchanges WHERE request_id = ? AND reply IS NOT NULL ORDER BY id",
                [request_id],
            ).fetchall()
        return [Exchange(*row[1:]) for row in found]

    def find_labelings(self, question_ids: Iterable[str]) -> list[Labeling]:
        """The answers that were given to the same questions before."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT labelings.id, labelings.exchange_ids, labels.* FROM labelings "
                "JOIN labels ON list_contains(from_json(label_ids, '[\"VARCHAR\"]'), labels.id) "
                "WHERE list_contains(?, labelings.id) ORDER BY labels.id",
                [list(question_ids)],
            ).fetchall()
        answers: dict[tuple[str, str], list[Label]] = {}
        for question_id, exchange_ids, *row in found:
            answers.setdefault((question_id, exchange_ids), []).append(rows.to_label(tuple(row)))
        return [
            Labeling(question_id, tuple(labels), tuple(json.loads(exchange_ids)))
            for (question_id, exchange_ids), labels in answers.items()
        ]

    def find_judgings(self, question_ids: Iterable[str]) -> list[Judging]:
        """The verdicts that were reached before on the same questions."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT judgings.id, verdicts.* FROM judgings "
                "JOIN verdicts ON verdicts.id = judgings.verdict_id "
                "WHERE list_contains(?, judgings.id)",
                [list(question_ids)],
            ).fetchall()
        return [Judging(question_id, Verdict(*row[1:])) for question_id, *row in found]

    def task(self, task_id: str) -> Task:
        """A stored task. Raises KeyError."""
        with self._open() as connection:
            row = connection.execute("SELECT body FROM tasks WHERE id = ?", [task_id]).fetchone()
        if row is None:
            raise KeyError(task_id)
        return rows.to_task(json.loads(row[0]))

    # --- the file as a whole -------------------------------------------------------------------

    def verify(self) -> list[str]:
        """What is wrong with the store, a sentence each: ids that do not fit, lost references."""
        with self._open() as connection:
            return list(problems(connection, lambda name: _circuit(connection, name)))

    def compact(self) -> tuple[int, int]:
        """Write the file anew without the gaps that changes leave; its size before and after.

        The old file is there until the new one is complete.
        """
        new, before = self.path.with_name(f"{self.path.name}.new"), self.path.stat().st_size
        new.unlink(missing_ok=True)
        with self._open() as connection:
            pass  # brought up to date
        with _turn:
            connection = self._connect()
            try:
                connection.execute("ATTACH ? AS compacted", [str(new)])
                name = connection.execute("SELECT current_database()").fetchone()
                assert name is not None
                connection.execute(f'COPY FROM DATABASE "{name[0]}" TO compacted')
                connection.execute("DETACH compacted")
                new.replace(self.path)  # others wait for the old file's lock, then open this one
            except (duckdb.Error, OSError) as error:
                new.unlink(missing_ok=True)
                raise UserError(
                    f"{self.path} was not compacted and is as it was: {_first_line(error)}"
                ) from error
            finally:
                connection.close()
        return before, self.path.stat().st_size

    def write_parquet(self, folder: Path) -> dict[str, int]:
        """Every table as a file of its own; how many rows each has. Raises UserError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}.") from error
        counts = {}
        with self._open() as connection:
            tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
            for table in tables:
                file = str(folder / f"{table}.parquet")
                copied = connection.execute(f"COPY {table} TO ? (FORMAT parquet)", [file])
                counts[table] = copied.fetchall()[0][0]
        return counts

    # --- searching -----------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        role: str | None = None,
        pattern: str | None = None,
        verdict: str | None = None,
        task: str | None = None,
        model: str | None = None,
        limit: int = 50,
    ) -> list[Match]:
        """Labeled components, or with `pattern` paths of them, over all runs. Filters combine."""
        query = None if pattern is None else Pattern.parse(pattern)
        filters = Filters(text, role, verdict, task, model)
        with self._open() as connection:
            if query is None:
                found = connection.execute(*labels_query(filters, limit)).fetchall()
                return [label_match(row) for row in found]
            found = connection.execute(*paths_query(query, filters, limit)).fetchall()
            return [path_match(query, row) for row in found]

    def match(self, run_id: str, patterns: Mapping[str, str]) -> list[Motif]:
        """Where named patterns match in one run's labeled circuit."""
        header = self.header(run_id)
        motifs: list[Motif] = []
        with self._open() as connection:
            for name, text in patterns.items():
                pattern = Pattern.parse(text)
                query = paths_query(pattern, Filters(run_id=header.id), None)
                for row in connection.execute(*query).fetchall():
                    nodes = path_match(pattern, row).nodes
                    motifs.append(Motif(name, header.id, header.circuit_id or "", nodes))
        return motifs


# --- helpers on an open connection -------------------------------------------------------------


def _insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    new: Iterable[Sequence[Any]],
    on_conflict: str = "NOTHING",
) -> None:
    """Add rows that are not there yet."""
    values = [list(row) for row in new]
    if values:
        marks = ", ".join("?" * len(values[0]))
        connection.executemany(
            f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO {on_conflict}", values
        )


def _insert_circuit(connection: duckdb.DuckDBPyConnection, circuit: Circuit) -> None:
    found = circuit.faithfulness
    row = (
        circuit.id,
        circuit.task_id,
        circuit.model_id,
        circuit.discoverer,
        canonical_json(circuit.settings),
        circuit.n_edges_total,
        circuit.n_edges_tested,
        found.metric,
        found.clean,
        found.circuit,
        found.corrupt,
        circuit.seconds,
        circuit.forward_seconds,
        found.random,
        canonical_json({str(edge): share for edge, share in circuit.alternatives.items()}),
    )
    _insert(connection, "circuits", [row])
    nodes = [(circuit.id, str(n), n.kind, n.layer, n.head) for n in circuit.nodes]
    _insert(connection, "nodes", nodes)
    edges = [rows.edge_row(circuit.id, place, edge) for place, edge in enumerate(circuit.edges)]
    _insert(connection, "edges", edges)


def _forget_failures(
    connection: duckdb.DuckDBPyConnection, run_id: str, labels: Sequence[Label]
) -> None:
    """Nodes that have labels now have not failed."""
    for node in {str(label.node) for label in labels}:
        connection.execute("DELETE FROM failures WHERE run_id = ? AND node = ?", [run_id, node])


def _insert_labeled(connection: duckdb.DuckDBPyConnection, run_id: str, run: Run) -> None:
    _insert(connection, "evidence", map(rows.evidence_row, run.evidence))
    _insert(connection, "run_evidence", [(run_id, e.id) for e in run.evidence])
    _insert(connection, "exchanges", map(rows.exchange_row, run.exchanges))
    _insert(connection, "run_exchanges", [(run_id, e.id) for e in run.exchanges])
    _insert(connection, "labels", map(rows.label_row, run.labels))
    _insert(connection, "run_labels", [(run_id, label.id) for label in run.labels])
    _insert(connection, "failures", [rows.failure_row(run_id, f) for f in run.failures])


def _circuit(connection: duckdb.DuckDBPyConnection, circuit_id: str) -> Circuit:
    row = connection.execute("SELECT * FROM circuits WHERE id = ?", [circuit_id]).fetchone()
    edges = connection.execute(
        "SELECT * FROM edges WHERE circuit_id = ? ORDER BY place", [circuit_id]
    ).fetchall()
    assert row is not None
    return Circuit(
        task_id=row[1],
        model_id=row[2],
        discoverer=row[3],
        settings=json.loads(row[4]),
        edges=tuple(map(rows.to_edge, edges)),
        n_edges_total=row[5],
        n_edges_tested=row[6],
        faithfulness=Faithfulness(row[7], row[8], row[9], row[10], row[13]),
        seconds=row[11],
        forward_seconds=row[12],
        alternatives={Edge.parse(name): share for name, share in json.loads(row[14]).items()},
    )


def _headers(
    connection: duckdb.DuckDBPyConnection, clause: str, values: list[Any]
) -> list[RunHeader]:
    found = connection.execute(
        "SELECT id, task, task_id, model, model_id, circuit_id, status, "
        f"strftime(created_at, '%Y-%m-%dT%H:%M:%SZ'), seed, settings, versions FROM runs {clause}",
        values,
    ).fetchall()
    return [rows.to_header(row) for row in found]


def _linked(
    connection: duckdb.DuckDBPyConnection, table: str, link: str, column: str, run_id: str
) -> list[tuple[Any, ...]]:
    """The rows of a table that a run is linked to."""
    return connection.execute(
        f"SELECT {table}.* FROM {table} JOIN {link} ON {table}.id = {link}.{column} "
        f"WHERE {link}.run_id = ? ORDER BY {table}.id",
        [run_id],
    ).fetchall()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
