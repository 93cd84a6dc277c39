from __future__ import annotations

import json
import multiprocessing
import random
import resource
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pytest

from acdc_explain.errors import UserError
from acdc_explain.llm.exchange import Exchange
from acdc_explain.records.circuit import Edge
from acdc_explain.records.label import Failure, LabelResult
from acdc_explain.records.task import Example, Task
from acdc_explain.records.verdict import JudgeResult
from acdc_explain.store.document.read import from_document
from acdc_explain.store.document.write import to_document
from acdc_explain.store.duck import attach
from acdc_explain.store.store import Store
from acdc_explain.store.tables.schema import MIGRATIONS

from ..samples import make_run, whole_run


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "s.duckdb")


def rows(store: Store) -> dict[str, int]:
    """The number of rows of each table."""
    with duckdb.connect(str(store.path)) as connection:
        tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        return {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}


def by_id(records):
    return sorted(records, key=lambda record: record.id)


def test_a_run_comes_back_as_it_went_in(store):
    run = make_run()
    assert store.add_run(run)
    back = store.get(run.id)
    assert back.header == run.header
    assert back.circuit == run.circuit
    assert by_id(back.evidence) == by_id(run.evidence)
    assert by_id(back.labels) == by_id(run.labels)
    assert by_id(back.verdicts) == by_id(run.verdicts)
    assert by_id(back.motifs) == by_id(run.motifs)
    assert by_id(back.exchanges) == by_id(run.exchanges)


def test_adding_twice_adds_nothing(store):
    run = make_run()
    store.add_run(run)
    before = rows(store)
    assert not store.add_run(run)
    assert rows(store) == before


@pytest.mark.slow
def test_records_one_by_one_are_the_same_as_the_whole_run(store, tmp_path):
    run, whole = make_run(), Store(tmp_path / "whole.duckdb")
    writer = store.writer(run.id)
    whole.add_run(run)
    for _ in range(2):  # twice: every addition is idempotent
        writer.write_header(replace(run.header, status="unfinished", circuit_id=None))
        store.add_circuit(run.circuit)
        writer.write_header(replace(run.header, status="unfinished"))
        writer.add_evidence(run.evidence)
        for number, label in enumerate(run.labels):
            writer.add_exchanges(run.exchanges[:1])
            store.writer(run.id).add_label_results(
                [LabelResult(f"q{number}", (label,), (label.exchange_id,))]
            )
        writer.add_judge_results([JudgeResult(f"j{v.id}", v) for v in run.verdicts])
        writer.add_motifs(run.motifs)
        writer.add_summary(run.summary)
        store.writer(run.id).add_label_results([LabelResult("q9", (), failure=run.failures[0])])
        writer.write_header(run.header)
    n = len(run.labels)
    assert rows(store) == rows(whole) | {"labelings": n, "judgings": n}
    assert store.get("last").header == run.header
    assert sorted(store.find_label_results(["q0", "q2", "none"]), key=lambda x: x.question_id) == [
        LabelResult(f"q{n}", (run.labels[n],), (run.exchanges[0].id,)) for n in (0, 2)
    ]
    assert store.replies.find_replies("r1") == list(run.exchanges)
    assert store.replies.find_replies("none") == []
    verdict = run.verdicts[1]
    assert store.find_judge_results([f"j{verdict.id}", "none"]) == [
        JudgeResult(f"j{verdict.id}", verdict)
    ]


def test_a_failure_ends_when_there_is_a_label(store):
    run = make_run()
    store.add_run(replace(run, failures=()))
    for reason in ("first", "second"):
        failure = Failure(run.labels[0].node, "llm", reason)
        store.writer(run.id).add_label_results([LabelResult("q", (), failure=failure)])
        assert store.get(run.id).failures == [failure]
    store.writer(run.id).add_label_results([LabelResult("q", (run.labels[0],))])
    assert store.get(run.id).failures == []


