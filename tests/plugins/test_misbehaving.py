"""Plugins that exit, print, return garbage or raise are named and left out; the others run."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import acdc_explain as ax
from acdc_explain.errors import UserError
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim
from acdc_explain.records.label import LabelerReply, Proposal
from acdc_explain.records.role import RoleCard
from acdc_explain.records.run.summary import Sentence
from acdc_explain.records.verdict import Verdict

from ..conftest import word_task
from .test_plugins import Labels, installed, registers, thing  # noqa: F401

# --- at import and in hooks --------------------------------------------------------------------

BAD_MODULES = {
    "exits": "import sys; sys.exit(3)",
    "exits_in_a_hook": """
        from acdc_explain import hookimpl
        @hookimpl
        def register_tasks():
            raise SystemExit
        """,
    "raises_anything": "raise BaseException('odd')",
    "no_mapping": """
        from acdc_explain import hookimpl
        @hookimpl
        def register_judges():
            return 7
        """,
}
TALKATIVE = """
    import os, sys
    from acdc_explain import hookimpl
    print("noise at import")
    os.write(1, b"noise to the file\\n")
    @hookimpl
    def register_tasks():
        print("noise in a hook")
        sys.stdout.write("more noise\\n")
        return {}
    """


def program(
    folder: Path, modules: dict[str, str], *command: str
) -> subprocess.CompletedProcess[str]:
    """The command line with these modules installed as plugins of another package."""
    info = folder / "others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    entries = "".join(f"{name} = other_{name}\n" for name in modules)
    (info / "entry_points.txt").write_text(f"[acdc_explain]\n{entries}")
    for name, text in modules.items():
        (folder / f"other_{name}.py").write_text(textwrap.dedent(text))
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from acdc_explain.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)


def test_broken_plugins_are_named_and_the_others_load(tmp_path):
    done = program(tmp_path / "p", {**BAD_MODULES, "talkative": TALKATIVE}, "tasks", "--json")
    assert done.returncode == 0, done.stderr
    assert {entry["task"] for entry in json.loads(done.stdout)} >= {"ioi", "induction"}
    assert "Traceback" not in done.stderr
    for name in BAD_MODULES:
        assert f"plugin '{name}' is broken and was left out" in done.stderr
    assert "SystemExit: 3 (other_exits.py, line 1)" in done.stderr
    assert "register_judges: it returned 7, no mapping" in done.stderr
    for noise in ("at import", "to the file", "in a hook"):
        assert f"noise {noise}" in done.stderr


def test_ctrl_c_in_a_plugin_stops_the_command(tmp_path):
    done = program(tmp_path / "p", {"slow": "raise KeyboardInterrupt"}, "tasks")
    assert done.returncode != 0
    assert "is broken" not in done.stderr


GARBAGE = {
    "register_tasks": [["ioi"], {7: thing}, {"x": 7}, {"": thing}, {"a\nb": thing}, None, "ioi"],
    "register_discoverers": [{"x": 7}, {"x": object()}],
    "register_collectors": [{"x": lambda contrast, nodes, *, a=thing: ()}, {"x": dict}],
    "register_labelers": [{"x": thing}, {"x": 7}],
    "register_judges": [{"x": "role_card"}, {"x": lambda a, b, c, *, needed: ()}],
    "register_roles": [{"x": {"claim": "no card"}}, {"x": RoleCard("x", "head", "it", (7,))},
                       {"x": RoleCard("y", "head", "it", ())}],
    "register_patterns": [{"x": 7}, {"x": "->"}],
    "register_prompts": [{"x": 7}, {"x": "/no/such/folder"}],
    "register_models": [{"x": "gpt2"}],
    "register_answer_keys": [{"x": []}],
}  # fmt: skip


@pytest.mark.parametrize(("hook", "garbage"), [(h, g) for h, each in GARBAGE.items() for g in each])
def test_garbage_from_a_hook(hook, garbage, installed):  # noqa: F811
    from acdc_explain import hookimpl

    def make(plugin: Any) -> None:
        def function() -> Any:
            return garbage

        function.__name__ = hook
        setattr(plugin, hook, hookimpl(function))

    plugins = installed(mine=make)
    assert plugins.broken["mine"].startswith(f"{hook}: ")
    assert "mine" not in plugins.by_plugin(hook)
    assert plugins.registered(hook)  # by the other plugins


# --- in a run ----------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 12, "labeler": "rules", "anyway": True,
}  # fmt: skip


@pytest.fixture
def explain(measured, small_model, installed, monkeypatch):  # noqa: F811
    """A run with a plugin `mine` that brings one thing."""

    def start(hook: str, registered: Any, **options: Any) -> ax.Run:
        plugins = installed(mine=registers(hook, mine=registered))
        monkeypatch.setattr("acdc_explain.pipeline.prepare.load_plugins", lambda: plugins)
        settings = {**OPTIONS, "judges": ("role_card",), **options}
        if settings["discoverer"] == "mine":
            del settings["max_edges"]
        return ax.explain(word_task(4), small_model("neox"), store=measured, **settings)

    return start


def verdict(label: Any, **changes: Any) -> Verdict:
    return replace(Verdict(label.id, "mine", "supported", 1.0, 0.1, 0.9, 4, "it is"), **changes)


def judge_that(*ends: Any):
    """A judge that gives a verdict on the first label and then misbehaves."""

    def mine(contrast, labels, roles):
        yield verdict(labels[0])
        for end in ends:
            if isinstance(end, BaseException):
                raise end
            yield end(labels[1]) if callable(end) else end

    return mine


BAD_JUDGES = {
    "raises": (RuntimeError("no luck"), "RuntimeError: no luck"),
    "exits": (SystemExit(1), "SystemExit: 1"),
    "a text": ("supported", "it yielded 'supported', which is no Verdict"),
    "no outcome": (lambda x: verdict(x, outcome="yes"), "its outcome is 'yes'"),
    "no label": (lambda x: verdict(x, label_id="x"), "on the label 'x', which it was not asked"),
    "another's": (lambda x: verdict(x, judge="role_card"), "a verdict of 'role_card'"),
    "no number": (lambda x: verdict(x, score=float("nan")), "finite numbers"),
    "no text": (lambda x: verdict(x, reason="\ud800"), "cannot be written"),
}


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("bad", BAD_JUDGES)
def test_a_judge_that_fails_is_left_out(bad, explain):
    end, message = BAD_JUDGES[bad]
    run = explain("register_judges", judge_that(end), judges=("mine", "role_card"))
    (fault,) = run.set_aside
    assert fault.startswith("judge 'mine' of plugin 'mine' failed (")
    assert message in fault
    assert run.header.status == "incomplete"
    judges = [v.judge for v in run.verdicts]
    assert judges.count("mine") == 1  # its verdict before it failed
    assert judges.count("role_card") == len(run.labels)
    assert run.summary is not None

    good = explain(
        "register_judges", lambda s, labels, r: map(verdict, labels), judges=("mine", "role_card")
    )
    assert good.header.status == "done"  # the same command completes the run
    assert len([v for v in good.verdicts if v.judge == "mine"]) == len(good.labels)


def test_a_plugins_judge_joins_only_when_asked_for(explain):
    def everything(contrast, labels, roles):
        return map(verdict, labels)

    run = explain("register_judges", everything, judges=None)
    judges = {v.judge for v in run.verdicts}
    assert "mine" not in judges
    assert "role_card" in judges
    assert "mine" not in run.header.settings["judges"]
    requested = explain("register_judges", everything, judges=("mine",))
    assert {v.judge for v in requested.verdicts} == {"mine"}


BAD_COLLECTED = {
    "raises": (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    "no pair": (7, "which is no pair"),
    "no node": (("a0.h0", {}), "facts of 'a0.h0', which it was not asked about"),
    "no facts": (lambda node: (node, 7), "its facts are 7, which is no mapping"),
    "no JSON": (lambda node: (node, {"x": float("inf")}), "its facts are no JSON"),
    "no measures": (lambda node: (node, {"measures": {"copying": "high"}}), "the measures of"),
    "no text": (lambda node: (node, {"x": "\ud800"}), "cannot be written"),
}


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("bad", BAD_COLLECTED)
def test_a_collector_that_fails_is_left_out(bad, explain):
    end, message = BAD_COLLECTED[bad]

    def mine(contrast, nodes):
        yield nodes[0], {"seen": 1}
        if isinstance(end, BaseException):
            raise end
        yield end(nodes[1]) if callable(end) else end

    run = explain("register_collectors", mine)
    (fault,) = run.set_aside
    assert fault.startswith("collector 'mine' of plugin 'mine' failed (")
    assert message in fault
    assert run.header.status == "incomplete"
    assert len([e for e in run.evidence if e.collector == "mine"]) == 1
    assert run.labels
    assert run.verdicts


def labeler_that(answer: Any, *, prompt: Any = "p", sentences: Any = ()) -> Any:
    """A labeler that gives this answer on the first component, this prompt and this summary."""

    class Mine(Labels):
        def prompt(self, question, ask):
            if isinstance(prompt, BaseException):
                raise prompt
            return prompt

        async def __call__(self, question, prompt, ask):
            if question.node != question.circuit.components[0]:
                return LabelerReply((Proposal("other", "It does.", 0.5, ()),))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        async def summarise(self, story, ask):
            if isinstance(sentences, BaseException):
                raise sentences
            return sentences, None

    return Mine()


def proposal(**changes: Any) -> LabelerReply:
    return LabelerReply((replace(Proposal("other", "It does.", 0.5, ()), **changes),))


BAD_ANSWERS = {
    "raises": (KeyError("x"), "KeyError: 'x'"),
    "exits": (SystemExit(2), "SystemExit: 2"),
    "nothing": (None, "it answered None, which is no LabelerReply"),
    "no proposal": (LabelerReply(("other",)), "which is no Proposal"),
    "no role": (proposal(role="wizard"), "the role 'wizard', which nobody knows"),
    "no text": (proposal(description=7), "must be texts"),
    "half a character": (proposal(description="\ud800"), "cannot be written"),
    "no number": (proposal(confidence=float("nan")), "its confidence is nan"),
    "no evidence": (proposal(evidence_ids=("x",)), "cited the evidence 'x'"),
    "no list of claims": (proposal(claims=7), "the claims of a proposal are 7"),
    "a claim about another": (
        proposal(claims=[Claim(Node.parse("m99"), "acts", {"at": "END"})]),
        "which is no Claim about",
    ),
    "findings": (LabelerReply((), None, {"x": object()}), "its facts are no JSON"),
}


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_a_labeler_that_fails_on_one_component_labels_the_others(bad, explain):
    answer, message = BAD_ANSWERS[bad]
    run = explain("register_labelers", labeler_that(answer), labeler="mine")
    (failure,) = run.failures
    assert failure.reason.startswith("labeler 'mine' of plugin 'mine' failed (")
    assert message in failure.reason
    assert run.header.status == "incomplete"
    assert len({label.node for label in run.labels}) == len(run.circuit.components) - 1


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("prompt", [RuntimeError("no prompt"), 7, None])
def test_a_labeler_without_a_prompt(prompt, explain):
    run = explain("register_labelers", labeler_that(None, prompt=prompt), labeler="mine")
    assert len(run.failures) == len(run.circuit.components)
    assert run.header.status == "incomplete"


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    "sentences", [ValueError("no words"), 7, "text", [7], [Sentence("x", ("a9.h9",))]]
)
def test_where_a_labelers_summary_fails_the_rules_write_it(sentences, explain):
    labeler = labeler_that(proposal(), sentences=sentences)
    run = explain("register_labelers", labeler, labeler="mine")
    assert run.summary.labeler == "rules"
    assert run.header.status == "incomplete"
    assert "labeler 'mine' of plugin 'mine' failed" in run.set_aside[0]


def test_a_discoverer_that_fails_is_one_sentence(explain):
    def mine(contrast, progress):
        raise RuntimeError("no luck")

    with pytest.raises(
        UserError, match="discoverer 'mine' of plugin 'mine' failed .RuntimeError: no luck"
    ):
        explain("register_discoverers", mine, discoverer="mine")


TALKS_AT_WORK = """
    import os
    from acdc_explain import hookimpl

    def talks(contrast, nodes):
        print("noise of a collector")
        os.write(1, b"noise to the file\\n")
        yield nodes[0], {"seen": 1}

    def fails(contrast, labels, roles):
        print("noise of a judge")
        raise RuntimeError("no luck")

    @hookimpl
    def register_collectors():
        return {"talks": talks}

    @hookimpl
    def register_judges():
        return {"fails": fails}
    """


@pytest.mark.slow
def test_a_run_names_what_failed_and_prints_only_its_result(tmp_path):
    command = ["run", "ioi", "--examples", "4", "--discoverer", "eap", "--max-edges", "12",
               "--labeler", "rules", "--judge", "fails", "--json", "--db", str(tmp_path / "x.duckdb")]  # fmt: skip
    done = program(tmp_path / "p", {"at_work": TALKS_AT_WORK}, *command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["status"] == "incomplete"
    for noise in ("of a collector", "to the file", "of a judge"):
        assert f"noise {noise}" in done.stderr
    assert "judge 'fails' of plugin 'at_work' failed (RuntimeError: no luck" in done.stderr
    assert "Traceback" not in done.stderr
