"""A whole store: verifying it, rewriting it, and reading it elsewhere."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import duckdb
import pytest
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.report.comparison import compare
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..samples import make_run, stored, whole_run


@pytest.fixture
def store(tmp_path) -> Store:
    store = stored(tmp_path / "s.duckdb", *map(whole_run, ("ioi", "induction")))
    store.add_task(word_task(2))
    return store


def change(store: Store, sql: str) -> None:
    with duckdb.connect(str(store.path)) as connection:
        connection.execute(sql)


def test_a_store_that_was_only_written_to_is_whole(store):
    assert store.verify() == []


@pytest.mark.slow_after(4)
@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        (
            "UPDATE labels SET role = 'wizard' WHERE node = 'a1.h0'",
            "labels [0-9a-f]+ holds something else",
        ),
        (
            "UPDATE labels SET positions = 'no json' WHERE node = 'a1.h0'",
            "labels [0-9a-f]+ cannot be read",
        ),
        ("UPDATE verdicts SET outcome = 'refuted'", "verdicts [0-9a-f]+ holds something else"),
        ("UPDATE evidence SET facts = '{}'", "evidence [0-9a-f]+ holds something else"),
        ("UPDATE exchanges SET reply = 'x'", "exchanges [0-9a-f]+ holds something else"),
        ("UPDATE circuits SET discoverer = 'eap'", "circuits [0-9a-f]+ holds something else"),
        ("UPDATE edges SET src = 'm0' WHERE place = 2", "circuits [0-9a-f]+ holds something else"),
        ("UPDATE motifs SET nodes = '{}'", "motifs [0-9a-f]+ holds something else"),
        ("UPDATE summaries SET labeler = 'x'", "summaries [0-9a-f]+ holds something else"),
        (
            "UPDATE tasks SET body = replace(body, 'Random', 'Other')",
            "tasks [0-9a-f]+ holds something else",
        ),
        ("UPDATE runs SET settings = '{}'", "runs [0-9a-f]+ holds something else"),
        ("DELETE FROM labels WHERE node = 'm1'", "run_labels names 2 labels that are not there"),
        ("DELETE FROM evidence WHERE node = 'm1'", "labels names 2 evidence that are not there"),
        ("DELETE FROM exchanges", "labels names 8 exchanges that are not there"),
        ("DELETE FROM runs", "motifs names 2 runs that are not there"),
        ("DELETE FROM nodes WHERE node = 'm1'", "circuits [0-9a-f]+ lacks 1 nodes"),
        ("DELETE FROM circuits", "runs names 2 circuits that are not there"),
        ("INSERT INTO labels FROM labels WHERE node = 'm1'", "labels has 2 rows more than once"),
        ("INSERT INTO run_labels FROM run_labels LIMIT 1", "run_labels has 1 rows more than once"),
        ("UPDATE verdicts SET circuit = NULL", "verdicts has 8 rows that belong to no circuit"),
    ],
)
def test_what_was_changed_or_lost_is_found(sql, complaint, store):
    change(store, sql)
    problems = store.verify()
    assert any(re.match(complaint, problem) for problem in problems), problems


def test_the_command(store):
    runner, db = CliRunner(), ["--db", str(store.path)]
    assert "every record is what its id says" in runner.invoke(app, ["verify", *db]).output
    change(store, "DELETE FROM exchanges")
    done = runner.invoke(app, ["verify", *db])
    assert isinstance(done.exception, UserError)
    assert "exchanges that are not there" in done.output


@pytest.mark.slow
def test_compacting_keeps_everything(store):
    runs = [store.get(header.id) for header in store.runs()]
    for _ in range(20):
        change(store, "CREATE TABLE big AS SELECT range AS x FROM range(100000)")
        change(store, "DROP TABLE big")
    before, after = store.compact()
    assert after < before
    assert store.path.stat().st_size == after
    assert [store.get(header.id) for header in store.runs()] == runs
    assert store.verify() == []
    assert not store.add_run(runs[0])  # its keys are stored as well
    assert [path.name for path in store.path.parent.iterdir()] == [store.path.name]


def test_a_writer_waits_for_a_compacting(store):
    other = whole_run("third")
    writer = threading.Thread(target=lambda: store.add_run(other))
    writer.start()
    store.compact()
    writer.join()
    assert {header.id for header in store.runs()} >= {other.id}
    assert store.verify() == []


def test_parquet_has_every_row(store, tmp_path):
    counts = store.write_parquet(tmp_path / "tables")
    assert counts["labels"] == 8
    assert counts["runs"] == 2
    for table, count in counts.items():
        file = tmp_path / "tables" / f"{table}.parquet"
        assert duckdb.sql(f"SELECT count(*) FROM '{file}'").fetchall() == [(count,)]
    with pytest.raises(UserError, match="cannot be made"):
        store.write_parquet(store.path / "below a file")


def test_two_runs_side_by_side(store):
    first, second = whole_run(), whole_run()
    labels = [replace(x, role="broad") if str(x.node) == "m1" else x for x in second.labels]
    second = replace(second, labels=labels)
    found = compare(first, second)
    assert found.same_model
    assert found.components.overlap == found.edges.overlap == 1.0
    (changed,) = found.changes
    assert (str(changed.node), changed.first, changed.second) == (
        "m1", {"other": "supported"}, {"broad": "untested"},
    )  # fmt: skip
    assert set(found.roles.both) == {"previous_token", "induction", "name_mover"}

    fewer = make_run(edges=("input->a0.h1<v>", "a0.h1->logits"), roles={"a0.h1": "induction"})
    found = compare(first, fewer)
    assert found.components.both == ("a0.h1",)
    assert found.components.first == ("a1.h0", "m1", "a2.h1")
    assert found.edges.overlap == pytest.approx(1 / 7)
    assert compare(first, make_run(model="other")).changes == ()


def test_comparing_on_the_command_line(store):
    ids = [header.id for header in store.runs()]
    done = CliRunner().invoke(app, ["compare", *ids, "--db", str(store.path)])
    assert done.exit_code == 0
    assert "induction" in done.output
    assert to_document(store.get(ids[0]))["run"]["id"] == ids[0]
