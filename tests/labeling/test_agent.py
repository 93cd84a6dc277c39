"""The agent states hypotheses, requests experiments within its budget, and concludes."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import pytest
import torch

import acdc_explain as ax
from acdc_explain.claims.testing import check_claims
from acdc_explain.evidence.effects import ablated_output, ablation, logits_with, share_lost
from acdc_explain.evidence.measures import MEASURES, measure
from acdc_explain.evidence.patching.direct import logit_directions
from acdc_explain.labeling.experiments import EXPERIMENTS, ComponentExperiments
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.network.hooks import Point
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim

from ..conftest import word_task
from ..llm.scripted_server import completion, serve
from .asking import Asker

OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 12, "labeler": "agent", "llm_model": "scripted",
    "judges": ("role_card",), "concurrency": 1, "anyway": True,
}  # fmt: skip
ABLATE = {"experiment": "ablate", "positions": [], "how": "resample", "prompts": "", "others": []}
AT_END = {"claim": "acts", "at": "END"}
HYPOTHESES = {"hypotheses": [{"role": "none", "says": "It matters.", "claims": [AT_END]},
                             {"role": "none", "says": "It does not.", "claims": [AT_END]}]}  # fmt: skip
CONCLUSION = {
    "roles": [], "claims": [AT_END], "description": "It matters.", "confidence": 0.5,
    "evidence": ["X1"],
    "hypotheses": [
        {"hypothesis": "A", "outcome": "supported", "reason": "X1", "evidence": ["X1"]},
        {"hypothesis": "B", "outcome": "refuted", "reason": "X1", "evidence": ["X1", "X1"]},
    ],
}  # fmt: skip


def kind_of(body: dict[str, Any]) -> str:
    prompt = body["messages"][0]["content"]
    for kind, mark in (("summary", "A circuit was found"), ("repair", "You were asked this before"),
                       ("hypothesise", "State at most"), ("experiment", "Choose the experiment"),
                       ("conclude", "Conclude.")):  # fmt: skip
        if mark in prompt:
            return kind
    raise AssertionError(prompt)


def script(**replies: Any):
    """Replies by the kind of step; of a list, the one for the number of results in the prompt."""

    def answer(number: int, body: dict[str, Any]):
        reply = replies.get(kind_of(body), {"sentences": []})
        if isinstance(reply, list):
            n_results = body["messages"][0]["content"].count("<result id=")
            reply = reply[min(n_results, len(reply) - 1)]
        return completion(json.dumps(reply))

    return answer


def step(reason: str = "r", **arguments: Any) -> dict[str, Any]:
    return {"reason": reason, "step": arguments}


@pytest.fixture
def explain(measured, monkeypatch, small_model):
    def start(answers, **options: Any):
        with serve(answers) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            run = ax.explain(
                word_task(4), small_model("neox"), store=measured, **OPTIONS, **options
            )
        return run, server.requests

    return start


def findings(run) -> list[dict[str, Any]]:
    return [evidence.facts for evidence in run.evidence if evidence.collector == "agent"]


@pytest.mark.slow
def test_hypotheses_experiments_conclusion(explain):
    answers = script(
        hypothesise=HYPOTHESES, experiment=[step(**ABLATE), step(experiment="done")],
        conclude=CONCLUSION,
    )  # fmt: skip
    run, requests = explain(answers)
    nodes = run.circuit.components
    assert not run.failures
    assert len(findings(run)) == len(nodes)
    for evidence in run.evidence:
        if evidence.collector != "agent":
            continue
        (made,) = evidence.facts["experiments"]
        assert made["asked"] == ABLATE
        assert made["reason"] == "r"
        assert set(made["result"]) == {"value", "interval", "n", "median_of_others"}
        outcomes = [(h["says"], h["outcome"]) for h in evidence.facts["hypotheses"]]
        assert outcomes == [("It matters.", "supported"), ("It does not.", "refuted")]
        (label,) = run.labels_of(evidence.node)
        assert evidence.id in label.evidence_ids
        assert [claim.name for claim in label.claims] == ["acts"]
    steps = Counter(kind_of(body) for body in requests if kind_of(body) != "summary")
    n = len(nodes)
    assert steps == {"hypothesise": n, "experiment": 2 * n, "conclude": n}
    experiments = [body for body in requests if kind_of(body) == "experiment"]
    first = next(b for b in experiments if "<result" not in b["messages"][0]["content"])
    second = next(b for b in experiments if "<result" in b["messages"][0]["content"])
    schemas = [b["response_format"]["json_schema"]["schema"]["properties"]["step"]["anyOf"]
               for b in (first, second)]  # fmt: skip
    names = [{s["properties"]["experiment"]["enum"][0] for s in each} for each in schemas]
    assert "done" not in names[0]  # at least one experiment
    assert names[1] == names[0] | {"done"}


@pytest.mark.slow
def test_the_results_are_those_of_the_experiment(explain, small_model):
    answers = script(hypothesise=HYPOTHESES, experiment=step(**ABLATE), conclude=CONCLUSION)
    run, _ = explain(answers, labeler_settings={"calls": 1})
    task = word_task(4)
    contrast = Contrast(small_model("neox"), task, task.discover)
    for evidence in run.evidence:
        if evidence.collector == "agent":
            (made,) = evidence.facts["experiments"]
            expected = float(ablation(contrast, evidence.node).mean())
            assert made["result"]["value"] == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(("calls", "tokens", "most"), [(3, 10**6, 3), (1, 10**6, 1), (5, 100, 0)])
def test_the_budget(calls, tokens, most, explain):
    steps = [step(**{**ABLATE, "how": how, "positions": at}) for how in ("resample", "mean")
             for at in ([], ["END"])]  # fmt: skip
    conclusion = {**CONCLUSION, "evidence": ["E1"], "hypotheses": []}
    run, _ = explain(
        script(hypothesise=HYPOTHESES, experiment=steps, conclude=conclusion),
        labeler_settings={"calls": calls, "tokens": tokens},
    )
    assert not run.failures
    assert max(len(found["experiments"]) for found in findings(run)) == most
    for found in findings(run):  # a hypothesis that the conclusion leaves out has an outcome too
        assert {h["outcome"] for h in found["hypotheses"]} == {"undecided"}
        assert all(h["reason"] for h in found["hypotheses"])


@pytest.mark.slow
def test_nothing_is_settled_without_an_experiment(explain):
    settled = [{**h, "evidence": ["E1"]} for h in CONCLUSION["hypotheses"]]
    conclusion = {**CONCLUSION, "evidence": ["E1"], "hypotheses": settled}
    run, _ = explain(
        script(hypothesise=HYPOTHESES, experiment=step(**ABLATE), conclude=conclusion),
        labeler_settings={"calls": 1},
    )
    for found in findings(run):
        assert [h["outcome"] for h in found["hypotheses"]] == ["undecided"] * 2
        assert "by no experiment" in found["hypotheses"][0]["reason"]


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({**ABLATE, "positions": ["nowhere"]}, "there is no position 'nowhere'"),
        ({**ABLATE, "prompts": "magic"}, "there is no corruption or variable 'magic'"),
        ({**ABLATE, "others": ["H77"]}, "there is no component 'H77'"),
        ({"experiment": "test", "made": {"claim": "sings"}}, "there is no claim 'sings'"),
        ({**ABLATE, "how": "__import__('os')"}, "how:"),
        ({**ABLATE, "code": "print(1)"}, "code:"),
        ({"experiment": "measure", "measure": "__class__"}, "there is no measure"),
    ],
)
def test_experiments_that_make_no_sense_are_results_too(arguments, complaint, explain):
    conclusion = {**CONCLUSION, "evidence": ["E1"], "hypotheses": []}
    run, _ = explain(
        script(hypothesise=HYPOTHESES, experiment=step(**arguments), conclude=conclusion),
        labeler_settings={"calls": 1},
    )
    assert not run.failures
    for found in findings(run):
        (made,) = found["experiments"]
        assert complaint in made["error"]
        assert "result" not in made


@pytest.mark.slow
def test_a_role_that_its_own_hypothesis_refutes_is_not_taken(explain):
    """The agent is asked again: it names another role, or lets the hypothesis stand."""
    hypotheses = {"hypotheses": [{"role": "previous_token", "says": "x", "claims": [AT_END]},
                                 {"role": "logit_booster", "says": "y", "claims": [AT_END]}]}  # fmt: skip
    refuting = {**CONCLUSION, "hypotheses": [{"hypothesis": "A", "outcome": "refuted",
                                              "reason": "X1", "evidence": ["X1"]}]}  # fmt: skip

    def named(role: str) -> dict[str, Any]:
        return {**refuting, "roles": [role]}

    def answer(number: int, body: dict[str, Any]):
        prompt, kind = body["messages"][0]["content"], kind_of(body)
        role = "previous_token" if "attention head" in prompt else "logit_booster"
        at = {"hypothesise": {"hypotheses": [h for h in hypotheses["hypotheses"]
                                             if h["role"] == role]},
              "experiment": step(**ABLATE), "conclude": named(role),
              "repair": refuting, "summary": {"sentences": []}}  # fmt: skip
        return completion(json.dumps(at[kind]))

    run, requests = explain(answer, labeler_settings={"calls": 1})
    assert {label.role for label in run.labels} == {"other"}
    repairs = [body for body in requests if kind_of(body) == "repair"]
    assert any("which you say is refuted" in b["messages"][0]["content"] for b in repairs)


@pytest.mark.slow
def test_an_unusable_step_ends_the_experiments_and_not_the_labeling(explain):
    conclusion = {**CONCLUSION, "evidence": ["E1"], "hypotheses": []}
    run, _ = explain(
        script(hypothesise=HYPOTHESES, experiment={"spell": 1}, repair={"spell": 2},
               conclude=conclusion)
    )  # fmt: skip
    assert not run.failures
    assert all(run.labels_of(node) for node in run.circuit.components)
    assert sum(exchange.error is not None for exchange in run.exchanges) >= 2
    assert all(found["experiments"] == [] for found in findings(run))


@pytest.mark.slow
def test_an_investigation_is_resumed_where_it_was(explain):
    """Stored replies are used: the same command sends only the other requests."""
    answers = script(hypothesise=HYPOTHESES, experiment=step(**ABLATE), conclude={"no": 1},
                     repair={"no": 2})  # fmt: skip
    run, _ = explain(answers, labeler_settings={"calls": 1})
    assert len(run.failures) == len(run.circuit.components)
    good = script(hypothesise={}, experiment={}, conclude=CONCLUSION)
    again, asked = explain(good, labeler_settings={"calls": 1}, retry=True)
    assert again.header.status == "done"
    assert {kind_of(body) for body in asked} <= {"conclude", "summary", "repair"}


# --- the experiments -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ioi(mini) -> Contrast:
    task = load_plugins().tasks()["ioi"](mini, examples=4, seed=0)
    return Contrast(mini, task, task.discover)


@pytest.fixture(scope="module")
def asker(ioi) -> Asker:
    return Asker(ioi)


def experiments_on(asker: Asker, node: str, *, blind: bool = False) -> ComponentExperiments:
    question = asker.about(node, blind=blind, evidence=False)
    return ComponentExperiments(question, asker.contrast.task, lambda: asker.contrast)


def run_(experiments: ComponentExperiments, name: str, **arguments: Any) -> Any:
    return asyncio.run(experiments.run(name, arguments))


def test_every_experiment_runs_and_has_something_to_compare_with(asker):
    head = experiments_on(asker, "a0.h1")
    ablate = {"positions": ["END"], "how": "mean", "prompts": "swap_s2", "others": []}
    made = {"claim": "feeds", "receiver": "a1.h1", "port": "q", "at": "END", "query": "END",
            "key": "IO", "by": None}  # fmt: skip
    arguments: dict[str, tuple[dict[str, Any], str]] = {
        "measure": ({"measure": "foil_attention"}, "chance"),
        "attention": ({"text": asker.contrast.examples[0].clean, "query": -1}, "mean_of_the_layer"),
        "attention_here": ({"at": "END"}, "mean_of_others"),
        "ablate": (ablate, "median_of_others"),
        "cut_input": ({"sender": "m0", "port": "k", "at": "S2"}, "error"),
        "without": ({"others": ["a1.h1", "m2"]}, "before"),
        "test": ({"made": made}, "chance"),
        "stand_in": ({"other": "a1.h1"}, "interval"),
    }
    assert set(arguments) == set(EXPERIMENTS) == set(head.catalogue)
    for name, (values, compared) in arguments.items():
        if compared == "error":  # no head of the first layer reads an MLP
            with pytest.raises(ValueError, match="does not come after"):
                run_(head, name, **values)
            values, head = {**values, "port": "q"}, experiments_on(asker, "a1.h1")
            values, compared = {**values, "sender": "a0.h1", "at": "END"}, "percentile"
        result = run_(head, name, **values)
        assert compared in json.dumps(result, allow_nan=False), name
        head = experiments_on(asker, "a0.h1")


def test_what_comes_in_is_cut_at_any_place(asker):
    """mini's a0.h1 sets the name movers' queries at END: cut there, attention turns; at IO not."""
    mover = experiments_on(asker, "a1.h1")
    at_end = run_(mover, "cut_input", sender="a0.h1", port="q", at="END")
    at_io = run_(mover, "cut_input", sender="a0.h1", port="q", at="IO")
    assert at_end["value"] > 5 * abs(at_io["value"])
    assert at_end["turns_attention"]["from"] == "END"
    into_mlp = run_(experiments_on(asker, "m2"), "cut_input", sender="a1.h1", port=None, at="END")
    assert into_mlp["unit"] == "share of the gap lost"


def test_ablated_together_with_others(asker, ioi):
    names = ["a1.h1", "a1.h2", "a2.h2"]
    nodes = [Node.parse(name) for name in names]
    found = run_(experiments_on(asker, names[0]), "ablate", positions=[], how="resample",
                 prompts="", others=names[1:])  # fmt: skip
    outputs = {node: ablated_output(ioi, node) for node in nodes}
    expected = float(share_lost(ioi, logits_with(ioi, outputs)).mean())
    assert found["together"]["value"] == pytest.approx(expected, abs=2e-4)
    assert found["alone"]["value"] == pytest.approx(float(ablation(ioi, nodes[0]).mean()), abs=2e-4)
    outputs.pop(nodes[0])
    rest = float(share_lost(ioi, logits_with(ioi, outputs)).mean())
    assert found["without_it"]["value"] == pytest.approx(rest, abs=2e-4)


def test_another_head_after_the_movers_are_gone(asker, ioi):
    """The direct effect after ablating others, against hooks on the whole model."""
    others = [Node.parse("a1.h1"), Node.parse("a1.h2")]
    found = run_(experiments_on(asker, "a2.h2"), "without", others=[str(x) for x in others])
    written: dict[str, torch.Tensor] = {}
    watch = (Point("heads", 2), lambda value: written.update(heads=value.clone()))
    logits_with(ioi, {node: ablated_output(ioi, node) for node in others}, [watch])
    direction, _ = logit_directions(ioi, "answers")
    after = (ioi.clean.at_end(written["heads"][:, :, 2]) * direction).sum(-1)
    assert found["answers"]["after"]["value"] == pytest.approx(float(after.mean()), abs=2e-4)
    assert found["answers"]["before"]["value"] != found["answers"]["after"]["value"]


def test_a_claim_is_tested_as_on_held_out_prompts(asker, ioi):
    made = {"claim": "attends", "at": "END", "to": "answer", "through": "answers"}
    found = run_(experiments_on(asker, "a1.h1"), "test", made=made)
    kinds = load_plugins().claims()
    claim = Claim(Node.parse("a1.h1"), "attends", {k: v for k, v in made.items() if k != "claim"})
    (expected,) = check_claims(ioi, [claim], kinds, other_corruptions=False)
    assert found["outcome"] == expected.outcome
    assert found["value"] == pytest.approx(expected.value, abs=1e-4)
    assert found["says"] == "at END attends to answer for answers"


def test_a_measure_is_that_of_the_experiments(asker, ioi):
    node = Node.parse("a0.h1")
    found = run_(experiments_on(asker, "a0.h1"), "measure", measure="foil_attention")
    expected = measure("foil_attention", ioi)
    assert found["value"] == pytest.approx(expected.value(node), abs=1e-4)
    assert found["percentile"] == pytest.approx(expected.percentile(node), abs=1e-4)


def test_attention_is_the_models(asker, ioi):
    text = ioi.examples[0].clean
    found = run_(experiments_on(asker, "a1.h0"), "attention", text=text, query=-1)
    row = ioi.clean_run.patterns[1, 0, 0, int(ioi.clean.end[0])]
    best = found["attends_to"][0]
    prefix = len(ioi.model.prefix)
    assert best["number"] == int(row.argmax()) - prefix
    assert best["attention"] == pytest.approx(float(row.max()), abs=1e-3)
    if best["number"] >= 0:
        assert best["token"] == ioi.model.pieces(text)[best["number"]]
    here = run_(experiments_on(asker, "a1.h0"), "attention_here", at="END")
    rows = ioi.clean_run.patterns[1, :, 0].cpu()
    at_io = [float(rows[i, ioi.clean.end[i], ioi.position("IO")[i]]) for i in range(len(ioi))]
    assert here["IO"]["value"] == pytest.approx(sum(at_io) / len(at_io), abs=1e-4)


def test_the_catalogue_lists_what_arguments_may_be(asker, ioi):
    catalogue = experiments_on(asker, "a0.h1", blind=True).catalogue
    assert catalogue["measure"][1]["properties"]["measure"]["enum"] == list(MEASURES)
    ablate = catalogue["ablate"][1]["properties"]
    assert ablate["positions"]["items"]["enum"] == ["rest", "P1", "P2", "P3", "P4", "END"]
    assert ablate["prompts"]["enum"] == ["", "corruption 1", "corruption 2", "V1", "V2", "V3", "V4"]
    own = asker.about("a0.h1").shown[Node.parse("a0.h1")]
    assert own not in catalogue["stand_in"][1]["properties"]["other"]["enum"]
    assert not re.search(r"S1|S2|IO|swap|a\d+[.]h\d", json.dumps(catalogue))  # it is blind
    mlp = experiments_on(asker, "m0")
    assert "attention" not in mlp.catalogue
    with pytest.raises(ValueError, match="no experiment 'attention'"):
        run_(mlp, "attention", text="x", query=0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"text": "", "query": 0}, "text"),
        ({"text": "Mary" * 200, "query": 0}, "text"),
        ({"text": "Mary and John", "query": 77}, "no token 77"),
        ({"text": "Mary", "query": "0; import os"}, "query"),
    ],
)
def test_attention_on_nonsense(arguments, complaint, asker):
    with pytest.raises(ValueError, match=complaint):
        run_(experiments_on(asker, "a0.h1"), "attention", **arguments)


def test_experiments_at_the_same_time_wait_for_each_other(asker, ioi):
    """They share the model; run at the same time they give the same results as alone."""
    components = [experiments_on(asker, f"a1.h{n}") for n in range(1, 4)]
    arguments = {key: value for key, value in ABLATE.items() if key != "experiment"}

    async def together() -> list[Any]:
        return await asyncio.gather(*(x.run("ablate", arguments) for x in components))

    results = asyncio.run(together())
    for result, component in zip(results, components):
        expected = float(ablation(ioi, component.node).mean())
        assert result["value"] == pytest.approx(expected, abs=2e-4)
    assert torch.is_grad_enabled()
