"""What is written while a run goes on: each record as soon as it exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..llm.exchange import Exchange
from ..llm.lease import Holder
from ..records.evidence import Evidence
from ..records.label import LabelResult
from ..records.run.behavior import Behavior
from ..records.run.header import RunHeader
from ..records.run.motif import Motif
from ..records.run.run import Run
from ..records.run.summary import Summary
from ..records.task import Task
from ..records.verdict import JudgeResult
from .database import Database
from .runs.add import write_header
from .search.index import index_evidence, index_run
from .tables import pages, write
from .tables.claims import Tested, add_claims, find_claims
from .tables.read import find_label_results, find_replies


@dataclass(frozen=True)
class RunWriter:
    """Writes the records of one run. Each call is one transaction; a stored record stays as it is.

    All but `begin` and `write_header` raise KeyError if the run is not in the store.
    """

    database: Database
    run_id: str

    @property
    def replies(self) -> StoredReplies:
        """The stored replies of LLMs; new exchanges belong to this run."""
        return StoredReplies(self.database, self.run_id)

    def begin(self, header: RunHeader, task: Task, behavior: Mapping[str, Behavior]) -> None:
        """Write what is known before the first stage.

        Args:
            header: The run, with this writer's id.
            task: Its prompts.
            behavior: How well the model does the task, by split; empty if it is not known.

        Raises:
            UserError: The store has the run already, and `header` is of an imported one.
        """
        with self.database.writing() as connection:
            write.add_task(connection, task)
            write_header(connection, self.database.path, header)
            write.add_behavior(connection, header.id, behavior)

    def write_header(self, header: RunHeader) -> None:
        """Add the run, or update its status and circuit. Raises UserError as `begin`."""
        with self.database.writing() as connection:
            write_header(connection, self.database.path, header)

    def add_evidence(self, evidence: Sequence[Evidence]) -> None:
        """Add evidence, and update the fingerprints of its nodes."""
        with self.database.writing() as connection:
            write.add_evidence(connection, self.run_id, evidence)
            index_evidence(connection, evidence)

    def add_exchanges(self, exchanges: Sequence[Exchange]) -> None:
        with self.database.writing() as connection:
            write.add_exchanges(connection, self.run_id, exchanges)

    def add_label_results(self, results: Sequence[LabelResult]) -> list[LabelResult]:
        """Add answers to questions: labels or failures. New labels of a node delete its failure.

        Returns what is stored now, in the order of `results`: a question that another command has
        answered meanwhile keeps that answer.
        """
        with self.database.writing() as connection:
            questions = write.answered_questions(connection, results)
            stored = {x.question_id: x for x in find_label_results(connection, questions)}
            write.link_label_results(connection, self.run_id, list(stored.values()))
            new = [result for result in results if result.question_id not in stored]
            write.add_label_results(connection, self.run_id, new)
            index_run(connection, self.run_id)
        return [stored.get(result.question_id, result) for result in results]

    def link_label_results(self, results: Sequence[LabelResult]) -> None:
        """Add answers that an earlier run stored, with their labels, evidence and exchanges."""
        with self.database.writing() as connection:
            write.link_label_results(connection, self.run_id, results)
            index_run(connection, self.run_id)

    def add_labels_of(self, run: Run) -> None:
        """Add the evidence and labels of another run, with their exchanges and failures."""
        with self.database.writing() as connection:
            write.add_evidence_and_labels(connection, self.run_id, run)
            index_run(connection, self.run_id)

    def add_judge_results(self, results: Sequence[JudgeResult]) -> None:
        """Add verdicts, and which questions they answer."""
        with self.database.writing() as connection:
            write.add_judge_results(connection, self.run_id, results)
            index_run(connection, self.run_id)

    def add_claims(self, question: str, tested: Tested) -> None:
        """Add the tested claims and what they explain, in place of earlier ones."""
        with self.database.writing() as connection:
            add_claims(connection, self.run_id, question, tested)

    def find_claims(self, question: str) -> Tested | None:
        """The tested claims of an earlier run that tested the same; None if there is none."""
        with self.database.reading() as connection:
            return find_claims(connection, question)

    def add_motifs(self, motifs: Sequence[Motif]) -> None:
        with self.database.writing() as connection:
            write.add_motifs(connection, self.run_id, motifs)

    def add_summary(self, summary: Summary) -> None:
        """Add a summary in place of an earlier one."""
        with self.database.writing() as connection:
            write.add_summary(connection, summary)


@dataclass(frozen=True)
class StoredReplies:
    """The replies of LLMs in a store, as a session needs them (`llm.session.ReplyCache`).

    `run_id`: the run that new exchanges belong to; None: no run, as for a benchmark.
    """

    database: Database
    run_id: str | None

    def find_replies(self, request_id: str) -> list[Exchange]:
        """The exchanges of a request that got a reply, usable or not. Imports are left out."""
        with self.database.reading() as connection:
            return find_replies(connection, request_id)

    def add_exchange(self, exchange: Exchange) -> None:
        with self.database.writing() as connection:
            write.add_exchanges(connection, self.run_id, [exchange])

    def lease(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        """Keep other commands from sending a request, until `release` or `seconds` are over.

        Returns the replies stored by now; None if another command holds the lease.
        """
        with self.database.writing() as connection:
            return pages.lease(connection, request_id, holder, seconds)

    def release(self, request_id: str, holder: Holder) -> None:
        """End the lease of a request, if it is this holder's."""
        with self.database.writing() as connection:
            pages.release(connection, request_id, holder)
