"""Using a store reads and writes no other file, whatever the store contains."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.output.files import check_output
from acdc_explain.store.store import Store

from ..samples import stored, whole_run


@pytest.fixture
def store(tmp_path) -> Store:
    return stored(tmp_path / "s.duckdb", whole_run())


@pytest.mark.slow_after(2)
@pytest.mark.parametrize(
    ("statements", "what"),
    [
        ("ALTER TABLE standings RENAME TO held; CREATE VIEW standings AS SELECT * FROM held, "
         "read_text('{secret}')", "a view 'standings'"),
        ("CREATE MACRO contains(x, y) AS (SELECT content FROM read_text('{secret}'))",
         "a macro 'contains'"),
        ("CREATE MACRO lower(x) AS 'anything'", "a macro 'lower'"),
        ("CREATE MACRO more() AS TABLE SELECT * FROM read_text('{secret}')", "a macro 'more'"),
        ("CREATE SCHEMA other", "a schema 'other'"),
        ("CREATE SCHEMA other; CREATE VIEW other.v AS SELECT 1", "a schema 'other'"),
        ("CREATE SEQUENCE counter", "a sequence 'counter'"),
        ("CREATE TYPE mood AS ENUM ('good')", "a type 'mood'"),
        ("CREATE TABLE mine (x INTEGER)", "a table 'mine'"),
        ("CREATE INDEX fast ON runs (task)", "an index 'fast'"),
        ("ALTER TABLE failures ADD COLUMN x TEXT DEFAULT (upper('x'))",
         "a computed column 'failures.x'"),
        ("DROP TABLE pages; CREATE TABLE pages (book TEXT, page TEXT, content TEXT "
         "GENERATED ALWAYS AS (lower(book)))", "a computed column 'pages.content'"),
        ("DROP TABLE pages; CREATE TABLE pages (book TEXT CHECK (lower(book) <> 'x'), page TEXT, "
         "content TEXT)", "a constraint on the table 'pages'"),
    ],
)  # fmt: skip
def test_a_store_with_anything_else_in_it_is_refused(statements, what, store, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody may read this")
    with duckdb.connect(str(store.path)) as connection:
        for statement in statements.format(secret=secret).split("; "):
            connection.execute(statement)
    before = store.path.read_bytes()
    for use in (store.runs, lambda: store.search("Head"), lambda: store.add_run(whole_run("x")),
                store.verify, store.compact):  # fmt: skip
        with pytest.raises(UserError, match="is a database of something else") as caught:
            use()
        assert what in str(caught.value)
        assert "nobody" not in str(caught.value)
    assert store.path.read_bytes() == before


def test_triggers_are_refused_where_there_are_any(store):
    with duckdb.connect(str(store.path)) as connection:
        try:
            connection.execute(
                "CREATE TRIGGER t AFTER INSERT ON meta FOR EACH STATEMENT DELETE FROM runs"
            )
        except (duckdb.ParserException, duckdb.NotImplementedException):
            pytest.skip("this DuckDB has no triggers")
    with pytest.raises(UserError, match="it has a trigger 't'"):
        store.runs()


@pytest.mark.slow_after(7)
@pytest.mark.parametrize("how", ["writing", "reading", "searching"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd.csv'",
        "SELECT * FROM glob('/etc/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY runs TO '{folder}/out.parquet'",
        "ATTACH '{folder}/other.duckdb' AS other",
        "EXPORT DATABASE '{folder}/all'",
        "INSTALL fts",
        "LOAD '{folder}/evil.duckdb_extension'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET allowed_paths = ['/etc/passwd']",
    ],
)
def test_no_sql_reaches_another_file(sql, how, store, tmp_path):
    with (
        pytest.raises(UserError, match=r"Permission Error|Cannot change configuration|locked"),
        getattr(store.database, how)() as connection,
    ):
        connection.execute(sql.format(folder=tmp_path)).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["s.duckdb"]


def test_nor_in_the_empty_database_beside_it():
    from acdc_explain.store.duck.engine import memory

    with memory() as connection, pytest.raises(duckdb.PermissionException):
        connection.execute("SELECT * FROM read_text('/etc/passwd')").fetchall()


def test_a_store_by_another_name_can_still_be_opened(store, tmp_path, monkeypatch):
    """Relative paths, `..` and links; one store after the other."""
    (tmp_path / "link.duckdb").symlink_to(store.path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    for name in ("../s.duckdb", "../link.duckdb", "../sub/../s.duckdb", str(store.path)):
        assert len(Store(name).runs()) == 1
        other = Store("own.duckdb")
        other.add_run(whole_run())
        assert len(other.runs()) == 1
    Store("../link.duckdb").compact()
    assert (tmp_path / "link.duckdb").is_symlink()
    assert len(store.runs()) == 1


class TestWhatIsWritten:
    """`-o` and similar options that would overwrite a store."""

    @pytest.mark.slow_after(2)
    @pytest.mark.parametrize(
        "command",
        [
            ["export", "last", "-o"], ["report", "last", "-o"],
            ["label", "last", "--labeler", "llm", "--llm-model", "x", "--batch-out"],
            ["run", "ioi", "--sweep", "--plot"],
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("which", ["store", "other", "log"])
    def test_a_store_is_left_as_it_is(self, command, which, store, tmp_path):
        other = tmp_path / "any.db"
        with duckdb.connect(str(other)) as connection:
            connection.execute("CREATE TABLE t (x INTEGER)")
        file = {"store": store.path, "other": other, "log": Path(f"{other}.wal")}[which]
        before = store.path.read_bytes(), other.read_bytes()
        done = CliRunner().invoke(app, [*command, str(file), "--db", str(store.path)])
        assert isinstance(done.exception, UserError), done.output
        assert "is a store (a DuckDB file) and is left as it is" in str(done.exception)
        assert (store.path.read_bytes(), other.read_bytes()) == before
        assert not Path(f"{other}.wal").exists()

    def test_a_store_that_is_not_there_yet(self, tmp_path):
        with pytest.raises(UserError, match="is a store"):
            check_output(tmp_path / "s.duckdb", tmp_path / "s.duckdb")

    def test_other_files_are_overwritten(self, store, tmp_path):
        file = tmp_path / "run.json"
        file.write_text("what was there")
        done = CliRunner().invoke(app, ["export", "last", "-o", str(file), "--db", str(store.path)])
        assert done.exit_code == 0
        assert json.loads(file.read_text())["run"]["id"] == whole_run().id

    def test_tables_in_a_folder_with_a_store(self, store, tmp_path):
        with duckdb.connect(str(tmp_path / "runs.parquet")) as connection:
            connection.execute("CREATE TABLE t (x INTEGER)")
        with pytest.raises(UserError, match="is a store"):
            store.write_parquet(tmp_path)