def test_a_store_of_the_first_versions_is_brought_up_to_date(tmp_path):
    """Exchanges of older versions have no request and no cost, and the same id."""
    file = tmp_path / "old.duckdb"
    exchange = Exchange("describe", "llm", "?", "{}", None, 1, 2, 0.5)
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT)")
        for step in MIGRATIONS[:2]:
            connection.execute(step)
        connection.execute("INSERT INTO meta VALUES ('schema', 2)")
        connection.execute(
            "INSERT INTO exchanges VALUES (?, 'describe', 'llm', '?', '{}', NULL, 1, 2, 0.5)",
            [exchange.id],
        )
        connection.execute("INSERT INTO run_exchanges VALUES ('r', ?)", [exchange.id])
        connection.execute(
            "INSERT INTO runs VALUES ('r', 'ioi', 't', 'mini', 'm', NULL, 'unfinished', "
            "'2026-01-02 03:04:05', 0, '{}', '{}')"
        )
    assert Store(file).get("r").exchanges == [exchange]


def test_document_round_trip(store, tmp_path):
    run = make_run()
    document = json.loads(json.dumps(to_document(run)))
    other = Store(tmp_path / "other.duckdb")
    assert other.add_run(from_document(document, "f.json"))
    assert to_document(other.get(run.id)) == to_document(other.get("last"))
    store.add_run(run)
    own, imported = (to_document(held.get(run.id)) for held in (store, other))
    assert own["run"].pop("origin") is None
    assert imported["run"].pop("origin").startswith("f.json, 20")
    assert own == imported


def test_document_keeps_the_contract():
    document = to_document(make_run())
    assert document["schema"] == "acdc-explain/run/1"
    assert set(document) == {
        "schema", "run", "behavior", "task", "circuit", "coverage", "components", "algorithm",
        "motifs", "summary", "exchanges",
    }  # fmt: skip
    assert {"id", "task", "model", "status", "created_at", "seed", "settings", "versions"} <= set(
        document["run"]
    )
    circuit = document["circuit"]
    assert {"n_edges_total", "n_edges_tested", "nodes", "edges", "metric", "faithfulness",
            "seconds", "forward_seconds"} <= set(circuit)  # fmt: skip
    assert circuit["edges"][0] == {"edge": "a0.h1->a1.h0<k>", "effect": 0.0}
    assert circuit["metric"] == {
        "name": "logit_diff", "clean": 3.0, "circuit": 2.5, "corrupt": -0.5,
    }  # fmt: skip
    assert circuit["faithfulness"] == pytest.approx(3.0 / 3.5)
    component = document["components"][0]
    assert set(component) == {"node", "claims", "evidence", "labels"}
    assert {"id", "collector", "facts"} <= set(component["evidence"][0])
    label = component["labels"][0]
    assert {"role", "labeler", "confidence", "description", "evidence_ids", "verdicts"} <= set(
        label
    )
    assert set(label["verdicts"][0]) == {
        "judge", "outcome", "score", "chance", "percentile", "n", "reason", "measure", "unit", "low",
        "high",
    }  # fmt: skip
    assert document["motifs"] == [{"pattern": "chain", "nodes": {"induction": "a1.h0"}}]
    exchanges = {"n": 1, "failed": 0, "tokens_in": 10, "tokens_out": 5, "cost_usd": None}
    assert {k: v for k, v in document["exchanges"].items() if k != "records"} == exchanges


@pytest.mark.parametrize(
    "document",
    [None, [], 3, {}, {"schema": "acdc-explain/run/2"}, {"schema": "acdc-explain/run/1"}],
)
def test_no_exported_run(document):
    with pytest.raises(UserError, match=r"^f.json is no"):
        from_document(document, "f.json")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda d: d["run"].pop("seed"),
        lambda d: d["circuit"]["edges"].append({"edge": "a1->b2", "effect": 0}),
        lambda d: d["components"][0].update(node="../x"),
        lambda d: d["components"][0]["labels"][0].pop("role"),
        lambda d: d.update(components=7),
        lambda d: d["exchanges"].pop("records"),
        lambda d: d.update(circuit=None),
        lambda d: d["run"].update(settings=[]),
        lambda d: d["components"][0]["labels"][0]["verdicts"][0].update(score="high"),
        lambda d: d["components"][0]["labels"][0]["verdicts"][0].update(low=[]),
        lambda d: d["components"][0]["labels"][0]["verdicts"][0].update(unit=7),
        lambda d: d["run"].update(created_at="yesterday"),
        lambda d: d["components"][0]["labels"][0]["verdicts"][0].update(outcome="fine"),
        lambda d: d["circuit"]["edges"][0].update(effect=float("nan")),
        lambda d: d["circuit"]["metric"].update(clean=None),
    ],
)
def test_a_damaged_document_is_refused(break_it):
    document = json.loads(json.dumps(to_document(make_run())))
    break_it(document)
    with pytest.raises(UserError, match=r"^f.json is no complete exported run"):
        from_document(document, "f.json")


