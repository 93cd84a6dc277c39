"""Naming, listing and deleting runs; and patterns that count supported labels only."""

from __future__ import annotations

import json
from dataclasses import replace

import duckdb
import pytest
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.plugins import load_plugins
from acdc_explain.records.pattern import Pattern
from acdc_explain.records.run.run import Run
from acdc_explain.records.verdict import Verdict
from acdc_explain.store.document.write import to_document
from acdc_explain.store.motifs import motifs
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..samples import make_run, stored, whole_run


@pytest.fixture
def store(tmp_path) -> Store:
    second = make_run("induction", "big", created="2026-01-03T00:00:00Z")
    return stored(tmp_path / "s.duckdb", make_run("ioi", "mini"), second)


def cli(store: Store, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--db", str(store.path)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def rows(store: Store) -> dict[str, list]:
    with duckdb.connect(str(store.path)) as connection:
        tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        return {
            t: sorted(map(str, connection.execute(f"SELECT * FROM {t}").fetchall())) for t in tables
        }


def unique(task: str) -> Run:
    """A sample that shares no exchange with others."""
    run = make_run(task)
    exchange = replace(run.exchanges[0], prompt=f"{task}?")
    labels = [replace(label, exchange_id=exchange.id) for label in run.labels]
    ids = {old.id: new.id for old, new in zip(run.labels, labels)}
    verdicts = [replace(v, label_id=ids[v.label_id]) for v in run.verdicts]
    summary = run.summary and replace(run.summary, exchange_id=exchange.id)
    return replace(run, labels=labels, verdicts=verdicts, exchanges=[exchange], summary=summary)


class TestDelete:
    def test_leaves_the_store_as_it_was_without_the_run(self, store):
        before = rows(store)
        store.add_run(unique("other"))
        store.delete(unique("other").id)
        assert rows(store) == before
        assert store.verify() == []

    def test_leaves_what_others_use(self, store):
        """Another run with the same circuit, evidence and labels, and other verdicts."""
        first = whole_run()
        header = replace(first.header, id="b" * 16, settings={"x": 1})
        verdict = replace(first.verdicts[0], judge="transfer", outcome="refuted")
        second = replace(first, header=header, verdicts=[verdict], motifs=[], summary=None)
        store.add_run(second)
        kept = to_document(store.get(second.id))
        header, counts = store.delete(first.id)
        assert header.id == first.id
        assert counts["verdicts"] == 4
        assert "labels" not in counts
        assert "circuits" not in counts
        assert to_document(store.get(second.id)) == kept
        others = [problem for problem in store.verify() if "b" * 16 not in problem]
        assert others == []
        assert len(store.search(role="induction", verdict="supported")) == 1

    def test_leaves_the_prompts_of_other_runs(self, store):
        task = word_task(2)
        store.add_task(task)
        for number in "ab":
            run = make_run(f"t{number}")
            header = replace(run.header, task_id=task.id, id=number * 16)
            store.add_run(replace(run, header=header, motifs=[], summary=None))
        store.delete("a" * 16)
        assert store.task(task.id) == task
        store.delete("b" * 16)
        with pytest.raises(KeyError):
            store.task(task.id)

    def test_the_command(self, store):
        would = cli(store, "delete", "last", "--dry-run")
        assert "would remove run" in would
        assert "labels 4" in would
        assert len(store.runs()) == 2
        assert "removed run" in cli(store, "delete", "last")
        assert [header.task for header in store.runs()] == ["ioi"]
        with pytest.raises(UserError, match="holds no run"):
            store.delete("zzz")
        assert store.verify() == []


class TestNames:
    def test_a_name_stands_for_the_run_everywhere(self, store):
        assert "is 'first-one'" in cli(store, "name", whole_run().id, "first-one")
        assert "has a note" in cli(store, "note", "first-one", "with the old prompts")
        shown = cli(store, "show", "first-one")
        assert "name: first-one" in shown
        assert "note: with the old prompts" in shown
        assert (
            json.loads(cli(store, "export", "first-one"))["run"]["note"] == "with the old prompts"
        )
        assert "induction" in cli(store, "search", "--like", "first-one:a1.h0")
        listed = cli(store, "runs")
        assert "first-one" in listed
        store.writer(whole_run().id).write_header(whole_run().header)  # the run goes on
        assert store.header("first-one").note == "with the old prompts"
        assert store.verify() == []
        assert "has no name" in cli(store, "name", "first-one", "")
        with pytest.raises(UserError, match="holds no run 'first-one'"):
            store.header("first-one")

    @pytest.mark.parametrize("name", ["last", "abc123", "a b", "x" * 65, "-x", "a:b", "é\n"])
    def test_what_cannot_be_a_name(self, name, store):
        with pytest.raises(UserError, match="cannot name a run"):
            store.name_run("last", name=name)

    def test_a_name_is_of_one_run(self, store):
        store.name_run("last", name="one")
        with pytest.raises(UserError, match="has a run 'one' already"):
            store.name_run(whole_run().id, name="one")
        store.name_run("last", name="one")  # the same name again


class TestLists:
    def test_what_matters_of_each_run(self, store):
        shown = cli(store, "runs")
        assert "faithfulness" in shown
        assert "86%" in shown
        assert shown.index("induction") < shown.index("ioi")
        (first, second) = json.loads(cli(store, "runs", "--json"))
        assert (first["edges"], first["faithfulness"]) == (6, pytest.approx(3 / 3.5))
        assert second["task"] == "ioi"

    @pytest.mark.parametrize(
        ("options", "tasks"),
        [(["--task", "ioi"], ["ioi"]), (["--model", "big"], ["induction"]),
         (["--model", "big@1"], ["induction"]), (["--status", "unfinished"], []),
         (["--status", "done"], ["induction", "ioi"]), (["--limit", "1"], ["induction"])],
    )  # fmt: skip
    def test_filters(self, options, tasks, store):
        done = CliRunner().invoke(app, ["runs", "--json", *options, "--db", str(store.path)])
        assert [run["task"] for run in json.loads(done.stdout)] == tasks

    def test_settings_that_tell_runs_apart(self, store):
        run = make_run("third")
        settings = {"discoverer": "acdc", "discoverer_settings": {"tau": 0.05, "positions": True,
                    "level": "layer"}, "ablation": "mean"}  # fmt: skip
        store.add_run(replace(run, header=replace(run.header, settings=settings)))
        assert "acdc, tau 0.05, positions, layer, mean" in " ".join(cli(store, "runs").split())

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize(
        ("command", "told"),
        [
            (["runs", "--limit", "1"], "1 of 2 shown; --limit raises it."),
            (["search", "--limit", "3"], "3 of 8 shown; --limit raises it."),
            (["search", "Head", "--limit", "3"], "3 of 8 shown"),
            (["search", "--pattern", "* -> *", "--limit", "2"], "2 of 8 shown"),
            (
                ["search", "--pattern", "* -> *", "--role", "induction", "--limit", "2"],
                "2 of 6 shown",
            ),
            (["search", "--like", "last:a1.h0", "--limit", "1"], "1 shown, and there may be more"),
            (["report", "--store", "--limit", "1", "-o", "pages"], "1 of 2 shown"),
        ],
    )
    def test_what_is_cut_is_said(self, command, told, store, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, [*command, "--db", str(store.path)], catch_exceptions=False)
        assert told in done.stderr
        more = [word if word not in ("1", "2", "3") else "100" for word in command]
        done = CliRunner().invoke(app, [*more, "--db", str(store.path)], catch_exceptions=False)
        assert "shown" not in done.stderr


def test_tables_of_one_run(store, tmp_path):
    run = whole_run()
    assert "rows" in cli(store, "export", run.id, "--parquet", str(tmp_path / "one"))
    counts = {}
    for file in (tmp_path / "one").iterdir():
        counts[file.stem] = duckdb.sql(f"SELECT count(*) FROM '{file}'").fetchall()[0][0]
    assert counts | {"tasks": 0} == {
        "runs": 1, "circuits": 1, "nodes": 6, "edges": 6, "evidence": 4, "labels": 4,
        "verdicts": 4, "exchanges": 1, "run_evidence": 4, "run_labels": 4, "run_verdicts": 4,
        "run_exchanges": 1, "motifs": 1, "summaries": 1, "failures": 1, "labelings": 0,
        "judgings": 0, "standings": 6, "fingerprints": 4, "enrichments": 0, "tasks": 0,
    }  # fmt: skip
    (found,) = duckdb.sql(f"SELECT id FROM '{tmp_path}/one/runs.parquet'").fetchall()
    assert found == (run.id,)


class TestOnlyWhatPassed:
    """Roles in patterns are those of supported labels, unless others are requested."""

    @pytest.fixture
    def mixed(self, tmp_path) -> Store:
        """a1.h0's label failed one of two judges."""
        run = make_run()
        label = next(label for label in run.labels if label.role == "induction")
        failed = Verdict(label.id, "transfer", "causal_only", 0.0, 0.0, 0.5, 9, "fails")
        return stored(tmp_path / "m.duckdb", replace(run, verdicts=[*run.verdicts, failed]))

    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize(
        ("pattern", "passed", "all_of_them"),
        [
            ("previous_token -k-> induction", 0, 1),
            ("* -> * -> name_mover", 2, 2),
            ("induction -> *", 0, 2),
            ("induction[verdict=causal_only] -> *", 2, 2),
            ("(induction|previous_token) -> *", 1, 3),
            ("induction", 0, 1),
        ],
    )
    def test_in_searches_motifs_and_runs(self, pattern, passed, all_of_them, mixed):
        run = mixed.header("last").id
        for any_verdict, n in ((False, passed), (True, all_of_them)):
            assert len(mixed.search(pattern=pattern, any_verdict=any_verdict)) == n
            assert len(mixed.match(run, {"it": pattern}, any_verdict=any_verdict)) == n
            counted = mixed.count(Pattern.parse(pattern), any_verdict=any_verdict)
            assert counted.get(run, 0) == n
            (count,) = motifs(mixed, {"it": pattern}, any_verdict=any_verdict)
            assert count.matches == n
            if count.enrichment is not None:
                assert count.enrichment.found == n
        flag = "--any-verdict"
        assert len(json.loads(cli(mixed, "search", "--pattern", pattern, "--json"))) == passed
        assert (
            len(json.loads(cli(mixed, "search", "--pattern", pattern, "--json", flag)))
            == all_of_them
        )
        assert json.loads(cli(mixed, "motifs", pattern, "--json"))[0]["matches"] == passed
        assert (
            json.loads(cli(mixed, "motifs", pattern, "--json", flag))[0]["matches"] == all_of_them
        )

    def test_a_verdict_asked_for_is_the_one_that_counts(self, mixed):
        found = mixed.search(pattern="induction -> *", verdict="causal_only")
        assert len(found) == 2
        assert not mixed.search(pattern="induction -> *", verdict="refuted")

    def test_a_role_beside_a_pattern(self, mixed):
        assert not mixed.search(pattern="* -> *", role="induction")
        assert len(mixed.search(pattern="* -> *", role="induction", any_verdict=True)) == 3
        assert len(mixed.search(pattern="* -> *", role="name_mover")) == 2


def test_no_named_pattern_is_one_edge_to_the_logits():
    for text in load_plugins().patterns().values():
        assert Pattern.parse(text).may_be_more_than_chance, text


def test_runs_of_one_task_and_model_have_one_vote(store):
    """The newest complete run counts, and a run made here before an imported one."""
    for number, (status, origin, created) in enumerate(
        [("done", None, "2026-02-01"), ("done", None, "2026-02-02"),
         ("unfinished", None, "2026-02-03"), ("done", "f.json", "2026-02-04")]
    ):  # fmt: skip
        run = make_run(edges=(*make_run().header.settings["edges"], f"a0.h{5 + number}->logits"))
        header = replace(
            run.header, status=status, origin=origin, created_at=f"{created}T00:00:00Z"
        )
        store.add_run(replace(run, header=header))
    found = motifs(store, {"it": "induction -> name_mover"}, chance=False)
    (count,) = [count for count in found if count.task == "ioi"]
    assert (count.matches, count.runs, count.runs_with) == (1, 5, 5)
    assert store.header(count.run).created_at == "2026-02-02T00:00:00Z"
