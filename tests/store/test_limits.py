"""Searches, forks, interrupts and compacting end in time, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from acdc_explain.errors import UserError
from acdc_explain.records.graph import Graph
from acdc_explain.records.run.run import Run
from acdc_explain.store.duck import attach
from acdc_explain.store.duck.attach import LOCK_SECONDS
from acdc_explain.store.duck.engine import memory, stop_engine
from acdc_explain.store.duck.limits import SEARCH_SECONDS, search_limits
from acdc_explain.store.store import Store

from ..samples import make_run, stored, whole_run

SLOW = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE (a.range ^ b.range) % 7 = 9"


@pytest.fixture
def store(tmp_path) -> Store:
    return stored(tmp_path / "s.duckdb", whole_run())


def dense(number: int) -> Run:
    """A circuit with every possible edge: 12 layers of 6 heads and an MLP."""
    graph = Graph(12, 6)
    names = tuple(str(edge) for edge in graph.edges())
    run = make_run(f"dense{number}", edges=names, roles={"a0.h0": "previous_token"})
    return replace(run, summary=None, motifs=[], failures=[])


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("large") / "s.duckdb")
    for number in range(5):
        store.add_run(dense(number))
    return store


class TestPatterns:
    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize("steps", [2, 3, 9, 12])
    def test_paths_are_counted_without_being_made(self, large, steps):
        """There are 10^13 paths of nine steps; memory and time grow with the edges only."""
        pattern = " -> ".join("*" * steps)
        started = time.monotonic()
        found = large.search(pattern=pattern, limit=50)
        assert time.monotonic() - started < 15
        assert len(found) == 50
        assert found.total == 5 * chains(Graph(12, 6), steps)
        first = [str(node) for node in found[0].nodes.values()]
        assert first[:3] == ["a0.h0", "m0", "a1.h0"][:steps]
        assert len({tuple(map(str, m.nodes.values())) for m in found}) == 50

    def test_any_number_of_edges_too(self, large):
        started = time.monotonic()
        found = large.search(pattern="input -*-> * -*-> * -*-> * -*-> logits", limit=5)
        assert time.monotonic() - started < 20
        assert len(found) == 5

    def test_a_limited_number_of_places_is_kept_with_a_run(self, large):
        run = large.header("last")
        assert len(large.match(run.id, {"all": "* -> * -> * -> *"})) == 1000


def chains(graph: Graph, steps: int) -> int:
    """The number of paths through so many heads and MLPs, counted node by node."""
    ends = dict.fromkeys(graph.writers[1:], 1)
    for _ in range(steps - 1):
        ends = {
            node: sum(n for sender, n in ends.items() if sender in graph.senders(node))
            for node in graph.writers[1:]
        }
    return sum(ends.values())


class TestLimits:
    def test_a_search_that_takes_too_long_is_stopped_in_a_sentence(self, store, monkeypatch):
        monkeypatch.setenv("ACDC_EXPLAIN_SEARCH_SECONDS", "0.5")
        started = time.monotonic()
        with (
            pytest.raises(UserError, match=r"took longer than 0.5 s and was stopped; name more"),
            store.database.searching() as connection,
        ):
            connection.execute(SLOW).fetchall()
        assert time.monotonic() - started < 5
        assert len(store.runs()) == 1

    def test_a_search_that_needs_too_much_memory_too(self, store, monkeypatch):
        monkeypatch.setenv("ACDC_EXPLAIN_STORE_MEMORY", "100MB")
        stop_engine()
        with (
            pytest.raises(UserError, match="needs more than 100MB of memory and was stopped"),
            store.database.searching() as connection,
        ):
            connection.execute(
                "SELECT count(*) FROM (SELECT DISTINCT a.range * 10000 + b.range "
                "FROM range(10000) a, range(10000) b)"
            ).fetchall()
        assert not list(store.path.parent.glob("*tmp*"))  # nothing was written beside the store
        stop_engine()
        assert len(store.runs()) == 1

    @pytest.mark.parametrize(("name", "value"), [
        ("SEARCH_SECONDS", "soon"), ("SEARCH_SECONDS", "0"), ("SEARCH_SECONDS", "nan"),
        ("STORE_MEMORY", "much"),
    ])  # fmt: skip
    def test_limits_that_are_none(self, name, value, store, monkeypatch):
        stop_engine()
        monkeypatch.setenv(f"ACDC_EXPLAIN_{name}", value)
        with pytest.raises(UserError, match=f"ACDC_EXPLAIN_{name} is '{value}'; give"):
            store.search(role="induction")
        monkeypatch.undo()
        assert len(store.search(role="induction")) == 1

    def test_the_next_query_is_not_stopped_for_the_last(self):
        with memory() as connection:
            for _ in range(200):
                with search_limits(connection, "x"):
                    connection.execute("SELECT 1")
            connection.execute("SELECT count(*) FROM range(1000000)").fetchall()

    def test_writers_wait_longer_than_a_search_may_take(self):
        assert LOCK_SECONDS > 2 * SEARCH_SECONDS


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


ROOT = Path(__file__).parent.parent.parent
PREAMBLE = """
import os, signal, sys, threading, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from acdc_explain.store.store import Store
"""


def test_readers_do_not_wait_for_each_other(store):
    """While another process searches, other searches are answered."""
    reader = start(
        "with Store(sys.argv[1]).database.searching() as connection:\n"
        "    print('here', flush=True)\n    sys.stdin.readline()\n",
        str(store.path),
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "here\n"
        started = time.monotonic()
        assert len(store.runs()) == 1
        assert store.verify() == []
        assert len(store.search(role="induction")) == 1
        assert time.monotonic() - started < 5
        released = threading.Timer(0.5, reader.communicate, ["\n"])
        released.start()
        assert store.add_run(whole_run("other"))  # a writer waits and then writes
        released.join()
    finally:
        reader.kill()


COMMANDS = [
    ["search", "--pattern", "* -> *"], ["search", "word"], ["search", "--like", "last:a1.h0"],
    ["motifs"], ["verify"], ["runs"], ["show", "last"], ["export", "last"], ["compact"],
    ["report", "last"], ["import", "FILE"], ["compare", "last", "last"], ["delete", "last"],
]  # fmt: skip


@pytest.mark.slow_after(5)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("form", ["RuntimeError('Query interrupted')", "duckdb.InterruptException('INTERRUPT Error: Interrupted!')"])  # fmt: skip
def test_ctrl_c_in_any_query_of_any_command(command, form, store, tmp_path, monkeypatch, capsys):
    """What DuckDB raises on an interrupt is not reported as an error of the query."""
    import json

    from acdc_explain.cli.main import main
    from acdc_explain.store.document.write import to_document

    file = tmp_path / "run.json"
    file.write_text(json.dumps(to_document(whole_run("new"))))
    monkeypatch.chdir(tmp_path)
    arguments = [str(file) if word == "FILE" else word for word in command]
    error = eval(form, {"duckdb": duckdb})

    class Interrupted:
        """Interrupts every query on a table of the store."""

        def __init__(self, engine):
            self.engine = engine

        def interrupt(self):
            self.engine.interrupt()

        def execute(self, query, *values):
            if "FROM meta" in query or "duckdb_" in query or "SELECT" not in query:
                return self.engine.execute(query, *values)
            raise error

    real = attach.engine_for
    monkeypatch.setattr(attach, "engine_for", lambda reach: Interrupted(real(reach)))
    if command == ["compact"]:
        monkeypatch.setattr(Interrupted, "execute", _copy_is_interrupted(error))
    monkeypatch.setattr(sys, "argv", ["acdc-explain", *arguments, "--db", str(store.path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("acdc-explain: Stopped"), told
    monkeypatch.undo()
    assert len(store.runs()) == 1


def _copy_is_interrupted(error: Exception):
    def execute(self, query, *values):
        if query.startswith("COPY"):
            raise error
        return self.engine.execute(query, *values)

    return execute


def test_ctrl_c_in_a_long_query_is_ctrl_c(store):
    process = start(
        "from acdc_explain.cli.main import main\n"
        "path = sys.argv[1]\n"
        "sys.argv[1:] = ['search', '--like', 'last:a1.h0', '--db', path]\n"
        "Store.search = lambda *a, **k: slow(path)\n"
        "def slow(path):\n"
        "    with Store(path).database.searching() as connection:\n"
        "        print('here', flush=True)\n"
        f"        connection.execute({SLOW!r}).fetchall()\n"
        "main()\n",
        str(store.path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert told.strip() == "acdc-explain: Stopped."


class TestForks:
    """Forked processes, by os.fork or the start method `fork` of multiprocessing."""

    def test_a_thread_holds_the_store(self, store):
        """The forked process inherits a lock that is held by a thread it does not have."""
        process = start(
            "path = sys.argv[1]\n"
            "inside = threading.Event()\n"
            "def hold():\n"
            "    with Store(path).database.reading() as connection:\n"
            "        inside.set(); time.sleep(1)\n"
            "threading.Thread(target=hold).start()\n"
            "inside.wait()\n"
            "child = os.fork()\n"
            "n = len(Store(path).runs())\n"
            "if child == 0:\n"
            "    sys.stdout.flush(); os._exit(n)\n"
            "print(n, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n",
            str(store.path),
        )
        out, err = process.communicate(timeout=30)
        assert out == "1 1\n", err
        assert process.returncode == 0

    def test_a_child_of_a_process_that_used_the_store_ends_in_peace(self, store):
        """At its exit DuckDB must not wait for threads that only the parent has."""
        process = start(
            "assert Store(sys.argv[1]).runs()\n"
            "child = os.fork()\n"
            "if child == 0: sys.exit(len(Store(sys.argv[1]).runs()))\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n",
            str(store.path),
        )
        out, err = process.communicate(timeout=30)
        assert out == "1\n", err

    @pytest.mark.slow
    def test_children_write_and_leave_in_peace(self, store):
        process = start(
            "from tests.samples import whole_run\n"
            "store = Store(sys.argv[1])\n"
            "store.runs()\n"
            "def work(name):\n"
            "    for n in range(3): store.add_run(whole_run(f'{name}{n}'))\n"
            "threads = [threading.Thread(target=work, args=(f't{i}',)) for i in range(2)]\n"
            "[t.start() for t in threads]\n"
            "children = []\n"
            "for i in range(3):\n"
            "    child = os.fork()\n"
            "    if child == 0:\n"
            "        work(f'c{i}')\n"
            "        sys.exit(0)\n"
            "    children.append(child)\n"
            "[t.join() for t in threads]\n"
            "print([os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children], flush=True)\n",
            str(store.path),
        )
        out, err = process.communicate(timeout=100)
        assert out == "[0, 0, 0]\n", err
        assert len(store.runs()) == 1 + 5 * 3
        assert store.verify() == []

    def test_a_fork_in_the_middle_of_a_transaction_commits_nothing(self, store):
        process = start(
            "from tests.samples import whole_run\n"
            "store = Store(sys.argv[1])\n"
            "def runs():\n"
            "    yield whole_run('a')\n"
            "    if os.fork() == 0:\n"
            "        raise KeyError\n"
            "    os.wait()\n"
            "    yield whole_run('b')\n"
            "try: store.add_runs(runs())\n"
            "except KeyError: os._exit(0)\n"
            "print(len(store.runs()), store.verify(), flush=True)\n",
            str(store.path),
        )
        out, err = process.communicate(timeout=30)
        assert out == "3 []\n", err


class TestCompacting:
    @pytest.mark.slow
    def test_what_others_add_meanwhile_is_not_lost(self, store):
        """Three processes add runs while one rewrites the file again and again."""
        code = (
            "from tests.samples import whole_run\n"
            "for n in range(5): assert Store(sys.argv[1]).add_run(whole_run(f'{sys.argv[2]}.{n}'))\n"
        )
        writers = [start(code, str(store.path), f"w{number}") for number in range(3)]
        while any(writer.poll() is None for writer in writers):
            store.compact()
        assert [writer.communicate()[1] for writer in writers] == [""] * 3
        assert len(store.runs()) == 1 + 3 * 5
        assert store.verify() == []

    def test_a_process_between_opening_and_locking(self, store, monkeypatch):
        """The file that is opened is the one that is locked: opening waits while a file is replaced."""
        replaced, opened = threading.Event(), threading.Event()
        real = Path.replace

        def replace_slowly(self: Path, target: Path) -> Path:
            other = start(
                "from acdc_explain.store.duck.attach import _not_while_replaced\n"
                "with _not_while_replaced(Path(sys.argv[1])): print('opened', flush=True)\n",
                str(store.path),
            )
            threading.Thread(target=lambda: (other.communicate(), opened.set())).start()
            time.sleep(1.5)
            assert not opened.is_set()
            replaced.set()
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace_slowly)
        store.compact()
        assert replaced.is_set()
        assert opened.wait(20)

    def test_a_log_of_the_old_file_is_not_played_into_the_new_one(self, store):
        code = (
            "import duckdb\n"
            "c = duckdb.connect(sys.argv[1])\n"
            "c.execute(\"SET checkpoint_threshold = '1GB'\")\n"
            "c.execute(\"INSERT INTO pages VALUES ('b', 'p', '1')\")\n"
            "os._exit(0)\n"
        )
        start(code, str(store.path)).communicate()
        log = Path(f"{store.path}.wal")
        assert log.exists()
        store.compact()
        assert not log.exists()
        assert store.read_checkpoint("b", "p") == 1
        assert store.verify() == []

    def test_one_that_fails_leaves_the_store(self, store, monkeypatch):
        def full(self: Path, target: Path) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(UserError, match="was not compacted and is as it was"):
            store.compact()
        monkeypatch.undo()
        assert len(store.runs()) == 1
        assert [path.name for path in store.path.parent.iterdir()] == ["s.duckdb"]