def test_conflicting_content_is_refused(store):
    run = make_run()
    store.add_run(run)
    other = replace(run, header=replace(run.header, settings={"discoverer": "eap"}))
    before = rows(store)
    with pytest.raises(UserError, match="holds another run with the id"):
        store.add_run(other)
    assert rows(store) == before


def test_importing_another_stage_of_a_run(store):
    """A finished run completes an unfinished one; an unfinished one adds nothing."""
    done = make_run()
    header = replace(done.header, status="unfinished", circuit_id=None)
    unfinished = replace(done, header=header, circuit=None, evidence=[], labels=[], verdicts=[],
                         motifs=[], exchanges=[])  # fmt: skip
    assert store.add_run(unfinished)
    assert store.add_run(done)
    assert store.get(done.id).header == done.header
    assert not store.add_run(unfinished)
    assert store.get(done.id).header == done.header


class TestNamingRuns:
    def test_prefix_and_last(self, store):
        old = make_run("ioi", created="2026-01-01T00:00:00Z")
        new = make_run("induction", created="2026-01-02T00:00:00Z")
        for run in (new, old):
            store.add_run(run)
        assert store.header("last").id == new.id
        assert store.header(old.id[:6]).id == old.id
        assert [header.id for header in store.runs()] == [new.id, old.id]

    def test_the_last_of_one_second_is_the_one_stored_last(self, store):
        runs = [make_run(task, created="2026-01-01T00:00:00Z") for task in "abcdef"]
        for n, run in enumerate(runs, 1):
            store.add_run(run)
            assert store.header("last").id == run.id
            newest = [run.id for run in reversed(runs[:n])]
            assert [header.id for header in store.runs()] == newest
            assert [listed.header.id for listed in store.list_runs()] == newest

    def test_ambiguous(self, store):
        for task in ("ioi", "induction"):
            store.add_run(make_run(task))
        with pytest.raises(UserError, match="is the beginning of 2 runs"):
            store.header("")

    def test_unknown(self, store):
        store.add_run(make_run())
        with pytest.raises(UserError, match="holds no run 'zzz'"):
            store.header("zzz")

    def test_empty_store(self, store):
        with pytest.raises(UserError, match="holds no run yet"):
            store.header("last")


def test_task_round_trip(store):
    example = Example("a", "b", (" c",), (" d",), {"END": 0})
    task = Task("t", "d", "kl", (example,), (replace(example, clean="e"),), {"other": ("x", "y")})
    store.add_task(task)
    assert store.task(task.id) == task


class TestFiles:
    def test_a_quote_in_the_name(self, tmp_path):
        store = Store(tmp_path / "it's; DROP TABLE runs.duckdb")
        assert store.add_run(make_run())
        assert store.compact()
        assert store.get("last").id == make_run().id

    def test_folder(self, tmp_path):
        with pytest.raises(UserError, match="is a folder"):
            Store(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            Store(tmp_path / "none" / "s.duckdb")

    @pytest.mark.parametrize("content", [b"not a database", b"\x00" * 20_000])
    def test_no_database(self, tmp_path, content):
        file = tmp_path / "s.duckdb"
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"s\.duckdb"):
            Store(file).runs()
        assert file.read_bytes() == content

    def test_a_database_of_something_else(self, tmp_path):
        with duckdb.connect(str(tmp_path / "s.duckdb")) as connection:
            connection.execute("CREATE TABLE mine (x INTEGER)")
        with pytest.raises(UserError, match="database of something else"):
            Store(tmp_path / "s.duckdb").runs()
        with duckdb.connect(str(tmp_path / "s.duckdb")) as connection:
            assert connection.execute("SHOW TABLES").fetchall() == [("mine",)]

    def test_newer_schema(self, store):
        store.add_run(make_run())
        with duckdb.connect(str(store.path)) as connection:
            connection.execute("UPDATE meta SET value = 99")
        with pytest.raises(UserError, match="written by a newer acdc-explain"):
            store.runs()


