"""Does the program give the answers that it gave? Else stored results are not its own.

A run's id holds `RESULTS` (records/run/header.py), and a run with a known id is reused. So whatever changes an
answer must raise that number; then `python -m tests.pipeline.test_results` records the new answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import acdc_explain as ax
from acdc_explain.records.run.header import RESULTS
from acdc_explain.records.run.run import Run

FILE = Path(__file__).with_name("results.json")
WAYS: dict[str, dict[str, Any]] = {
    "ioi": {"examples": 6},
    "induction": {"examples": 6, "discoverer": "eap", "max_edges": 60},
    "greater_than": {"examples": 6, "discoverer": "eap", "max_edges": 60, "steps": 3},
}


def answers(run: Run) -> dict[str, Any]:
    """What a run found, without what depends on the machine."""
    assert run.circuit is not None
    faithfulness = run.circuit.faithfulness
    return {
        "edges": {str(edge): edge.effect for edge in run.circuit.edges},
        "faithfulness": [faithfulness.share, faithfulness.random_share],
        "behavior": {name: [x.accuracy, x.gap] for name, x in run.behavior.items()},
        "measures": {
            f"{evidence.node} {name}": found["value"]
            for evidence in run.evidence
            for name, found in evidence.measures.items()
        },
        "verdicts": {
            f"{label.node} {label.role} {verdict.judge}": [verdict.outcome, verdict.score]
            for label in run.labels
            for verdict in run.verdicts_of(label)
        },
    }


def found(model: Any) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return {
            task: answers(
                ax.explain(task, model, store=f"{folder}/s.duckdb", labeler="rules", **way)
            )
            for task, way in WAYS.items()
        }


def same(one: Any, other: Any) -> bool:
    """Equal, but for the last digits of numbers, which differ from machine to machine."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return one == pytest.approx(other, rel=1e-2, abs=2e-3)
    return bool(one == other)


def test_the_answers_are_those_that_were_recorded(mini):
    recorded = json.loads(FILE.read_text())
    assert recorded["results"] == RESULTS, (
        "settings.RESULTS was raised: record the answers with `python -m tests.pipeline.test_results`"
    )
    now = json.loads(json.dumps(found(mini)))
    changed = [
        f"{task}: {part}"
        for task, parts in now.items()
        for part, value in parts.items()
        if not same(value, recorded["answers"][task][part])
    ]
    assert not changed, (
        f"answers have changed ({', '.join(changed)}): raise settings.RESULTS, so that results of "
        "older code are not reused, and record the new ones with `python -m tests.pipeline.test_results`"
    )


def test_a_change_is_noticed():
    one = {"edges": {"m0->logits": 0.5}, "verdicts": {"m0 other role_card": ["supported", 0.1]}}
    assert same(one, {**one, "edges": {"m0->logits": 0.5001}})
    assert not same(one, {**one, "edges": {"m0->logits": 0.6}})
    assert not same(one, {**one, "edges": {}})
    assert not same(one, {**one, "verdicts": {"m0 other role_card": ["refuted", 0.1]}})


if __name__ == "__main__":
    document = {"results": RESULTS, "answers": found(ax.load_model("mini"))}
    FILE.write_text(json.dumps(document, indent=1) + "\n")
