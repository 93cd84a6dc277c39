"""The memorization firewall distinguishes an LLM that reads from one that recites."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import acdc_explain as ax
from acdc_explain.cli.main import app
from acdc_explain.evaluation.firewall import firewall
from acdc_explain.pipeline.settings import Settings
from acdc_explain.plugins import load_plugins
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..llm.scripted_server import completion, serve

ROLES = {
    kind: [name for name, card in load_plugins().roles().items() if card.kind == kind]
    for kind in ("head", "mlp")
}


def reads(prompt: str) -> str:
    """What an honest LLM uses: the numbers in the evidence, whatever components are called."""
    evidence = prompt.split("<evidence>")[1].split("</evidence>")[0]
    return " ".join(re.findall(r"\d+\.\d+", evidence))


def recites(prompt: str) -> str:
    """What a reciting LLM uses: the component's name, where it is shown with the model's."""
    named = re.search(r"The component is (.*?)\.\n", prompt)
    assert named
    return named[1] if 'The behavior of "' in prompt else "unknown"


def llm(goes_by):
    def script(number: int, body: dict[str, Any]):
        prompt = body["messages"][0]["content"]
        roles = ROLES["mlp" if "The component is MLP layer" in prompt else "head"]
        offered = [role for role in roles if f"- {role}: " in prompt]
        role = offered[sum(goes_by(prompt).encode()) % len(offered)]
        return completion(json.dumps({
            "roles": [role], "claims": [], "description": "x", "confidence": 1, "evidence": ["E1"],
        }))  # fmt: skip

    return script


@pytest.fixture(scope="module")
def labeled(small_model, tmp_path_factory) -> tuple[Path, ax.Run]:
    """A run and the store it is in."""
    path = tmp_path_factory.mktemp("labeled") / "s.duckdb"
    return path, ax.explain(
        word_task(4), small_model("neox"), store=path, labeler="rules", discoverer="eap",
        max_edges=30, judges=(), anyway=True,
    )  # fmt: skip


@pytest.fixture
def run(labeled, tmp_path) -> Any:
    path, made = labeled
    return Store(shutil.copyfile(path, tmp_path / "s.duckdb")), made


@pytest.mark.slow
@pytest.mark.parametrize(("goes_by", "followed"), [(reads, "evidence"), (recites, "index")])
def test_who_reads_and_who_recites(goes_by, followed, run, monkeypatch):
    store, labeled = run
    with serve(llm(goes_by)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        found = firewall(labeled, store, Settings(labeler="llm", llm_model="x"))
        asked = len(server.requests)
        again = firewall(labeled, store, Settings(labeler="llm", llm_model="x"))
        assert len(server.requests) == asked  # every exchange is stored
    assert again == found
    n = len(labeled.circuit.components)
    assert found["n"] == n
    assert asked == 4 * n
    for name in ("permuted", "shuffled"):
        counted = found["conditions"][name]
        assert counted["labeled"] == n
        assert counted["decisive"] >= 3
        assert counted[followed] == counted["decisive"]
    same = found["conditions"]["revealed"]["as_blind"]
    assert (same == 1) == (goes_by is reads)


@pytest.mark.slow
def test_it_leaves_the_run_as_it_was(run, monkeypatch):
    store, labeled = run
    with serve(llm(reads)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        firewall(labeled, store, Settings(labeler="llm", llm_model="x"))
    assert [header.id for header in store.runs()] == [labeled.id]
    assert store.get(labeled.id) == labeled


@pytest.mark.slow
def test_the_command(run, monkeypatch):
    store, labeled = run
    with serve(llm(recites)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        command = ["bench", "firewall", "last", "--llm-model", "x", "--db", str(store.path)]
        table = CliRunner().invoke(app, command).output
        document = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert "llm with x" in table
    assert "permuted" in table
    assert set(document["conditions"]) == {"blind", "revealed", "permuted", "shuffled"}
    assert set(document["roles"]) == {str(node) for node in labeled.circuit.components}