def _hold(path: str, held: Event) -> None:
    with duckdb.connect(path):
        held.set()
        time.sleep(60)


def _add(path: str, tasks: list[str]) -> None:
    for task in tasks:
        Store(path).add_run(whole_run(task))


def _read(path: str, stop: Event) -> None:
    """At any moment every stored run is complete."""
    while not stop.is_set():
        store = Store(path)
        for header in store.runs()[:3]:
            assert to_document(store.get(header.id)) == to_document(whole_run(header.task))
        store.search(role="induction")
        time.sleep(0.2)


class TestSeveralProcesses:
    """With the start method spawn, as a forked DuckDB is not a separate process."""

    context = multiprocessing.get_context("spawn")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("writers", "runs", "readers"),
        [(3, 5, 1), pytest.param(8, 50, 2, marks=pytest.mark.slow)],
    )
    def test_writers_and_readers_wait_for_each_other(self, writers, runs, readers, store):
        names = [[f"t{worker}.{i}" for i in range(runs)] for worker in range(writers)]
        stop = self.context.Event()
        reading = [
            self.context.Process(target=_read, args=(str(store.path), stop)) for _ in range(readers)
        ]
        writing = [self.context.Process(target=_add, args=(str(store.path), n)) for n in names]
        for process in (*reading, *writing):
            process.start()
        for process in writing:
            process.join(300)
        stop.set()
        for process in reading:
            process.join(60)
        assert {process.exitcode for process in (*reading, *writing)} == {0}
        assert {header.task for header in store.runs()} == {n for group in names for n in group}
        assert store.verify() == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("kills", "every"), [(3, 0.6), pytest.param(8, 1.5, marks=pytest.mark.slow)]
    )
    def test_what_a_killed_writer_added_is_whole_or_absent(self, kills, every, store):
        """A process is killed at any moment; the next one continues until all runs are stored."""
        names = [[f"t{worker}.{i}" for i in range(4 * kills)] for worker in range(2)]

        def start(group: list[str]):
            process = self.context.Process(target=_add, args=(str(store.path), group))
            process.start()
            return process

        writing = [start(group) for group in names]
        for number in range(kills):
            time.sleep(every)
            killed = number % 2
            writing[killed].kill()
            writing[killed].join()
            for header in store.runs():
                assert to_document(store.get(header.id)) == to_document(whole_run(header.task))
            writing[killed] = start(names[killed])
        for process in writing:
            process.join(300)
            assert process.exitcode == 0
        assert {header.task for header in store.runs()} == {n for group in names for n in group}
        assert store.verify() == []

    def test_a_lock_that_stays_is_named(self, store, monkeypatch):
        store.add_run(make_run())
        monkeypatch.setattr("acdc_explain.store.duck.attach.LOCK_SECONDS", 0.2)
        held = self.context.Event()
        holder = self.context.Process(target=_hold, args=(str(store.path), held))
        holder.start()
        assert held.wait(60)
        try:
            who = rf"is in use by process {holder.pid} \(python.*\), still after 0 s"
            with pytest.raises(UserError, match=who):
                store.runs()
        finally:
            holder.kill()
            holder.join()


