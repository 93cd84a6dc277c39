"""One DuckDB file that keeps every record as soon as it exists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..ids import canonical_json
from ..llm.exchange import Exchange
from ..llm.lease import Holder
from ..output.files import check_output
from ..records.circuit import Circuit
from ..records.evidence import Evidence
from ..records.label import LabelResult
from ..records.run.header import RunHeader
from ..records.run.run import Run
from ..records.run.size import CircuitSize
from ..records.task import Task
from ..records.verdict import JudgeResult
from .adding import StoreAdding
from .duck.engine import quoted
from .searching import StoreSearching
from .tables import rows
from .tables.read import (
    FOREIGN,
    Listed,
    find_run,
    own_circuit,
    own_evidence,
    read_circuit,
    read_headers,
    read_label_results,
    read_list,
    read_replies,
    read_run,
    read_task,
    selections,
)
from .verify import problems

CLAIMS = "asking"  # the book in which it is noted who asks an LLM what


class Store(StoreAdding, StoreSearching):
    """Every record as soon as it exists, in a file that is not kept open.

    What was imported is kept beside what was found here, and is never taken for it.
    """

    def runs(self) -> list[RunHeader]:
        """All runs, the newest first."""
        with self._reading() as connection:
            return read_headers(connection, "ORDER BY created_at DESC, id")

    def header(self, run: str) -> RunHeader:
        """A run by id, name, unique prefix of an id, or `last`. Raises UserError."""
        with self._reading() as connection:
            return find_run(connection, self.path, run)

    def list_runs(
        self, task: str | None = None, model: str | None = None, status: str | None = None
    ) -> list[Listed]:
        """Runs with some task, model and status, the newest first, with what they found."""
        with self._reading() as connection:
            return read_list(connection, task, model, status)

    def status(self, run_id: str) -> str | None:
        """Of the run with exactly this id that was made here; None if there is none."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT status FROM runs WHERE id = ? AND origin IS NULL", [run_id]
            ).fetchone()
        return row[0] if row else None

    def get(self, run: str) -> Run:
        """A run with everything found, by id, name, prefix or `last`. Raises UserError."""
        with self._reading() as connection:
            return read_run(connection, find_run(connection, self.path, run))

    def sizes(self, circuit: Circuit) -> list[CircuitSize]:
        """All circuits found here of the same task, model and metric that have edges."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT number, id, discoverer, settings, circuit, corrupt, clean FROM circuits "
                "WHERE task_id = ? AND model_id = ? AND metric = ? AND clean <> corrupt "
                f"AND (id = ? OR id NOT IN ({FOREIGN.format('circuits')})) ORDER BY id",
                [circuit.task_id, circuit.model_id, circuit.faithfulness.metric, circuit.id],
            ).fetchall()
            counts = {
                number: connection.execute(
                    "SELECT count(*) FROM edges WHERE src_key >= ? AND src_key < ?",
                    rows.keys_of(number),
                ).fetchone()[0]
                for number, *_ in found
            }
        return [
            CircuitSize(name, discoverer, json.loads(settings), counts[number],
                  (kept - corrupt) / (clean - corrupt))
            for number, name, discoverer, settings, kept, corrupt, clean in found
            if counts[number]
        ]  # fmt: skip

    def find_circuit(
        self, task_id: str, model_id: str, discoverer: str, settings: Mapping[str, Any]
    ) -> Circuit | None:
        """The circuit that the same discovery found here before."""
        with self._reading() as connection:
            return own_circuit(connection, task_id, model_id, discoverer, settings)

    def read_checkpoint(self, book: str, page: str) -> Any:
        """What a search noted about how far it is; None if nothing."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT content FROM pages WHERE book = ? AND page = ?", [book, page]
            ).fetchone()
        return json.loads(row[0]) if row else None

    def write_checkpoint(self, book: str, page: str, content: Any) -> None:
        with self._open() as connection:
            connection.execute(
                "INSERT INTO pages VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET content = excluded.content",
                [book, page, canonical_json(content)],
            )

    def find_evidence(
        self, circuit_id: str, collector: str, settings: Mapping[str, Any]
    ) -> list[Evidence]:
        """What the same collector measured here before."""
        with self._reading() as connection:
            return own_evidence(connection, circuit_id, collector, settings)

    def find_replies(self, request_id: str) -> list[Exchange]:
        """What was replied to a request of ours before, good or bad."""
        with self._reading() as connection:
            return read_replies(connection, request_id)

    def claim(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        """Keep other commands from asking the same, until it is released or `seconds` are over.

        The replies there are by now; None: another command is asking just now.
        """
        with self._open() as connection:
            row = connection.execute(
                "SELECT content FROM pages WHERE book = ? AND page = ?", [CLAIMS, request_id]
            ).fetchone()
            if holder.is_blocked_by(json.loads(row[0]) if row else None):
                return None
            connection.execute(
                "INSERT INTO pages VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET content = excluded.content",
                [CLAIMS, request_id, canonical_json(holder.lease(seconds))],
            )
            return read_replies(connection, request_id)

    def release(self, request_id: str, holder: Holder) -> None:
        with self._open() as connection:
            connection.execute(
                "DELETE FROM pages WHERE book = ? AND page = ? AND contains(content, ?)",
                [CLAIMS, request_id, holder.token],
            )

    def writer(self, run_id: str) -> RunWriter:
        """What stores the records of a run."""
        return RunWriter(self, run_id)

    @property
    def replies(self) -> StoredReplies:
        """The replies of LLMs; new exchanges belong to no run."""
        return StoredReplies(self, None)

    def find_label_results(self, question_ids: Iterable[str]) -> list[LabelResult]:
        """The answers that were given to the same questions here before. Imports bring none."""
        with self._reading() as connection:
            return read_label_results(connection, list(question_ids))

    def find_judge_results(self, question_ids: Iterable[str]) -> list[JudgeResult]:
        """The verdicts that were reached here before on the same questions. Imports bring none."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT judgings.id, verdicts.* FROM judgings "
                "JOIN verdicts ON verdicts.id = judgings.verdict_id "
                "WHERE list_contains(?, judgings.id)",
                [list(question_ids)],
            ).fetchall()
        return [JudgeResult(question_id, rows.to_verdict(row)) for question_id, *row in found]

    def task(self, task_id: str) -> Task:
        """A stored task. Raises KeyError."""
        with self._reading() as connection:
            task = read_task(connection, task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    # --- the file as a whole -------------------------------------------------------------------

    def verify(self) -> list[str]:
        """What is wrong with the store, a sentence each: ids that do not fit, lost references."""
        with self._reading() as connection:
            return list(problems(connection, lambda name: read_circuit(connection, name)))

    def write_parquet(self, folder: Path, run: str | None = None) -> dict[str, int]:
        """Every table as a file of its own, or what is in it of one run; how many rows each has.

        Raises UserError.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}.") from error
        counts = {}
        with self._open(folder) as connection:
            found = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
            tables = dict.fromkeys(found, "TRUE")
            if run is not None:
                tables = selections(connection, find_run(connection, self.path, run))
            for table, condition in tables.items():
                file = check_output(folder / f"{table}.parquet", self.path)
                copied = connection.execute(
                    f"COPY (SELECT * FROM {table} WHERE {condition}) TO "
                    f"{quoted(os.path.realpath(file))} (FORMAT parquet)"
                )
                counts[table] = copied.fetchall()[0][0]
        return counts


@dataclass(frozen=True)
class StoredReplies:
    """The replies of LLMs in a store, for `llm.session`; new exchanges belong to the run."""

    store: Store
    run_id: str | None

    def find_replies(self, request_id: str) -> list[Exchange]:
        return self.store.find_replies(request_id)

    def add_exchange(self, exchange: Exchange) -> None:
        self.store.add_exchange(self.run_id, exchange)

    def lease(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        return self.store.claim(request_id, holder, seconds)

    def release(self, request_id: str, holder: Holder) -> None:
        self.store.release(request_id, holder)


@dataclass(frozen=True)
class RunWriter:
    """Stores the records of one run."""

    store: Store
    run_id: str

    @property
    def replies(self) -> StoredReplies:
        """The replies of LLMs; new exchanges belong to this run."""
        return StoredReplies(self.store, self.run_id)

    def link_label_results(self, results: Sequence[LabelResult]) -> None:
        self.store.link_label_results(self.run_id, results)

    def add_label_results(self, results: Sequence[LabelResult]) -> list[LabelResult]:
        self.store.add_label_results(self.run_id, results)
        return list(results)
