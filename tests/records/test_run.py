"""How records print, and what a run says about one component."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acdc_explain.records.circuit import Edge, Node
from acdc_explain.records.label import Failure
from acdc_explain.report.html import page
from acdc_explain.report.text.run import show_run
from acdc_explain.report.text.tables import console
from tests.samples import make_run


@pytest.mark.parametrize("name", ["a9.h6", "a9", "m3", "input", "logits", "a9.h6@S2"])
def test_the_repr_of_a_node_is_its_name(name):
    assert repr(Node.parse(name)) == name


def test_the_repr_of_an_edge_is_its_name():
    assert repr([Edge.parse("a3.h7->a9.h6<q>", 0.5)]) == "[a3.h7->a9.h6<q>]"


def test_the_repr_of_a_circuit_is_what_show_says_of_it():
    run = make_run()
    assert repr(run.circuit) == (
        "circuit: 6 of 100 edges (60 tested by acdc in 1.5 s), 4 components\n"
        "logit_diff on held-out examples: whole model 3.000, circuit 2.500, everything corrupted "
        "-0.500; faithfulness 86% (random circuits 7%)"
    )
    ablated = replace(run.circuit, settings={"ablation": "mean"})
    assert "everything ablated (mean) -0.500" in repr(ablated)


def test_the_repr_of_a_run_has_two_lines(capsys):
    run = make_run()
    assert repr(run) == (
        f"run {run.id}  ioi on mini  (done)\n"
        "circuit: 6 of 100 edges (60 tested by acdc in 1.5 s), 4 components, faithfulness 86%"
    )
    assert repr(replace(run, circuit=None)) == f"run {run.id}  ioi on mini  (done)\nno circuit yet"
    show_run(run, console())
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == [run.title, *repr(run.circuit).splitlines()]


def test_a_run_says_how_its_model_was_loaded(capsys):
    """The revision and the type beside the model's name, the device on a line of its own."""
    run = make_run()
    settings = {**run.header.settings, "dtype": "bfloat16", "revision": "step1000"}
    made_by = {**run.header.versions, "device": "cuda:1"}
    special = replace(run, header=replace(run.header, settings=settings, versions=made_by))
    assert special.title == f"run {run.id}  ioi on mini (step1000, bfloat16)  (done)"
    show_run(special, console())
    assert capsys.readouterr().out.splitlines()[:2] == [special.title, "device: cuda:1"]
    assert (special.header.device, run.header.device) == ("cuda:1", "cpu")
    assert "<h1>ioi on mini (step1000, bfloat16)</h1>" in page(special)
    assert "<h1>ioi on mini</h1>" in page(run)


def test_a_run_gives_everything_about_a_component():
    run = make_run()
    record = run["a1.h0"]
    assert record == run[Node("head", 1, 0)]
    assert record.node == Node("head", 1, 0)
    assert [evidence.collector for evidence in record.evidence] == ["weights"]
    assert [label.role for label in record.labels] == ["induction"]
    assert [verdict.outcome for verdict in record.verdicts] == ["supported"]
    assert record.verdicts_of(record.labels[0]) == record.verdicts
    assert record.failure is None
    assert repr(record) == "a1.h0: induction (supported); evidence: weights"


def test_a_component_without_a_label():
    run = make_run()
    failures = [Failure(Node("mlp", 1), "llm", "the reply is empty")]
    record = replace(run, labels=[], evidence=[], failures=failures)["m1"]
    assert record.failure == "the reply is empty"
    assert repr(record) == "m1: no label (the reply is empty); evidence: none"
    assert repr(replace(record, failure=None)) == "m1: no label; evidence: none"


def test_a_label_without_a_verdict_is_untested():
    assert "induction (untested)" in repr(replace(make_run(), verdicts=[])["a1.h0"])


@pytest.mark.parametrize("name", ["a1.h7", "input", "logits", "a1.h0@S2", "nonsense", ""])
def test_what_is_not_in_the_circuit(name):
    with pytest.raises(
        KeyError, match="There is no component .* There are a0.h1, a1.h0, m1, a2.h1"
    ):
        make_run()[name]


def test_the_nearest_name_is_suggested():
    with pytest.raises(KeyError, match=r"did you mean a1.h0\?"):
        make_run()["a1.ho"]
    edges = tuple(f"a0.h{head}->logits" for head in range(30))
    with pytest.raises(KeyError, match="a0.h19 and 10 more"):
        make_run(edges=edges, roles={})["m99"]


def test_a_run_without_a_circuit_has_no_components():
    with pytest.raises(KeyError, match="the run has no circuit"):
        replace(make_run(), circuit=None)["a1.h0"]
