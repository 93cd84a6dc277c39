"""Does what a page says to type make the same run again?"""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

import acdc_explain as ax
from acdc_explain.cli.main import app
from acdc_explain.pipeline.inputs.prompt_file import read_prompts, write_prompts
from acdc_explain.plugins import load_plugins
from acdc_explain.report.commands import commands
from acdc_explain.report.html import page
from acdc_explain.store.document.read import from_document
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

pytestmark = pytest.mark.usefixtures("shared_contrasts")


def typed(command: str, db: Any) -> str:
    """What a command of acdc-explain prints."""
    words = shlex.split(command)
    assert words[0] == "acdc-explain"
    result = CliRunner().invoke(app, [*words[1:], "--db", str(db)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "seed and examples": {"seed": 3, "examples": 6},
    "many settings": {
        "discoverer": "acdc", "tau": 0.02, "orders": 1, "ablation": "mean", "metric": "prob_diff",
    },
    "more judges": {"more_judges": ("interchange",), "max_edges": 40, "discoverer": "eap"},
    "a corpus": {"corpus": "some text.txt", "discoverer": "eap"},
}  # fmt: skip


SLOW = ("plain", "seed and examples", "a corpus")


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way in SLOW else ()) for way in WAYS]
)
def test_the_command_on_the_page_is_the_same_run(way, mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some text.txt").write_text("the store was near the park and the school\n" * 5)
    store = Store(tmp_path / "s.duckdb")
    options: dict[str, Any] = {"examples": 4, "labeler": "rules", **WAYS[way]}
    run = ax.explain("ioi", mini, store=store, **options)
    (command,) = commands(run, load_plugins())
    from markupsafe import escape

    assert str(escape(command)) in page(run)
    assert "reused" in typed(command, store.path)
    assert [header.id for header in store.runs()] == [run.id]


@pytest.mark.slow
def test_prompts_of_a_file_go_out_and_come_back(mini, tmp_path, monkeypatch):
    """From the export of a run alone: import it elsewhere, write its prompts, run them."""
    monkeypatch.chdir(tmp_path)
    task = load_plugins().tasks()["ioi"](mini, examples=4, seed=0)
    entries = [
        {"clean": e.clean, "corrupt": e.corrupt, "answers": e.answers, "foils": e.foils}
        for e in (*task.discover, *task.held_out)
    ]
    file = tmp_path / "first.jsonl"
    file.write_text("\n".join(map(json.dumps, entries)))
    store = Store(tmp_path / "s.duckdb")
    way = {"discoverer": "eap", "max_edges": 60, "labeler": "rules"}
    run = ax.explain("my task", mini, store=store, prompts=str(file), examples=5, **way)
    document = json.loads(json.dumps(to_document(run)))
    forged = json.loads(json.dumps(document))
    forged["task"]["held_out"][0]["clean"] += " not"
    with pytest.raises(ax.UserError, match="not the prompts that the run's task_id stands for"):
        from_document(forged, "x")
    other = Store(tmp_path / "other.duckdb")
    other.add_run(from_document(document, "x"))
    assert other.get(run.id).task == run.task
    for command in commands(other.get(run.id), load_plugins()):
        output = typed(command, other.path)
    assert (tmp_path / "my task.jsonl").exists()
    assert run.id in output
    assert {header.id for header in other.runs()} == {run.id}


def test_written_prompts_are_read_as_the_same_task(mini, tmp_path):
    builder = load_plugins().tasks()["gendered_pronoun"]
    whole = builder(mini, examples=4, seed=0)
    file = tmp_path / "x.jsonl"
    from dataclasses import replace

    file.write_text(write_prompts(replace(whole, schemes={})))
    again = read_prompts(file, whole.name, mini)
    assert (again.discover, again.held_out) == (whole.discover, whole.held_out)
    with pytest.raises(ax.UserError, match="has other corruptions"):
        write_prompts(whole)