def _fill(path: str) -> None:
    """Add more than fits: files may grow by no more than 100 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path).stat().st_size + 100_000,) * 2)
    run = whole_run("big")
    texts = [random.randbytes(2_000_000).hex() for _ in run.evidence]
    evidence = [replace(e, facts={"text": text}) for e, text in zip(run.evidence, texts)]
    store = Store(path)
    try:
        store.add_run(replace(run, evidence=evidence, labels=[], verdicts=[]))
    except UserError as error:
        sys.exit(7 if "File too large" in str(error) and len(store.runs()) == 1 else 8)


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(store):
    store.add_run(whole_run())
    process = multiprocessing.get_context("spawn").Process(target=_fill, args=(str(store.path),))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    assert to_document(store.get("last")) == to_document(whole_run())
    assert store.verify() == []


@pytest.mark.slow_after(3)
@pytest.mark.parametrize(
    "statement", ["ATTACH", "BEGIN", "INSERT", "COMMIT", "USE memory", "DETACH"]
)
@pytest.mark.parametrize(
    ("interrupt", "after"),
    [(KeyboardInterrupt, False), (KeyboardInterrupt, True), (duckdb.InterruptException, False)],
)  # fmt: skip
def test_ctrl_c_at_any_moment(store, monkeypatch, statement, interrupt, after):
    """The next call works, and what was being written is complete or absent."""
    store.add_run(whole_run("before"))

    class Interrupted:
        def __init__(self, engine):
            self.engine = engine

        def execute(self, query, *values):
            if not query.lstrip().startswith(statement):
                return self.engine.execute(query, *values)
            monkeypatch.undo()
            if after:
                self.engine.execute(query, *values)
            raise interrupt("Interrupted!")

    real = attach.engine_for
    monkeypatch.setattr(attach, "engine_for", lambda reach: Interrupted(real(reach)))
    with suppress(KeyboardInterrupt):
        store.add_run(whole_run("during"))
    assert {header.task for header in store.runs()} <= {"before", "during"}
    for header in store.runs():
        assert to_document(store.get(header.id)) == to_document(whole_run(header.task))
    store.add_run(whole_run("after"))
    assert store.verify() == []


def test_a_file_that_may_only_be_read(store, monkeypatch):
    store.add_run(whole_run())
    before = store.path.read_bytes()
    monkeypatch.setattr("acdc_explain.store.database.os.access", lambda path, mode: False)
    assert len(store.search(role="induction")) == 1
    assert store.verify() == []
    with pytest.raises(UserError, match="may only be read: nothing was written"):
        store.add_run(whole_run("other"))
    monkeypatch.undo()
    assert store.path.read_bytes() == before
    assert store.add_run(whole_run("other"))


def test_part_of_a_file(store):
    """A truncated file, or one with a block of zeros, gives one sentence and is not changed."""
    store.add_run(whole_run())
    content = store.path.read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle], content[:8192] + bytes(middle) + content[8192 + middle :]):
        store.path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"s\.duckdb"):
            store.get("last")
        assert len(store.path.read_bytes()) >= len(damaged)
    store.path.write_bytes(content)
    assert store.verify() == []


def test_a_store_of_the_first_schema_is_upgraded(tmp_path):
    """A store of version 1 can be read, and gets the columns that later versions added."""
    path = tmp_path / "old.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT)")
        connection.execute("INSERT INTO meta VALUES ('schema', 1)")
        connection.execute(MIGRATIONS[0])
        connection.execute(
            "INSERT INTO circuits VALUES "
            "('c', 't', 'm', 'acdc', '{}', 9, 8, 'kl', 0.0, 1.0, 2.0, 1.5, 0.1)"
        )
        connection.execute("INSERT INTO edges VALUES ('c', 0, 'input', 'a1.h0', 'q', 0.5)")
        connection.execute(
            "INSERT INTO runs VALUES ('r', 'ioi', 't', 'mini', 'm', 'c', 'done', "
            "'2026-01-02 03:04:05', 0, '{}', '{}')"
        )
    circuit = Store(path).get("r").circuit
    assert circuit is not None
    assert [str(edge) for edge in circuit.edges] == ["input->a1.h0<q>"]
    assert (circuit.faithfulness.random, circuit.alternatives) == (None, {})
    assert circuit.edges[0].share is None


def test_pages(store):
    assert store.read_checkpoint("book", "1") is None
    store.write_checkpoint("book", "1", [{"tau": 0.1}])
    store.write_checkpoint("book", "1", [{"tau": 0.2}])
    store.write_checkpoint("book", "2", [])
    assert store.read_checkpoint("book", "1") == [{"tau": 0.2}]
    assert store.read_checkpoint("other", "1") is None


def test_edges_at_places_come_back(store):
    run = make_run()
    assert run.circuit is not None
    names = ("input@S2->a0.h1@S2<k>", "a0.h1@END->logits")
    circuit = replace(run.circuit, edges=tuple(map(Edge.parse, names)))
    store.add_circuit(circuit)
    header = replace(run.header, circuit_id=circuit.id)
    store.writer(header.id).write_header(header)
    held = store.get(header.id).circuit
    assert held is not None
    assert [str(edge) for edge in held.edges] == list(names)
    assert [str(node) for node in held.components] == ["a0.h1"]
