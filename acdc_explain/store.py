"""One DuckDB file that keeps every record as soon as it exists."""

from __future__ import annotations

import atexit
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from . import full_text, rows
from .behavior import Behavior
from .circuit import Circuit
from .claim import Holder
from .curve import Sized
from .errors import UserError
from .evidence import Evidence
from .exchange import Exchange
from .ids import canonical_json
from .indexing import index_all, index_evidence, index_run
from .label import Labeling
from .motif import Enrichment, Motif
from .pattern import Pattern
from .reading import (
    read_circuit,
    read_headers,
    read_labelings,
    read_replies,
    read_run,
    read_task,
)
from .run import Run, RunHeader
from .schema import MIGRATIONS, VERSION, Connection
from .search import (
    Filters,
    Match,
    Matches,
    check_roles,
    component,
    count_query,
    label_match,
    labels_query,
    like_query,
    nearest,
    path_match,
    paths_query,
)
from .summary import Summary
from .task import Task
from .verdict import Judging
from .verifying import problems
from .writing import (
    add_behavior,
    add_circuit,
    add_evidence,
    add_exchanges,
    add_found,
    add_header,
    add_judgings,
    add_keyed,
    add_labelings,
    add_labels,
    add_motifs,
    add_task,
    add_verdicts,
    answered,
    append,
    link_labelings,
    number_of,
)

LOCK_SECONDS = 30.0
CLAIMS = "asking"  # the book in which it is noted who asks an LLM what
CONFIG: dict[str, Any] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": True,  # the file itself; switched off right after opening
}

_turn = threading.Lock()  # one thread of a process at a time: there is one engine
_engines: list[
    tuple[int, duckdb.DuckDBPyConnection]
] = []  # those of processes forked from are kept


def _engine() -> duckdb.DuckDBPyConnection:
    """DuckDB without a file. Starting it takes ten times as long as attaching a store to it."""
    if not _engines or _engines[-1][0] != os.getpid():
        _engines.append((os.getpid(), duckdb.connect(":memory:", config=CONFIG)))
    return _engines[-1][1]


def _stop_engine() -> None:
    """After an error it may be of no more use."""
    if _engines and _engines[-1][0] == os.getpid():
        _engines.pop()[1].close()


def _detach(connection: Connection) -> None:
    """Close the file, whatever happened: with the engine, if there is no other way."""
    try:
        with suppress(duckdb.TransactionException):
            connection.execute("ROLLBACK")  # of what an error left undone
        connection.execute("USE memory")
        connection.execute("DETACH store")
    except duckdb.Error as error:
        _stop_engine()
        _pass_on_interrupt(error)
    except BaseException:
        _stop_engine()
        raise


def _pass_on_interrupt(error: Exception) -> None:
    """DuckDB turns Ctrl-C during a query into an error of its own."""
    if isinstance(error, duckdb.InterruptException) or "Query interrupted" in str(error):
        raise KeyboardInterrupt from error


atexit.register(_stop_engine)


