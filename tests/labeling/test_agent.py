"""The agent states hypotheses, requests experiments within its budget, and concludes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
import torch

import acdc_explain as ax
from acdc_explain.evidence.effects import ablation
from acdc_explain.evidence.measures import MEASURES, measure
from acdc_explain.labeling.experiments import EXPERIMENTS, ComponentExperiments
from acdc_explain.models.contrast import Contrast
from acdc_explain.records.circuit import Node

from ..conftest import word_task
from ..llm.scripted_server import completion, serve

OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 12, "labeler": "agent", "llm_model": "scripted",
    "judges": ("role_card",), "concurrency": 1, "anyway": True,
}  # fmt: skip
ABLATE = {"experiment": "ablate", "positions": [], "how": "resample", "scheme": ""}
HYPOTHESES = {"hypotheses": [{"role": "other", "claim": "It matters."},
                             {"role": "other", "claim": "It does not."}]}  # fmt: skip
CONCLUSION = {
    "role": "other", "description": "It matters.", "positions": [], "confidence": 0.5,
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
        assert set(made["result"]) == {"value", "interval", "n"}
        outcomes = [(h["claim"], h["outcome"]) for h in evidence.facts["hypotheses"]]
        assert outcomes == [("It matters.", "supported"), ("It does not.", "refuted")]
        (label,) = run.labels_of(evidence.node)
        assert evidence.id in label.evidence_ids
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
        ({**ABLATE, "positions": ["nowhere"]}, "it cannot be measured"),
        ({**ABLATE, "scheme": "magic"}, "there is no corruption 'magic'"),
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
    from acdc_explain.plugins import load_plugins

    task = load_plugins().tasks()["ioi"](mini, examples=4, seed=0)
    return Contrast(mini, task, task.discover)


def experiments_on(contrast: Contrast, node: str) -> ComponentExperiments:
    shown = {node: f"H{n}" for n, node in enumerate(contrast.model.graph.heads)}
    return ComponentExperiments(Node.parse(node), shown, contrast.task, lambda: contrast)


def run_(experiments: ComponentExperiments, name: str, **arguments: Any) -> Any:
    return asyncio.run(experiments.run(name, arguments))


def test_every_experiment_runs(ioi):
    head = experiments_on(ioi, "a0.h1")
    arguments = {
        "measure": {"measure": "foil_attention"},
        "attention": {"text": ioi.examples[0].clean, "query": -1},
        "ablate": {"positions": ["END"], "how": "mean", "scheme": next(iter(ioi.schemes))},
        "keep_only": {"role": "s_inhibition"},
        "cut_path": {"receiver": "H4", "port": "q"},
        "stand_in": {"other": "H5"},
    }
    assert set(arguments) == set(EXPERIMENTS) == set(head.catalogue)
    for name, values in arguments.items():
        result = run_(head, name, **values)
        json.dumps(result, allow_nan=False)


def test_a_measure_is_that_of_the_experiments(ioi):
    node = Node.parse("a0.h1")
    found = run_(experiments_on(ioi, "a0.h1"), "measure", measure="foil_attention")
    expected = measure("foil_attention", ioi)
    assert found["value"] == pytest.approx(expected.value(node), abs=1e-4)
    assert found["percentile"] == pytest.approx(expected.percentile(node), abs=1e-4)


def test_attention_is_the_models(ioi):
    text = ioi.examples[0].clean
    found = run_(experiments_on(ioi, "a1.h0"), "attention", text=text, query=-1)
    row = ioi.clean_run.patterns[1, 0, 0, int(ioi.clean.end[0])]
    best = found["attends_to"][0]
    prefix = len(ioi.model.prefix)
    assert best["number"] == int(row.argmax()) - prefix
    assert best["attention"] == pytest.approx(float(row.max()), abs=1e-3)
    if best["number"] >= 0:
        assert best["token"] == ioi.model.pieces(text)[best["number"]]


def test_a_cut_path_moves_what_it_should(ioi):
    """mini's a0.h1 sets the name movers' queries: cutting q changes much, in its own layer nothing."""
    moved = run_(experiments_on(ioi, "a0.h1"), "cut_path", receiver="H4", port="q")
    still = run_(experiments_on(ioi, "a0.h2"), "cut_path", receiver="H4", port="q")
    assert moved["attention_moved_at_END"]["value"] > 5 * still["attention_moved_at_END"]["value"]
    with pytest.raises(ValueError, match="no later attention head"):
        run_(experiments_on(ioi, "a1.h0"), "cut_path", receiver="H5", port="q")


def test_the_catalogue_lists_what_arguments_may_be(ioi):
    catalogue = experiments_on(ioi, "a0.h1").catalogue
    assert catalogue["measure"][1]["properties"]["measure"]["enum"] == list(MEASURES)
    ablate = catalogue["ablate"][1]["properties"]
    assert ablate["positions"]["items"]["enum"] == list(ioi.position_names)
    assert set(ablate["scheme"]["enum"]) == {"", *ioi.schemes}
    assert "H1" not in catalogue["stand_in"][1]["properties"]["other"]["enum"]  # itself
    mlp = ComponentExperiments(Node.parse("m0"), {}, ioi.task, lambda: ioi)
    assert set(mlp.catalogue) == {"measure", "ablate"}
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
def test_attention_on_nonsense(arguments, complaint, ioi):
    with pytest.raises(ValueError, match=complaint):
        run_(experiments_on(ioi, "a0.h1"), "attention", **arguments)


def test_experiments_at_the_same_time_wait_for_each_other(ioi):
    """They share the model; run at the same time they give the same results as alone."""
    components = [experiments_on(ioi, f"a1.h{n}") for n in range(4)]
    arguments = {key: value for key, value in ABLATE.items() if key != "experiment"}

    async def together() -> list[Any]:
        return await asyncio.gather(*(x.run("ablate", arguments) for x in components))

    results = asyncio.run(together())
    for result, component in zip(results, components):
        expected = float(ablation(ioi, component.node).mean())
        assert result["value"] == pytest.approx(expected, abs=2e-4)
    assert torch.is_grad_enabled()
