"""The stage that makes and tests claims: what it stores, reuses and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import acdc_explain as ax
from acdc_explain.discovery.engine import proof
from acdc_explain.pipeline import claims as stage
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, Coverage
from acdc_explain.report.text.run import show_run
from acdc_explain.report.text.tables import console
from acdc_explain.store.document.read import from_document
from acdc_explain.store.document.write import to_document

OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 30, "collectors": ("attention",), "judges": (), "examples": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def explained(mini: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ax.Run, Any]:
    store = ax.Store(tmp_path_factory.mktemp("claims") / "s.duckdb")
    return ax.explain("ioi", mini, store=store, **OPTIONS), store


def test_every_component_has_an_effect_and_claims_are_tested(explained):
    run, _ = explained
    assert [result.node for result in run.components] == list(run.circuit.components)
    assert {result.outcome for result in run.claims} <= {"holds", "fails", "unclear", "untested"}
    assert any(result.explains for result in run.claims)
    assert run.coverage == Coverage.of(run.components)
    node = run.components[0].node
    assert run[node].result == run.components[0]
    assert list(run[node].claims) == run.claims_of(node)


def test_the_store_and_a_document_keep_them(explained, tmp_path):
    run, store = explained
    stored = store.get(run.id)
    assert list(stored.claims) == list(run.claims)
    assert list(stored.components) == list(run.components)
    document = json.loads(json.dumps(to_document(stored)))
    assert document["coverage"]["components"] == run.coverage.components
    about = [x for edge in document["circuit"]["edges"] for x in edge.get("claims", ())]
    assert {x["claim"] for x in about} <= {"feeds", "carries", "attends"}
    assert about
    read = from_document(document, "f.json")
    assert list(read.claims) == list(run.claims)
    assert list(read.components) == list(run.components)
    other = ax.Store(tmp_path / "other.duckdb")
    other.add_run(read)
    assert list(other.get(run.id).claims) == list(run.claims)


def test_a_document_with_a_wrong_claim_is_refused(explained):
    run, _ = explained
    for part, wrong in (("outcome", "surely"), ("value", "much"), ("arguments", 3)):
        document = json.loads(json.dumps(to_document(run)))
        component = next(entry for entry in document["components"] if entry["claims"])
        component["claims"][0][part] = wrong
        with pytest.raises(ax.UserError, match=r"f\.json is no complete exported run"):
            from_document(document, "f.json")


def test_a_run_of_the_same_circuit_tests_nothing_again(explained, mini, monkeypatch):
    run, store = explained
    for measures in ("_composed", "_tested"):
        monkeypatch.setattr(stage, measures, None)
    again = ax.explain("ioi", mini, store=store, **{**OPTIONS, "collectors": ("attention", "mlps")})
    assert again.id != run.id
    assert list(again.claims) == list(run.claims)
    assert store.verify() == []


def test_a_claim_that_nothing_can_test_here_grants_nothing(explained, tmp_path):
    """As an imported run may hold, or one whose plugin is gone: it stays untested."""
    run, _ = explained
    label = run.labels[0]
    unknown = Claim(label.node, "sings", {"at": "END"})
    wrong = Claim(label.node, "acts", {"at": "END", "loudly": True})
    store = ax.Store(tmp_path / "s.duckdb")
    for claim in (unknown, wrong):
        made = replace(run, labels=[replace(label, claims=(claim,), description="It sings.")])
        store.add_run(replace(made, verdicts=[], motifs=[], summary=None))
        judged = ax.judge(store.get(run.id), store, ax.Settings(judges=("claims",)))
        assert claim not in {result.claim for result in judged.claims}
        (verdict,) = [x for x in judged.verdicts if x.judge == "claims"]
        assert verdict.outcome == "inconclusive"
        assert "could not be tested" in verdict.reason
        for one in (judged.id, run.id):
            store.delete(one)


def test_removing_a_run_removes_its_claims(explained, tmp_path):
    run, _ = explained
    store = ax.Store(tmp_path / "s.duckdb")
    store.add_run(run)
    _, removed = store.delete(run.id)
    assert removed["claims"] == len(run.claims)
    assert removed["components"] == len(run.components)


def test_a_model_whose_layers_are_no_functions_gets_none(mini, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(proof, "fast_trouble", lambda contrast: "it has gates")
    notes: list[str] = []

    def progress(name: str, done: int, total: int, note: str = "") -> None:
        notes.append(note)

    store = tmp_path / "s.duckdb"
    run = ax.explain("ioi", mini, store=store, progress=progress, **OPTIONS)
    assert (list(run.claims), list(run.components), run.coverage) == ([], [], None)
    assert "none, as its layers cannot be run alone: it has gates" in notes
    show_run(run, console())
    assert "no claim could be tested on this model" in capsys.readouterr().out


def test_positions_that_cannot_be_places_do_not_stop_a_run(mini, tmp_path):
    from acdc_explain.plugins import load_plugins

    built = load_plugins().tasks()["ioi"](mini, examples=8, seed=0)

    def renamed(examples: Any) -> Any:
        return tuple(
            replace(e, positions={"the name": e.positions["IO"]}, variables={}) for e in examples
        )

    named = replace(
        built, discover=renamed(built.discover), held_out=renamed(built.held_out), schemes={}
    )
    run = ax.explain(named, mini, store=tmp_path / "s.duckdb", **OPTIONS)
    assert run.header.status == "done"
    assert run.coverage is None


def test_variables_of_a_task_without_any_are_the_places_that_differ(mini):
    from acdc_explain.evidence.variables import variable_names, variable_prompts
    from acdc_explain.plugins import load_plugins

    built = load_plugins().tasks()["ioi"](mini, examples=8, seed=0)
    bare = replace(
        built,
        discover=tuple(replace(example, variables={}) for example in built.discover),
        held_out=tuple(replace(example, variables={}) for example in built.held_out),
    )
    contrast = ax.contrast(bare, mini, "held_out")
    assert set(variable_names(contrast)) == {"IO", "S1", "S2"}
    prompts = variable_prompts(contrast, "IO")
    differs = prompts.tokens != contrast.clean.tokens
    assert (differs == contrast.position_mask("IO")).all()
    declared = ax.contrast(built, mini, "held_out")
    assert variable_names(declared) == ("IO", "S", "S2", "order")


def test_claims_of_a_run_are_about_its_nodes(explained):
    run, _ = explained
    document = json.loads(json.dumps(to_document(run)))
    document["components"][0]["node"] = str(Node("head", 0, 3))
    assert str(Node("head", 0, 3)) not in {str(node) for node in run.circuit.components}
    with pytest.raises(ax.UserError):
        from_document(document, "f.json")