class Store:
    """Append-only: adding a record that is there changes nothing. The file is not kept open."""

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
    def _open(self) -> Iterator[Connection]:
        """A connection inside one transaction; commits if the body ends well."""
        with self._attached() as connection:
            try:
                found = self._version(connection)
                connection.execute("BEGIN")
                if found != VERSION:
                    self._migrate(connection, found)
                yield connection
                connection.execute("COMMIT")
            except duckdb.Error as error:
                _stop_engine()
                raise self._failed(error) from error

    @contextmanager
    def _attached(self) -> Iterator[Connection]:
        """A connection to the file, which no other process can open until the end."""
        with _turn:
            connection = self._attach()
            try:
                yield connection
            finally:
                _detach(connection)

    def _failed(self, error: duckdb.Error) -> UserError:
        _pass_on_interrupt(error)
        if self._read_only:
            return UserError(
                f"{self.path} may only be read: nothing was written; use a copy, or another --db."
            )
        return UserError(f"{self.path}: {_first_line(error)}")

    @property
    def _read_only(self) -> bool:
        """May be searched and exported all the same."""
        return self.path.exists() and not os.access(self.path, os.W_OK)

    def _attach(self) -> Connection:
        deadline = time.monotonic() + LOCK_SECONDS
        how = "READ_ONLY" if self._read_only else "READ_WRITE"
        while True:
            engine = _engine()
            try:
                engine.execute(f"ATTACH {_quoted(self.path)} AS store ({how})")
                engine.execute("USE store")
                return engine
            except duckdb.IOException as error:
                if "lock on file" not in str(error):
                    raise UserError(
                        f"{self.path} cannot be opened: {_first_line(error)}"
                    ) from error
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.path} is in use by {_holder(error)}, still after "
                        f"{LOCK_SECONDS:.0f} s; wait for it, stop it, or use another --db."
                    ) from error
                time.sleep(random.uniform(0.005, 0.05))  # or two that wait always meet again
            except (duckdb.Error, RuntimeError) as error:
                _stop_engine()
                _pass_on_interrupt(error)
                raise UserError(
                    f"{self.path} is no DuckDB store ({_first_line(error)}); give another --db."
                ) from error
            except BaseException:  # Ctrl-C: the file may be attached or not
                _stop_engine()
                raise

    def _version(self, connection: Connection) -> int:
        """Of the schema; 0: a new file."""
        try:
            row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except duckdb.CatalogException:
            tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
            if tables:
                raise UserError(
                    f"{self.path} is a database of something else (it has a table "
                    f"{min(tables)!r}); give another --db."
                ) from None
            return 0
        return row[0] if row else 0

    def _migrate(self, connection: Connection, found: int) -> None:
        if found > VERSION:
            raise UserError(
                f"{self.path} was written by a newer acdc-explain (schema {found}, this one knows "
                f"{VERSION}); upgrade with `pip install -U acdc-explain`."
            )
        if found == 0:
            connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT)")
        for step in MIGRATIONS[found:]:
            connection.execute(step)
        index_all(connection)
        connection.execute(
            "INSERT INTO meta VALUES ('schema', ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value",
            [VERSION],
        )

    # --- adding --------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        with self._open() as connection:
            add_task(connection, task)

    def add_header(self, header: RunHeader) -> None:
        """Add a run, or bring its status and circuit up to date."""
        with self._open() as connection:
            add_header(connection, header)
            index_run(connection, header.id)

    def add_behavior(self, run_id: str, behavior: Mapping[str, Behavior]) -> None:
        """How the model did on the run's prompts, by split."""
        with self._open() as connection:
            add_behavior(connection, run_id, behavior)

    def add_circuit(self, circuit: Circuit) -> None:
        with self._open() as connection:
            add_circuit(connection, circuit)

    def add_evidence(self, run_id: str, evidence: Sequence[Evidence]) -> None:
        with self._open() as connection:
            add_evidence(connection, run_id, evidence)
            index_evidence(connection, evidence)

    def add_exchange(self, run_id: str | None, exchange: Exchange) -> None:
        """Of a run, or of none: a benchmark's."""
        with self._open() as connection:
            add_exchanges(connection, run_id, [exchange])

    def add_labelings(self, run_id: str, labelings: Sequence[Labeling]) -> None:
        """Answers to questions: labels, or failures. Labels of a node end its failure.

        A question that another command answered in the meantime keeps that answer.
        """
        with self._open() as connection:
            first = read_labelings(connection, answered(connection, labelings))
            link_labelings(connection, run_id, first)
            held = {answer.question_id for answer in first}
            labelings = [x for x in labelings if x.question_id not in held]
            evidence = [x.evidence for x in labelings if x.evidence is not None]
            add_evidence(connection, run_id, evidence)
            add_labels(connection, run_id, [label for x in labelings for label in x.labels])
            add_labelings(connection, run_id, labelings)
            index_run(connection, run_id)

    def link_labelings(self, run_id: str, labelings: Sequence[Labeling]) -> None:
        """Say that a run uses labels that an earlier run was given, with all behind them."""
        with self._open() as connection:
            link_labelings(connection, run_id, labelings)
            index_run(connection, run_id)

    def add_summary(self, summary: Summary) -> None:
        """In place of an earlier one of the same run."""
        with self._open() as connection:
            connection.execute(
                "DELETE FROM summaries WHERE run_id = ? AND id <> ?", [summary.run_id, summary.id]
            )
            add_keyed(connection, "summaries", [rows.summary_row(summary)])

    def add_judgings(self, run_id: str, judgings: Sequence[Judging]) -> None:
        with self._open() as connection:
            add_verdicts(connection, run_id, [judging.verdict for judging in judgings])
            add_judgings(connection, run_id, judgings)
            index_run(connection, run_id)

    def add_motifs(self, run_id: str, motifs: Sequence[Motif]) -> None:
        with self._open() as connection:
            add_motifs(connection, run_id, motifs)

    def add_run(self, run: Run) -> bool:
        """Add a whole run. False if it is there already.

        Raises UserError if a run of the same id holds something else.
        """
        return self.add_runs([run])[0]

    def add_runs(self, runs: Iterable[Run]) -> list[bool]:
        """Add whole runs in one transaction: all or none. Which were not there before."""
        with self._open() as connection:
            return [self._add_run(connection, run) for run in runs]

    def _add_run(self, connection: Connection, run: Run) -> bool:
        present = read_headers(connection, "WHERE id = $id", {"id": run.id})
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
        add_header(connection, run.header)
        if run.task is not None:
            add_task(connection, run.task)
        if run.circuit is not None:
            add_circuit(connection, run.circuit)
        add_behavior(connection, run.id, run.behavior)
        add_found(connection, run.id, run)
        add_verdicts(connection, run.id, run.verdicts)
        add_motifs(connection, run.id, run.motifs)
        add_keyed(connection, "summaries", map(rows.summary_row, filter(None, [run.summary])))
        index_evidence(connection, run.evidence)
        index_run(connection, run.id)
        return True

    def add_labeled(self, run_id: str, run: Run) -> None:
        """Another run's evidence and labels, with all behind them, for a run that tests them."""
        with self._open() as connection:
            add_found(connection, run_id, run)
            index_run(connection, run_id)

    # --- getting -------------------------------------------------------------------------------

    def runs(self) -> list[RunHeader]:
        """All runs, the newest first."""
        with self._open() as connection:
            return read_headers(connection, "ORDER BY created_at DESC, id")

    def header(self, run: str) -> RunHeader:
        """A run by id, unique prefix of an id, or `last`. Raises UserError."""
        with self._open() as connection:
            return self._one(connection, run)

    def _one(self, connection: Connection, run: str) -> RunHeader:
        found = (
            read_headers(connection, "ORDER BY created_at DESC, id LIMIT 1")
            if run == "last"
            else read_headers(connection, "WHERE starts_with(id, $name) ORDER BY id", {"name": run})
        )
        if len(found) == 1:
            return found[0]
        if not found and connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None:
            raise UserError(f"{self.path} holds no run yet; make one with `acdc-explain run ioi`.")
        if not found:
            raise UserError(f"{self.path} holds no run {run[:80]!r}; see `acdc-explain runs`.")
        ids = ", ".join(header.id for header in found[:5])
        raise UserError(f"{run!r} is the beginning of {len(found)} runs ({ids}); write more of it.")

    def status(self, run_id: str) -> str | None:
        """Of the run with exactly this id; None if there is none."""
        with self._open() as connection:
            row = connection.execute("SELECT status FROM runs WHERE id = ?", [run_id]).fetchone()
        return row[0] if row else None

    def get(self, run: str) -> Run:
        """A run with everything found, by id, prefix or `last`. Raises UserError."""
        with self._open() as connection:
            return read_run(connection, self._one(connection, run))

    def sizes(self, circuit: Circuit) -> list[Sized]:
        """All circuits of the same task, model and metric that have edges."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT number, id, discoverer, settings, circuit, corrupt, clean FROM circuits "
                "WHERE task_id = ? AND model_id = ? AND metric = ? AND clean <> corrupt "
                "ORDER BY id",
                [circuit.task_id, circuit.model_id, circuit.faithfulness.metric],
            ).fetchall()
            counts = {
                number: connection.execute(
                    "SELECT count(*) FROM edges WHERE src_key >= ? AND src_key < ?",
                    rows.keys_of(number),
                ).fetchone()[0]
                for number, *_ in found
            }
        return [
            Sized(name, discoverer, json.loads(settings), counts[number],
                  (kept - corrupt) / (clean - corrupt))
            for number, name, discoverer, settings, kept, corrupt, clean in found
            if counts[number]
        ]  # fmt: skip

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
            return read_circuit(connection, row[0]) if row else None

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
                "SELECT * FROM evidence WHERE circuit = ? AND collector = ? AND settings = ?",
                [
                    number_of(connection, "circuits", circuit_id),
                    collector,
                    canonical_json(settings),
                ],
            ).fetchall()
        return [rows.to_evidence(row) for row in found]

    def find_replies(self, request_id: str) -> list[Exchange]:
        """What was replied to a request before, good or bad."""
        with self._open() as connection:
            return read_replies(connection, request_id)

    def claim(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        """Keep other commands from asking the same, until it is released or `seconds` are over.

        The replies there are by now; None: another command is asking just now.
        """
        with self._open() as connection:
            row = connection.execute(
                "SELECT content FROM pages WHERE book = ? AND page = ?", [CLAIMS, request_id]
            ).fetchone()
            if holder.respects(json.loads(row[0]) if row else None):
                return None
            connection.execute(
                "INSERT INTO pages VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET content = excluded.content",
                [CLAIMS, request_id, canonical_json(holder.claim(seconds))],
            )
            return read_replies(connection, request_id)

    def release(self, request_id: str, holder: Holder) -> None:
        with self._open() as connection:
            connection.execute(
                "DELETE FROM pages WHERE book = ? AND page = ? AND contains(content, ?)",
                [CLAIMS, request_id, holder.token],
            )

    def find_labelings(self, question_ids: Iterable[str]) -> list[Labeling]:
        """The answers that were given to the same questions before."""
        with self._open() as connection:
            return read_labelings(connection, list(question_ids))

    def find_judgings(self, question_ids: Iterable[str]) -> list[Judging]:
        """The verdicts that were reached before on the same questions."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT judgings.id, verdicts.* FROM judgings "
                "JOIN verdicts ON verdicts.id = judgings.verdict_id "
                "WHERE list_contains(?, judgings.id)",
                [list(question_ids)],
            ).fetchall()
        return [Judging(question_id, rows.to_verdict(row)) for question_id, *row in found]

    def task(self, task_id: str) -> Task:
        """A stored task. Raises KeyError."""
        with self._open() as connection:
            task = read_task(connection, task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    # --- the file as a whole -------------------------------------------------------------------

    def verify(self) -> list[str]:
        """What is wrong with the store, a sentence each: ids that do not fit, lost references."""
        with self._open() as connection:
            return list(problems(connection, lambda name: read_circuit(connection, name)))

    def compact(self) -> tuple[int, int]:
        """Write the file anew without the gaps that changes leave; its size before and after.

        The old file is there until the new one is complete.
        """
        new, before = self.path.with_name(f"{self.path.name}.new"), self.path.stat().st_size
        new.unlink(missing_ok=True)
        with self._open():
            pass  # brought up to date
        with self._attached() as connection:
            try:
                connection.execute(f"ATTACH {_quoted(new)} AS compacted")
                connection.execute("COPY FROM DATABASE store TO compacted")
                connection.execute("DETACH compacted")
                new.replace(self.path)  # others wait for the old file's lock, then open this one
            except (duckdb.Error, OSError) as error:
                _stop_engine()
                new.unlink(missing_ok=True)
                raise UserError(
                    f"{self.path} was not compacted and is as it was: {_first_line(error)}"
                ) from error
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
        like: str | None = None,
        verdict: str | None = None,
        task: str | None = None,
        model: str | None = None,
        limit: int = 50,
    ) -> Matches:
        """Labeled components over all runs, or with `pattern` paths of them. Filters combine.

        `like` is RUN:NODE: components that behave as that one does, those of other models first.
        Raises UserError.
        """
        filters = Filters(text, role, verdict, task, model)
        if like is not None and pattern is not None:
            raise UserError("A search is by pattern or by likeness, not both.")
        if like is not None:
            return Matches(self._search_like(like, filters, limit))
        if pattern is not None:
            return Matches(self._search_paths(Pattern.parse(pattern), filters, limit))
        with self._open() as connection:
            ranked = None
            if filters.words and full_text.usable(connection, filters.words):
                with memory() as empty:
                    ranked = full_text.rank(empty, full_text.texts(connection), filters.words)
            found = connection.execute(*labels_query(filters, limit, ranked)).fetchall()
        return Matches(label_match(row) for row in found)

    def _search_paths(self, pattern: Pattern, filters: Filters, limit: int) -> list[Match]:
        with self._open() as connection:
            check_roles(connection, pattern)
            found = connection.execute(*paths_query(pattern, filters, limit)).fetchall()
        return [path_match(pattern, row) for row in found]

    def _search_like(self, like: str, filters: Filters, limit: int) -> list[Match]:
        run, node = component(like)
        with self._open() as connection:
            header = self._one(connection, run)
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

    def match(self, run_id: str, patterns: Mapping[str, str]) -> list[Motif]:
        """Where named patterns match in one run's labeled circuit."""
        header = self.header(run_id)
        motifs: list[Motif] = []
        with self._open() as connection:
            number = number_of(connection, "runs", header.id)
            for name, text in patterns.items():
                pattern = Pattern.parse(text)
                query = paths_query(pattern, Filters(), None, number)
                for row in connection.execute(*query).fetchall():
                    nodes = path_match(pattern, row).nodes
                    motifs.append(Motif(name, header.id, header.circuit_id or "", nodes))
        return motifs

    # --- motifs --------------------------------------------------------------------------------

    def labeled_runs(self) -> dict[tuple[str, str], list[str]]:
        """By task and model, of each circuit with labels the newest run; the newest first."""
        with self._open() as connection:
            found = connection.execute(
                "SELECT task, model, arg_max(id, (created_at, id)) AS newest FROM runs "
                "WHERE number IN (SELECT run FROM standings WHERE role IS NOT NULL) "
                "GROUP BY task, model, circuit_id "
                "ORDER BY task, model, max(created_at) DESC, newest"
            ).fetchall()
        groups: dict[tuple[str, str], list[str]] = {}
        for task, model, run_id in found:
            groups.setdefault((task, model), []).append(run_id)
        return groups

    def count(self, pattern: Pattern) -> dict[str, int]:
        """How many paths fit a pattern, by the id of the run; runs without any are left out."""
        with self._open() as connection:
            check_roles(connection, pattern)
            found = dict(connection.execute(*count_query(pattern)).fetchall())
            ids = connection.execute("SELECT number, id FROM runs").fetchall()
        return {run_id: found[number] for number, run_id in ids if number in found}

    def standings(self, run_id: str) -> list[tuple[Any, ...]]:
        """The rows of the table, as patterns see them."""
        with self._open() as connection:
            number = number_of(connection, "runs", run_id)
            found: list[tuple[Any, ...]] = connection.execute(
                "SELECT * FROM standings WHERE run = ?", [number]
            ).fetchall()
        return found

    def circuit(self, run_id: str) -> Circuit | None:
        with self._open() as connection:
            header = read_headers(connection, "WHERE id = $id", {"id": run_id})[0]
            return read_circuit(connection, header.circuit_id) if header.circuit_id else None

    def enrichments(self, run_id: str) -> dict[str, Enrichment]:
        """What was computed before, by the text of the pattern."""
        with self._open() as connection:
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


@contextmanager
def memory() -> Iterator[Connection]:
    """An empty database that is gone at the end."""
    connection = duckdb.connect(":memory:", config=CONFIG)
    try:
        yield connection
    finally:
        connection.close()


# --- helpers on an open connection -------------------------------------------------------------


def _holder(error: duckdb.Error) -> str:
    """Who holds the lock, as far as DuckDB says."""
    found = re.search(r"lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)", str(error))
    if found is None:
        return "another process"
    return f"process {found['pid']} ({Path(found['program']).name})"


def _quoted(path: Path) -> str:
    """As SQL; ATTACH takes no parameters before DuckDB 2."""
    return "'" + str(path).replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
