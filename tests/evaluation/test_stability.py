"""Several draws of prompts: what is counted and what is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import acdc_explain as ax
from acdc_explain.errors import UserError
from acdc_explain.evaluation.stability import share_stable
from acdc_explain.records.circuit import Edge, Node
from acdc_explain.records.run.stability import Stability
from acdc_explain.records.verdict import Verdict

from ..samples import make_run


def drawn(seed: int, outcome: str, *, edges: int = 99):
    """The sample run with another seed, its first label's outcome and so many edges."""
    run = make_run()
    label = run.labels[0]
    verdict = Verdict(label.id, "role_card", outcome, 0.5, 0.1, None, 8, "")
    return replace(
        run,
        header=replace(run.header, seed=seed),
        circuit=replace(run.circuit, edges=run.circuit.edges[:edges]),
        labels=[label],
        verdicts=[verdict],
    )


class TestCounts:
    def test_a_label_that_holds_in_all_draws(self):
        found = Stability(tuple(drawn(seed, "supported") for seed in range(3)))
        (label,) = found.labels
        assert (label.supported, label.in_circuit, label.stable) == (3, 3, True)
        assert set(found.edges.values()) == {3}
        assert set(found.nodes.values()) == {3}

    def test_a_label_that_does_not(self):
        outcomes = ("supported", "refuted", "inconclusive")
        found = Stability(tuple(drawn(n, outcome) for n, outcome in enumerate(outcomes)))
        (label,) = found.labels
        assert (label.supported, label.in_circuit) == (1, 3)
        assert not label.stable
        assert label.contradicted
        assert share_stable(found.as_dict()["labels"]) == (1, 0, 1)

    def test_draws_whose_circuit_lacks_the_node_do_not_count(self):
        run, other = drawn(0, "supported"), drawn(1, "supported")
        elsewhere = replace(
            other,
            circuit=replace(other.circuit, edges=(Edge(Node("input"), Node("logits")),)),
            labels=[],
            verdicts=[],
        )
        (label,) = Stability((run, elsewhere)).labels
        assert (label.supported, label.in_circuit, label.stable) == (1, 1, True)
        assert label.outcomes == ("supported", None)

    def test_a_role_that_was_not_proposed_is_not_supported(self):
        silent = replace(drawn(1, "supported"), labels=[], verdicts=[])
        (label,) = Stability((drawn(0, "supported"), silent)).labels
        assert (label.supported, label.in_circuit, label.stable) == (1, 2, False)

    def test_the_error_is_that_of_the_mean(self):
        found = Stability((drawn(0, "supported"), drawn(1, "supported")))
        assert found.error == pytest.approx(0.0)
        assert Stability((drawn(0, "supported"),)).error is None


@pytest.mark.slow
def test_draws_of_mini(mini, tmp_path, capsys):
    """Each draw is a run of its own, on its own prompts, and is reused."""
    options = {"store": tmp_path / "s.duckdb", "examples": 4, "discoverer": "eap", "max_edges": 40}
    options |= {"judges": ("role_card",), "collectors": ("attention", "patching")}
    found = ax.stability("ioi", mini, seeds=2, **options)
    assert [run.header.seed for run in found.runs] == [0, 1]
    prompts = [{e.clean for e in run.task.held_out} for run in found.runs]
    assert prompts[0] != prompts[1]
    assert all(run.reused for run in ax.stability("ioi", mini, seeds=[0, 1], **options).runs)
    document = json.loads(json.dumps(found.as_dict()))
    assert document["runs"] == [run.id for run in found.runs]
    assert max(document["edges"].values()) <= 2
    from acdc_explain.report.text.comparison import show_stability
    from acdc_explain.report.text.tables import console

    show_stability(found, console())
    output = capsys.readouterr().out
    assert "ioi on mini, 2 draws of prompts (seeds 0, 1)" in output
    assert "standard error over draws" in output


def test_given_prompts_cannot_be_drawn_anew(mini, tmp_path):
    for options in ({"prompts": "x.jsonl"}, {"seeds": 0}):
        with pytest.raises(UserError, match="`seeds=`"):
            ax.stability("ioi", mini, store=tmp_path / "s.duckdb", **options)
