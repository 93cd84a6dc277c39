"""One DuckDB file that keeps every record as soon as it exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..llm.exchange import Exchange
from ..records.circuit import Circuit
from ..records.evidence import Evidence
from ..records.label import LabelResult
from ..records.pattern import Pattern
from ..records.run.header import RunHeader
from ..records.run.motif import Motif
from ..records.run.run import Run
from ..records.run.size import CircuitSize
from ..records.task import Task
from ..records.verdict import JudgeResult
from .database import Database
from .run_writer import RunWriter, StoredReplies
from .runs import add, names
from .runs.remove import remove_run
from .search.index import index_circuit_runs
from .search.labels import search_labels
from .search.likeness import search_like
from .search.matches import Filters, Matches
from .search.paths import count_by_run, labeled_runs, match_run, search_paths
from .search.unnamed import SharedClaims, shared_by_unnamed
from .tables import pages, read, write
from .tables.parquet import write_tables
from .verify import problems

NARROW_LABELS = "narrow it with `role=`, `task=` or `model=`"
NARROW_MATCH = "leave out the plugin whose pattern it is"


class Store:
    """Runs in one DuckDB file, which is open only during a call.

    Methods that take a `run` accept its id, its name, a unique prefix of its id, or `last`. All
    methods raise UserError if the file is not a store or cannot be opened. Imported records are
    kept beside those that were made here and are never reused as such.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the file, which the first call that writes creates.

        Raises:
            UserError: It is a folder, or its folder does not exist.
        """
        self.database = Database(path)

    @property
    def path(self) -> Path:
        """The file."""
        return self.database.path

    # --- reading runs --------------------------------------------------------------------------

    def runs(self) -> list[RunHeader]:
        """The headers of all runs, the newest first."""
        with self.database.reading() as connection:
            return read.read_headers(connection, "ORDER BY created_at DESC, number DESC")

    def header(self, run: str) -> RunHeader:
        """The header of a run. Raises UserError if there is no such run."""
        with self.database.reading() as connection:
            return read.find_run(connection, self.path, run)

    def list_runs(
        self, task: str | None = None, model: str | None = None, status: str | None = None
    ) -> list[read.Listed]:
        """Runs with this task, model and status (None: any), the newest first."""
        with self.database.reading() as connection:
            return read.read_list(connection, task, model, status)

    def status(self, run_id: str) -> str | None:
        """The status of a run that was made here; None if there is none with exactly this id."""
        with self.database.reading() as connection:
            return read.read_status(connection, run_id)

    def get(self, run: str) -> Run:
        """A run with all its records. Raises UserError if there is no such run."""
        with self.database.reading() as connection:
            return read.read_run(connection, read.find_run(connection, self.path, run))

    def task(self, task_id: str) -> Task:
        """A stored task. Raises KeyError."""
        with self.database.reading() as connection:
            task = read.read_task(connection, task_id)
        if task is None:
            raise KeyError(task_id)
        return task

    def sizes(self, circuit: Circuit) -> list[CircuitSize]:
        """The circuits found here for the same task, model and metric, and how large they are."""
        with self.database.reading() as connection:
            return read.read_sizes(connection, circuit)

    # --- searching: no search keeps the file longer than its time limit -------------------------

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
        """Find labeled components in all runs, or paths of them. The filters combine.

        Args:
            text: Words of the role or the description.
            role: The role of the label.
            pattern: Find paths that match this pattern.
            like: RUN:NODE. Find components that behave as this one, those of other models first.
            verdict: The worst verdict on the label.
            task: The name of the runs' task.
            model: The name or id of the runs' model.
            limit: The most matches to return.
            any_verdict: In a pattern, roles count wherever they were proposed, not only where the
                label is supported.

        Raises:
            UserError: A filter cannot be read, or the search takes too long or too much memory.
        """
        filters = Filters(text, role, verdict, task, model)
        if like is not None and pattern is not None:
            raise UserError("A search is by pattern or by likeness, not both.")
        if like is not None:
            with self.database.searching(NARROW_LABELS) as connection:
                matches = search_like(connection, self.path, like, filters, limit)
            return Matches(matches, len(matches) if len(matches) < limit else None)
        if pattern is not None:
            parsed = Pattern.parse(pattern)
            with self.database.searching() as connection:
                return search_paths(connection, parsed, filters, limit, any_verdict)
        with self.database.searching(NARROW_LABELS) as connection:
            return search_labels(connection, filters, limit)

    def match(
        self, run: str, patterns: Mapping[str, str], *, any_verdict: bool = False
    ) -> list[Motif]:
        """Where named patterns match in the labeled circuit of one run, the first places of each.

        Roles count where the label is supported, with `any_verdict` wherever it was proposed.
        Raises UserError.
        """
        with self.database.searching(NARROW_MATCH) as connection:
            return match_run(connection, self.path, run, patterns, any_verdict)

    def count(
        self, pattern: Pattern, runs: Sequence[str] | None = None, *, any_verdict: bool = False
    ) -> dict[str, int]:
        """How many paths match, by the id of the run (`runs`: of these alone), if there are any."""
        with self.database.searching() as connection:
            return count_by_run(connection, pattern, runs, any_verdict)

    def unnamed(self, at_least: int = 2) -> list[SharedClaims]:
        """What components without a role share in so many pairs of task and model or more."""
        with self.database.searching() as connection:
            runs = [some[0] for some in labeled_runs(connection).values()]
            return shared_by_unnamed(connection, runs, at_least)

    def labeled_runs(self) -> dict[tuple[str, str], list[str]]:
        """The ids of runs with labels by task and model, the one that represents the pair first."""
        with self.database.reading() as connection:
            return labeled_runs(connection)

    # --- what was made here before, to be reused -----------------------------------------------

    def find_circuit(
        self, task_id: str, model_id: str, discoverer: str, settings: Mapping[str, Any]
    ) -> Circuit | None:
        """The circuit that the same discovery found before."""
        with self.database.reading() as connection:
            return read.find_circuit(connection, task_id, model_id, discoverer, settings)

    def find_evidence(
        self, circuit_id: str, collector: str, settings: Mapping[str, Any]
    ) -> list[Evidence]:
        """What the same collector measured before in the same circuit."""
        with self.database.reading() as connection:
            return read.find_evidence(connection, circuit_id, collector, settings)

    def find_label_results(self, question_ids: Iterable[str]) -> list[LabelResult]:
        """The answers with labels that the same questions got before."""
        with self.database.reading() as connection:
            return read.find_label_results(connection, list(question_ids))

    def find_judge_results(self, question_ids: Iterable[str]) -> list[JudgeResult]:
        """The verdicts that the same questions got before."""
        with self.database.reading() as connection:
            return read.find_judge_results(connection, list(question_ids))

    def read_cited(
        self, evidence_ids: Iterable[str], exchange_ids: Iterable[str]
    ) -> tuple[list[Evidence], list[Exchange]]:
        """Stored evidence and exchanges by their ids: what results of earlier runs rest on."""
        with self.database.reading() as connection:
            return read.read_cited(connection, evidence_ids, exchange_ids)

    @property
    def replies(self) -> StoredReplies:
        """The stored replies of LLMs; new exchanges belong to no run."""
        return StoredReplies(self.database, None)

    def read_checkpoint(self, search_id: str, name: str) -> Any:
        """A checkpoint of a search; None if there is none of this name."""
        with self.database.reading() as connection:
            return pages.read_page(connection, search_id, name)

    # --- writing -------------------------------------------------------------------------------

    def writer(self, run_id: str) -> RunWriter:
        """What writes the records of a run while it goes on."""
        return RunWriter(self.database, run_id)

    def write_checkpoint(self, search_id: str, name: str, content: Any) -> None:
        """Write, or replace, a checkpoint of a search."""
        with self.database.writing() as connection:
            pages.write_page(connection, search_id, name, content)

    def add_task(self, task: Task) -> None:
        with self.database.writing() as connection:
            write.add_task(connection, task)

    def add_circuit(self, circuit: Circuit) -> None:
        """Add a circuit that was found here; it replaces an imported one of the same edges."""
        with self.database.writing() as connection:
            write.add_circuit(connection, circuit)
            index_circuit_runs(connection, circuit.id)

    def add_run(self, run: Run) -> bool:
        """Add a whole run. Returns False if it is stored already.

        Raises UserError if a run of the same id holds something else.
        """
        return self.add_runs([run])[0]

    def add_runs(self, runs: Iterable[Run]) -> list[bool]:
        """Add whole runs, all or none. Returns for each whether it is new."""
        with self.database.writing() as connection:
            return [add.add_run(connection, self.path, run) for run in runs]

    def name_run(self, run: str, name: str | None = None, note: str | None = None) -> RunHeader:
        """Set the name and the note of a run; None changes nothing, an empty text deletes it.

        Raises UserError for a name that is no name or that another run has.
        """
        with self.database.writing() as connection:
            return names.name_run(connection, self.path, run, name, note)

    check_name = staticmethod(names.check_name)

    def delete(self, run: str, *, dry_run: bool = False) -> tuple[RunHeader, dict[str, int]]:
        """Remove a run and the records that no other run uses.

        Returns the run's header and how many rows of each table were removed, or with `dry_run`
        would be. Raises UserError if there is no such run.
        """
        with self.database.writing() as connection:
            header = read.find_run(connection, self.path, run)
            counts = remove_run(connection, header)
            if dry_run:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN")
            return header, counts

    # --- the file as a whole -------------------------------------------------------------------

    def verify(self) -> list[str]:
        """What is wrong with the store, a sentence each: wrong ids, missing records."""
        with self.database.reading() as connection:
            return list(problems(connection))

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without gaps. Returns its size in bytes before and after."""
        return self.database.compact()

    def write_parquet(self, folder: Path, run: str | None = None) -> dict[str, int]:
        """Write every table to a file in `folder`, or of each the rows of one run.

        Returns how many rows each file has. Raises UserError.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}.") from error
        with self.database.writing(folder) as connection:
            header = None if run is None else read.find_run(connection, self.path, run)
            return write_tables(connection, folder, self.path, header)
