"""Hostile input gives a result or a one-sentence error, and leaves the store unchanged."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..samples import whole_run

FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
NASTY = [
    "'; DROP TABLE runs; --", "$p0", "?", "%", "../../etc/passwd", "\x00", "\ud800", "\u202e<script>",
    "a" * 10_000, "🙂", "last:", "last:a0.h0; --", "[" * 1000, "-*->" * 600, "a9999999999999999999.h1",
]  # fmt: skip
texts = st.sampled_from(NASTY) | st.text(max_size=30)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("hostile") / "s.duckdb")
    store.add_run(whole_run())
    return store


def assert_unchanged(store: Store) -> None:
    assert [to_document(store.get(h.id)) for h in store.runs()] == [to_document(whole_run())]


@pytest.mark.slow
@given(texts, st.sampled_from(["text", "role", "pattern", "like", "verdict", "task", "model"]))
@FUZZ
def test_searches(store, text, where):
    try:
        results = store.search(**{where: text})
    except UserError as error:
        message = str(error)
        assert "\n" not in message
    else:
        assert isinstance(results, list)
    assert_unchanged(store)


@given(texts)
@FUZZ
def test_names_of_runs(store, name):
    for call in (store.get, store.header):
        try:
            call(name)
        except UserError as error:
            message = str(error)
            assert "\n" not in message.replace(name, "")
        else:
            assert whole_run().id.startswith(name) or name == "last"


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document."""
    if isinstance(document, dict):
        inner = list(document.items())
    elif isinstance(document, list):
        inner = list(enumerate(document))
    else:
        inner = []
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


DOCUMENT = json.loads(json.dumps(to_document(whole_run("fuzzed"))))
PLACES = [path for path in places(DOCUMENT) if path]
values = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False),
    st.sampled_from([10**400, -1, 1e308, [], {}, [[]], {"a": {}}, [None], "a0.h0", "2026-01-01"]),
)  # fmt: skip


def changed(document, changes):
    """A copy of a document with other values at some paths."""
    document = copy.deepcopy(document)
    for path, value in changes:
        parent = document
        try:
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed it
    return document


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(PLACES), values), min_size=1, max_size=3))
@FUZZ
def test_imported_documents(store, tmp_path, changes):
    """A document changed anywhere is refused in one sentence, or becomes a run that can be read."""
    document = changed(DOCUMENT, changes)
    file, target = tmp_path / "run.json", Store(tmp_path / "own.duckdb")
    target.path.unlink(missing_ok=True)
    file.write_text(json.dumps(document), encoding="utf-8")
    done = CliRunner().invoke(app, ["import", str(file), "--db", str(target.path)])
    if done.exception is not None:
        assert isinstance(done.exception, UserError), (changes, done.exception)
        assert "\n" not in str(done.exception)
        assert not target.path.exists() or target.runs() == []
    else:
        (header,) = target.runs()
        json.dumps(to_document(target.get(header.id)))
        target.search("Head")
        target.search(pattern="* -> *")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00", b"", b"null", b"[" * 100_000, b'{"schema":' * 50_000, b"9" * 100_000,
        b'{"schema": "acdc-explain/run/1", "schema": 1}', b"\x00" * 1000,
        b'{"schema": "acdc-explain/run/1", "run": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)  # fmt: skip
def test_files_that_are_not_runs(store, tmp_path, content):
    file = tmp_path / "f.json"
    file.write_bytes(content)
    done = CliRunner().invoke(app, ["import", str(file), "--db", str(store.path)])
    assert isinstance(done.exception, UserError), done.exception
    assert str(file) in str(done.exception)
    assert len(str(done.exception)) < 500
    assert_unchanged(store)


@pytest.mark.parametrize("identity", ["../../x", "a/b", "x" * 16, "ABCDEF0123456789"])
def test_an_id_is_sixteen_hexadecimal_digits(tmp_path, identity):
    document = copy.deepcopy(DOCUMENT)
    document["run"]["id"] = identity
    file = tmp_path / "f.json"
    file.write_text(json.dumps(document))
    done = CliRunner().invoke(app, ["import", str(file), "--db", str(tmp_path / "s.duckdb")])
    assert isinstance(done.exception, UserError)
    assert "is no id of a run" in str(done.exception)
