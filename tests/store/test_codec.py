"""Records as rows and as the exported document: both stay byte for byte what they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb

from acdc_explain.records.claim import Claim, ClaimResult, ComponentResult, Step
from acdc_explain.records.label import Label
from acdc_explain.records.run.behavior import Behavior
from acdc_explain.records.run.pair import Pair
from acdc_explain.records.run.run import Run
from acdc_explain.records.run.summary import Sentence, Summary
from acdc_explain.records.task import Example, Task
from acdc_explain.records.verdict import Verdict
from acdc_explain.store.document.read import from_document
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..samples import make_run

RECORDED = Path(__file__).parent / "recorded.json"
"""A stored run's export and the rows of every table, as the code before the codecs wrote them."""


def rich_run() -> Run:
    """A run with a value in every field that the store and the document have."""
    run = make_run()
    assert run.circuit is not None
    circuit = replace(run.circuit, n_layers=3)
    discover, held_out = (
        (Example(f"{word} 1", f"{word} 2", (" yes",), (" no",), {"END": 1}),)
        for word in ("One", "Two")
    )
    task = Task("ioi", "Says yes.", "logit_diff", discover, held_out)
    verdict = Verdict(
        run.labels[0].id, "ablation", "refuted", 0.25, 0.5, 0.75, 16, "less than chance",
        measure="ablation_effect", unit="logits", low=-0.5, high=1.0,
    )  # fmt: skip
    pair = Pair(
        ("One", " 1"), ("One", " 2"), (" yes",), (" no",), {"rest": [0], "END": [1]},
        {"END": (("changed", None), ("after", "rest"))}, {"number": ("END",)},
    )  # fmt: skip
    behavior = {
        split: Behavior(2, 0.5, 1.0, 0.25, "logit_diff", 2.0, -1.0, 3.0, (2.5, 3.5), known)
        for split, known in (("discover", pair), ("held_out", None))
    }
    header = replace(
        run.header, task_id=task.id, name="first", note="A note.", origin="f.json, 2026-01-02"
    )
    exchange = replace(run.exchanges[0], error="unusable reply: too short", cost_usd=0.25)
    edge = circuit.edges[0]
    arguments = {"receiver": str(edge.dst), "port": edge.port, "at": "END", "by": 0.25}
    claim = ClaimResult(
        Claim(edge.src, "feeds", arguments), "feeds it", "does", "holds", 0.25, 0.125, 0.5, 0.0,
        0.75, "attention", 2, True, {"swap": "agrees"}, "as measured",
        {"at": ["itself"]},
    )  # fmt: skip
    untested = ClaimResult(Claim(edge.src, "acts", {"at": "X"}), "acts", "where", "untested")
    component = ComponentResult(edge.src, 0.25, 0.125, 0.5, False, True)
    free = Label(
        circuit.id, run.labels[0].node, "llm", "other", ("END",), "It feeds.", 0.5, (),
        claims=(Claim(run.labels[0].node, "acts", {"at": "END"}),),
    )  # fmt: skip
    sentences = (Sentence("It feeds it.", (edge.src,), (claim.claim.id,)),)
    return replace(
        run, header=header, circuit=circuit, task=task, behavior=behavior,
        verdicts=[*run.verdicts, verdict], exchanges=[*run.exchanges, exchange],
        claims=[claim, untested], components=[component], labels=[*run.labels, free],
        summary=Summary(run.id, "llm", sentences),
        algorithm=[Step("It feeds it.", [claim.claim.id]), Step("That is all.", [])],
    )  # fmt: skip


def stored_texts(path: Path) -> dict[str, object]:
    """The export of a rich run, as a text, and all rows of its store by table and column."""
    store, run = Store(path), rich_run()
    store.add_run(run)
    text = json.dumps(to_document(store.get(run.id)), ensure_ascii=False)
    with duckdb.connect(str(path)) as connection:
        names = sorted(name for (name,) in connection.execute("SHOW TABLES").fetchall())
        tables = {}
        for name in names:
            found = connection.execute(f"SELECT * FROM {name} ORDER BY ALL")
            columns = [f"{column[0]} {column[1]}" for column in found.description]
            tables[name] = [columns, *([str(x) for x in row] for row in found.fetchall())]
    return {"document": text, "tables": tables}


def test_the_document_and_the_rows_stay_byte_for_byte(tmp_path):
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    found = stored_texts(tmp_path / "s.duckdb")
    assert found["document"] == recorded["document"]
    assert found["tables"] == recorded["tables"]


def test_an_imported_document_is_exported_as_it_was(tmp_path):
    run = rich_run()
    run = replace(run, header=replace(run.header, task_id="ioi-id"), task=None)
    document = to_document(run)
    store = Store(tmp_path / "s.duckdb")
    store.add_run(from_document(json.loads(json.dumps(document)), "f.json"))
    exported = to_document(store.get(run.id))
    assert exported["run"].pop("origin").startswith("f.json, ")
    assert document["run"].pop("origin") == "f.json, 2026-01-02"
    for part in (document, exported):  # the store sorts records by their ids
        part["exchanges"]["records"].sort(key=str)
        for component in part["components"]:
            for label in component["labels"]:
                label["verdicts"].sort(key=str)
    assert exported == document
