"""Adding to a store, a record at a time or a run at once, and taking a run out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import UserError
from ..llm.exchange import Exchange
from ..records.circuit import Circuit
from ..records.evidence import Evidence
from ..records.label import LabelResult
from ..records.run.behavior import Behavior
from ..records.run.header import RunHeader
from ..records.run.motif import Motif
from ..records.run.run import Run
from ..records.run.summary import Summary
from ..records.task import Task
from ..records.verdict import JudgeResult
from .database import StoreFile
from .duck.connection import Connection
from .remove import remove_run
from .search.index import index_evidence, index_run
from .tables import rows
from .tables.read import find_run, read_headers, read_label_results
from .tables.write import (
    add_behavior,
    add_circuit,
    add_evidence,
    add_exchanges,
    add_found,
    add_header,
    add_judge_results,
    add_keyed,
    add_label_results,
    add_labels,
    add_motifs,
    add_task,
    add_verdicts,
    answered,
    link_label_results,
)

NAME = re.compile(r"(?!last$)(?![0-9a-f]+$)[A-Za-z0-9][\w.-]{0,63}")


class StoreAdding(StoreFile):
    """Adding a record that is there changes nothing."""

    def add_task(self, task: Task) -> None:
        with self._open() as connection:
            add_task(connection, task)

    def add_header(self, header: RunHeader) -> None:
        """Add a run, or bring its status and circuit up to date."""
        with self._open() as connection:
            self._take_over(connection, header)
            add_header(connection, header)
            self._name(connection, header.id, header.name)
            index_run(connection, header.id)

    def _take_over(self, connection: Connection, header: RunHeader) -> None:
        """A run of one's own goes in the place of one with its id that was imported."""
        for held in read_headers(connection, "WHERE id = $id", {"id": header.id}):
            if held.origin is not None and header.origin is None:
                remove_run(connection, held, task=False)
            elif held.origin is None and header.origin is not None:
                raise UserError(
                    f"{self.path} holds a run {header.id} of its own, asked the same; go on from "
                    "that one."
                )

    def add_behavior(self, run_id: str, behavior: Mapping[str, Behavior]) -> None:
        """How the model did on the run's prompts, by split."""
        with self._open() as connection:
            add_behavior(connection, run_id, behavior)

    def add_circuit(self, circuit: Circuit) -> None:
        """One that was found here; an imported one of the same edges is no longer that."""
        with self._open() as connection:
            number = add_circuit(connection, circuit)
            for (run_id,) in connection.execute(
                "SELECT id FROM runs WHERE circuit_id = (SELECT id FROM circuits WHERE number = ?)",
                [number],
            ).fetchall():
                index_run(connection, run_id)  # the number of layers may be another

    def add_evidence(self, run_id: str, evidence: Sequence[Evidence]) -> None:
        with self._open() as connection:
            add_evidence(connection, run_id, evidence)
            index_evidence(connection, evidence)

    def add_exchange(self, run_id: str | None, exchange: Exchange) -> None:
        """Of a run, or of none: a benchmark's."""
        with self._open() as connection:
            add_exchanges(connection, run_id, [exchange])

    def add_label_results(self, run_id: str, label_results: Sequence[LabelResult]) -> None:
        """Answers to questions: labels, or failures. Labels of a node end its failure.

        A question that another command answered in the meantime keeps that answer.
        """
        with self._open() as connection:
            first = read_label_results(connection, answered(connection, label_results))
            link_label_results(connection, run_id, first)
            held = {answer.question_id for answer in first}
            label_results = [x for x in label_results if x.question_id not in held]
            evidence = [x.evidence for x in label_results if x.evidence is not None]
            add_evidence(connection, run_id, evidence)
            add_labels(connection, run_id, [label for x in label_results for label in x.labels])
            add_label_results(connection, run_id, label_results)
            index_run(connection, run_id)

    def link_label_results(self, run_id: str, label_results: Sequence[LabelResult]) -> None:
        """Say that a run uses labels that an earlier run was given, with all behind them."""
        with self._open() as connection:
            link_label_results(connection, run_id, label_results)
            index_run(connection, run_id)

    def add_summary(self, summary: Summary) -> None:
        """In place of an earlier one of the same run."""
        with self._open() as connection:
            connection.execute(
                "DELETE FROM summaries WHERE run_id = ? AND id <> ?", [summary.run_id, summary.id]
            )
            add_keyed(connection, "summaries", [rows.summary_row(summary)])

    def add_judge_results(self, run_id: str, judge_results: Sequence[JudgeResult]) -> None:
        with self._open() as connection:
            add_verdicts(connection, run_id, [judging.verdict for judging in judge_results])
            add_judge_results(connection, run_id, judge_results)
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
        for held in read_headers(connection, "WHERE id = $id", {"id": run.id}):
            if not self._replaces(held, run.header):
                return False
            if held.origin is not None:
                remove_run(connection, held, task=False)
        if run.header.origin is not None and not self._free(connection, run):
            run = replace(run, header=replace(run.header, name=None))
        add_header(connection, run.header)
        self._name(connection, run.id, run.header.name)
        add_behavior(connection, run.id, run.behavior)
        if run.task is not None:
            add_task(connection, run.task)
        if run.circuit is not None:
            add_circuit(connection, run.circuit, own=run.header.origin is None)
        add_found(connection, run.id, run)
        add_verdicts(connection, run.id, run.verdicts)
        add_motifs(connection, run.id, run.motifs)
        add_keyed(connection, "summaries", map(rows.summary_row, filter(None, [run.summary])))
        index_evidence(connection, run.evidence)
        index_run(connection, run.id)
        return True

    def _replaces(self, held: RunHeader, new: RunHeader) -> bool:
        """Whether a run takes the place of the one with its id, or completes it.

        A run of one's own is never changed by an import. Raises UserError where one of the two
        must be wrong.
        """
        if held.origin is not None and new.origin is None:
            return True
        other_circuit = None not in (held.circuit_id, new.circuit_id) and (
            held.circuit_id != new.circuit_id
        )
        if other_circuit or held.settings != new.settings:
            raise UserError(
                f"{self.path} holds another run with the id {new.id}; nothing was imported."
            )
        if held.origin is None and new.origin is not None:
            return False
        return held.status != "done" and new.status == "done"

    def _free(self, connection: Connection, run: Run) -> bool:
        """Whether an imported run may keep its name here."""
        try:
            self._name(connection, run.id, run.header.name)
        except UserError:
            return False
        return True

    def _name(self, connection: Connection, run_id: str, name: str | None) -> None:
        """Check a name before it names a run. Raises UserError."""
        if name is None:
            return
        self.check_name(name)
        taken = connection.execute(
            "SELECT id FROM runs WHERE name = ? AND id <> ?", [name, run_id]
        ).fetchone()
        if taken:
            raise UserError(f"{self.path} has a run {name!r} already ({taken[0]}); name it anew.")

    @staticmethod
    def check_name(name: str) -> None:
        """Raises UserError for a text that cannot name a run."""
        if not NAME.fullmatch(name):
            raise UserError(
                f"{name[:80]!r} cannot name a run: a name has letters, digits, '.', '-' and '_', "
                "at most 64, and is neither `last` nor what an id may look like."
            )

    def name_run(self, run: str, name: str | None = None, note: str | None = None) -> RunHeader:
        """Give a run a name, a note or both; an empty text takes it away. Raises UserError."""
        with self._open() as connection:
            header = find_run(connection, self.path, run)
            self._name(connection, header.id, name or None)
            for column, text in (("name", name), ("note", note)):
                if text is not None:
                    connection.execute(
                        f"UPDATE runs SET {column} = ? WHERE id = ?", [text or None, header.id]
                    )
            return find_run(connection, self.path, header.id)

    def delete(self, run: str, *, dry_run: bool = False) -> tuple[RunHeader, dict[str, int]]:
        """Remove a run and the records that no other uses; how many rows of each table.

        Raises UserError.
        """
        with self._open() as connection:
            header = find_run(connection, self.path, run)
            counts = remove_run(connection, header)
            if dry_run:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN")
            return header, counts

    def add_labeled(self, run_id: str, run: Run) -> None:
        """Another run's evidence and labels, with all behind them, for a run that tests them."""
        with self._open() as connection:
            add_found(connection, run_id, run)
            index_run(connection, run_id)
