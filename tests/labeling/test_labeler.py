"""Labels from an LLM on a small model: requests, stored replies, resumed runs, batch files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import acdc_explain as ax
from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.llm.batch import RecordingTransport
from acdc_explain.pipeline.flow import judge as rejudge
from acdc_explain.pipeline.flow import label, would_ask
from acdc_explain.pipeline.prepare import reopen
from acdc_explain.pipeline.settings import Settings
from acdc_explain.records.circuit import Node
from acdc_explain.records.question import blind_names, true_text
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..llm.scripted_server import RESET, Answer, completion, failure, serve
from ..samples import make_run

KEY = "sk-secret-of-the-test"
ANSWER = {
    "roles": [],
    "claims": [{"claim": "acts", "at": "END"}],
    "description": "It does something.",
    "confidence": 0.4,
    "evidence": ["E1"],
}
GOOD = completion(json.dumps(ANSWER))
SUMMARY = "A circuit was found"  # the start of the prompt about the whole circuit
OPTIONS: dict[str, Any] = {
    "discoverer": "eap",
    "max_edges": 12,
    "labeler": "llm",
    "llm_model": "scripted",
    "judges": ("claims",),
    "anyway": True,
}
NAMES: dict[str, Any] = {
    "examples": 8, "discoverer": "eap", "max_edges": 25, "collectors": ("patching",),
    "labeler": "llm", "llm_model": "scripted", "judges": ("claims",),
}  # of a run with claims that hold, so that a summary can cite them  # fmt: skip


@pytest.fixture
def store(measured) -> Store:
    return measured


@pytest.fixture
def model(small_model) -> Any:
    return small_model("neox")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("acdc_explain.llm.client.RETRIES", 0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def start(script):
        context = serve(script)
        running = context.__enter__()
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        contexts.append(context)
        return running

    contexts: list[Any] = []
    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


def is_summary(body: dict[str, Any]) -> bool:
    return prompt_of(body).startswith(SUMMARY)


def by_component(*answers: Answer):
    """A script: the n-th component always gets the n-th answer, also to its repairs."""
    seen: dict[str, int] = {}

    def script(number: int, body: dict[str, Any]) -> Answer:
        if is_summary(body):
            return completion(json.dumps({"sentences": []}))
        question = prompt_of(body).split("\nYou were asked this before")[0].strip()
        return answers[seen.setdefault(question, len(seen)) % len(answers)]

    return script


def questions(running) -> list[str]:
    return [prompt_of(body) for body in running.requests if not is_summary(body)]


WIZARD = completion(json.dumps({**ANSWER, "roles": ["wizard"]}))


@pytest.mark.slow
def test_failures_are_reported_and_the_run_goes_on(store, model, server):
    """A lost or unusable reply costs its component the label, and nothing else."""
    running = server(by_component(GOOD, failure(500), WIZARD))
    run = ax.explain(word_task(4), model, store=store, concurrency=1, **OPTIONS)
    nodes = run.circuit.components
    n = len(nodes)
    labeled = [node for node in nodes if run.labels_of(node)]
    assert run.header.status == "incomplete"
    assert len(labeled) == len(range(0, n, 3))
    assert {failure.node for failure in run.failures} == set(nodes) - set(labeled)
    reasons = Counter(failure.reason.split(":")[0] for failure in run.failures)
    assert reasons == {
        "InternalServerError": len(range(1, n, 3)),
        "unusable reply": len(range(2, n, 3)),
    }
    asked = len(questions(running))
    assert asked == n + len(range(2, n, 3))  # one repair for each unusable reply
    assert len([x for x in run.exchanges if not x.prompt.startswith(SUMMARY)]) == asked
    document = to_document(run)
    failed = {c["node"]: c["failed"]["reason"] for c in document["components"] if "failed" in c}
    assert failed == {str(f.node): f.reason for f in run.failures}

    # the same command asks again where the reply was lost, not where it was unusable
    again_server = server(by_component(GOOD))
    again = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert len(questions(again_server)) == reasons["InternalServerError"]
    assert len(again.failures) == reasons["unusable reply"]
    assert again.header.status == "incomplete"

    # unless it is told to
    last_server = server(by_component(GOOD))
    last = ax.explain(word_task(4), model, store=store, retry=True, **OPTIONS)
    assert len(questions(last_server)) == reasons["unusable reply"]
    assert last.failures == []
    assert last.header.status == "done"
    assert all(last.labels_of(node) for node in nodes)
    assert ax.explain(word_task(4), model, store=store, **OPTIONS).reused


@pytest.mark.slow
def test_the_summary_has_sentences_that_cite_claims(store, server):
    """By the LLM, with true names; by the rules if the LLM cites unknown nodes."""
    names: list[str] = []

    def tells(*cited: str):
        def script(number: int, body: dict[str, Any]) -> Answer:
            if not is_summary(body):
                return GOOD
            listed = prompt_of(body).split("<claims>")[1].split("</claims>")[0]
            names[:] = re.findall(r"^C\d+ ([HM]\d+)", listed, re.M)
            sentence = {"text": f"{names[0]} does it at P1.", "claims": list(cited) or ["C1"]}
            return completion(json.dumps({"sentences": [sentence, sentence]}))

        return script

    server(tells())
    run = ax.explain("ioi", "mini", store=store, **NAMES)
    (sentence,) = run.summary.sentences
    assert run.summary.labeler == "llm"
    assert sentence.text == f"{sentence.nodes[0]} does it at IO."
    assert set(sentence.claims) <= {x.claim.id for x in run.claims if x.explains}
    assert blind_names(run.circuit)[sentence.nodes[0]] == names[0]
    assert to_document(run)["summary"]["sentences"][0]["nodes"] == [str(sentence.nodes[0])]

    server(tells("C977"))
    other = ax.explain("ioi", "mini", store=store, **{**NAMES, "llm_model": "other"})
    assert other.summary.labeler == "rules"
    assert {node for x in other.summary.sentences for node in x.nodes} == set(
        other.circuit.components
    )


@pytest.mark.slow
def test_a_lost_summary_is_asked_again_by_the_same_command(store, server):
    """The rules write one until then. An unusable summary is not asked for again."""
    unusable = completion(json.dumps({"sentences": []}))
    for summary, status, again in (
        (failure(500), "incomplete", 1),
        (completion(None), "incomplete", 2),
        (unusable, "done", 0),
    ):
        llm = {**NAMES, "llm_model": f"after {status} {again}"}
        server(lambda number, body, summary=summary: summary if is_summary(body) else GOOD)
        run = ax.explain("ioi", "mini", store=store, **llm)
        assert (run.header.status, run.summary.labeler) == (status, "rules")
        assert not run.failures

        def good(number: int, body: dict[str, Any]) -> Answer:
            return completion(json.dumps({"sentences": [{"text": "It copies.", "claims": ["C1"]}]}))

        running = server(good)
        other = ax.explain("ioi", "mini", store=store, **llm)
        assert other.header.status == "done"
        assert len(running.requests) == min(again, 1)
        assert all(map(is_summary, running.requests))
        assert other.summary.labeler == ("llm" if again else "rules")


FAULTS = {
    "busy": failure(429, Retry_After="0"),
    "broken": failure(500),
    "reset": RESET,
    "truncated": completion(json.dumps(ANSWER)[:30]),
    "cut off": completion(json.dumps(ANSWER), finish="length"),
    "wrong role": WIZARD,
    "invented evidence": completion(json.dumps({**ANSWER, "evidence": ["E77"]})),
    "endless": completion("x" * 10**6),
    "no choices": (200, {}, b'{"choices": []}'),
    "refusal": completion(None, refusal="No."),
    "no json": (200, {}, b"<html>"),
}


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_once(fault, store, model, server, monkeypatch):
    """Each first reply is a fault: no component is lost that a second reply can save."""
    monkeypatch.setattr("acdc_explain.llm.client.RETRIES", 1)
    seen: set[str] = set()

    def script(number: int, body: dict[str, Any]) -> Answer:
        if is_summary(body):
            return completion(json.dumps({"sentences": []}))
        first = prompt_of(body) not in seen and "You were asked this before" not in prompt_of(body)
        seen.add(prompt_of(body))
        return FAULTS[fault] if first else GOOD

    server(script)
    run = ax.explain(word_task(4), model, store=store, **OPTIONS)
    nodes = run.circuit.components
    if fault == "refusal":  # that is an answer
        assert {failure.node for failure in run.failures} == set(nodes)
        assert not run.labels
    else:
        assert not run.failures
        assert all(run.labels_of(node) for node in nodes)
    assert KEY not in json.dumps(to_document(run))


@pytest.mark.slow
def test_a_wrong_key_is_one_sentence(store, model, server):
    running = server(lambda number, body: failure(401))
    with pytest.raises(UserError, match="first questions got no reply .Authentication"):
        ax.explain(word_task(4), model, store=store, concurrency=2, **OPTIONS)
    assert len(running.requests) <= 4
    good = server(by_component(GOOD))
    run = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert run.header.status == "done"
    assert len(questions(good)) == len(run.circuit.components)


@pytest.mark.slow
def test_with_a_key_the_llm_is_the_default(store, model, server):
    server(by_component(GOOD))
    run = ax.explain(word_task(4), model, store=store, **{**OPTIONS, "labeler": None})
    assert {label.labeler for label in run.labels} == {"llm"}


@pytest.mark.slow
def test_questions_are_under_way_together_up_to_the_limit(store, model, server):
    under_way: list[int] = []
    now = [0]

    def script(number: int, body: dict[str, Any]) -> Answer:
        now[0] += 1
        under_way.append(now[0])
        time.sleep(0.2)
        now[0] -= 1
        return GOOD

    server(script)
    ax.explain(word_task(4), model, store=store, concurrency=3, **OPTIONS)
    assert max(under_way) == 3


@pytest.mark.slow
def test_resume_asks_again_only_what_has_changed(store, model, server, tmp_path):
    """Another LLM, prompt or setting is another question; the same is not."""
    ways: list[dict[str, Any]] = [
        {}, {"llm_model": "other"}, {"labeler_settings": {"reveal": True}},
        {"templates": str(tmp_path / "t")}, {"judges": ()},
    ]  # fmt: skip
    (tmp_path / "t").mkdir()
    describe = (Path(__file__).parent.parent.parent / "prompts" / "describe.j2").read_text()
    (tmp_path / "t" / "describe.j2").write_text(f"{describe}Be brief.\n")
    asked = []
    for way in (*ways, *ways):
        running = server(by_component(GOOD))
        run = ax.explain(word_task(4), model, store=store, **{**OPTIONS, **way})
        asked.append(len(questions(running)))
    n = len(run.circuit.components)
    assert asked == [n, n, n, n, 0, 0, 0, 0, 0, 0]


@pytest.mark.slow
def test_reveal_shows_what_is_hidden(store, model, server):
    running = server(by_component(GOOD))
    run = ax.explain(word_task(4), model, store=store, **OPTIONS)
    blind = questions(running)
    head = next(str(node) for node in run.circuit.components if node.kind == "head")
    assert not any(model.name in prompt or head in prompt for prompt in blind)
    running = server(by_component(GOOD))
    ax.explain(word_task(4), model, store=store, labeler_settings={"reveal": True}, **OPTIONS)
    shown = questions(running)
    assert all(json.dumps(model.name) in prompt for prompt in shown)
    assert any(f"attention head {head}." in prompt for prompt in shown)


def test_shown_names_become_true_names():
    circuit = make_run().circuit
    names = blind_names(circuit)
    assert sorted(name[0] for name in names.values()) == sorted(
        "H" if node.kind == "head" else "M" for node in circuit.components
    )
    node = Node.parse("a1.h0")
    text = f"It feeds {names[node]}, not H99 or HTTP."
    assert true_text(text, names) == "It feeds a1.h0, not H99 or HTTP."


@pytest.mark.slow
def test_the_key_is_stored_nowhere(store, model, server, capfd):
    """Not in the store's file or beside it, an export, the output or an error."""
    echo = {**ANSWER, "description": f"My key is {KEY}."}
    server(by_component(completion(json.dumps(echo)), failure(401, message=f"bad key {KEY}")))
    run = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert "[key]" in run.labels[0].description
    assert "[key]" in run.failures[0].reason
    assert KEY not in json.dumps(to_document(run))
    runner = CliRunner()
    for command in ("show", "export"):
        done = runner.invoke(app, [command, "last", "--db", str(store.path)])
        assert done.exit_code == 0
        assert KEY not in done.output
    for file in store.path.parent.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes()
    out, err = capfd.readouterr()
    assert KEY not in out + err


@pytest.mark.slow
def test_the_limit_of_costs_leaves_a_run_that_goes_on(store, model, server, tmp_path):
    prices = tmp_path / "p.toml"
    prices.write_text("[models]\nscripted = { input = 1.0, output = 1.0 }\n")
    document = json.loads(GOOD[2])
    document["usage"] = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
    running = server(by_component((200, {}, json.dumps(document).encode())))
    paid = {**OPTIONS, "prices": str(prices), "concurrency": 1}
    run = ax.explain(word_task(4), model, store=store, max_cost=0.0055, **paid)
    n = len(run.circuit.components)
    some = len(questions(running))
    assert 0 < some < n
    assert len(run.failures) == n - some
    assert "max_cost (0.0055 USD)" in run.failures[0].reason
    labels_cost = sum(x.cost_usd for x in run.exchanges if not x.prompt.startswith(SUMMARY))
    assert labels_cost == pytest.approx(some * 0.002)
    rest = ax.explain(word_task(4), model, store=store, **paid)
    assert rest.header.status == "done"
    assert len(questions(running)) == n
    assert to_document(rest)["exchanges"]["cost_usd"] == pytest.approx(rest.cost_usd)


def test_a_limit_that_cannot_be_kept_is_refused(store, model, server):
    server(by_component(GOOD))
    with pytest.raises(UserError, match="What scripted costs is not known"):
        ax.explain(word_task(4), model, store=store, max_cost=1.0, **OPTIONS)


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_replies(store, labeled, server):
    arrived = threading.Event()

    def stalls(number: int, body: dict[str, Any]) -> Answer:
        if number >= 2:
            arrived.set()
            time.sleep(25)
        return GOOD

    server(stalls)
    command = [
        sys.executable, "-m", "acdc_explain", "label", labeled.id, "--labeler", "llm",
        "--llm-model", "x", "--db", str(store.path),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert arrived.wait(120)
    time.sleep(0.5)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 1
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert len(store.get("last").exchanges) == 2


# --- label RUN ---------------------------------------------------------------------------------


@pytest.fixture
def labeled(store, model) -> Any:
    """A run labeled by rules, to be labeled anew."""
    return ax.explain(word_task(4), model, store=store, **{**OPTIONS, "labeler": "rules"})


@pytest.mark.slow
def test_labeling_a_stored_run_is_the_run_one_would_have_asked_for(
    store, model, labeled, server, monkeypatch
):
    running = server(by_component(GOOD))
    settings = Settings(labeler="llm", llm_model="scripted")
    monkeypatch.setattr("acdc_explain.pipeline.prepare.load_model", lambda *a, **k: model)
    run = label(labeled, store, settings)
    assert {x.labeler for x in run.labels} == {"llm"}
    assert run.verdicts
    assert {e.id for e in run.evidence} == {e.id for e in labeled.evidence}
    asked = len(running.requests)
    direct = ax.explain(word_task(4), model, store=store, **OPTIONS)
    assert direct.id == run.id != labeled.id
    assert direct.reused
    assert len(running.requests) == asked
    assert label(labeled, store, settings).reused


def test_no_model_is_loaded_where_none_is_needed(store, labeled, server, monkeypatch):
    def load(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("acdc_explain.pipeline.prepare.load_model", load)
    server(by_component(GOOD))
    run = label(labeled, store, Settings(labeler="llm", llm_model="x"), judge=False)
    assert all(run.labels_of(node) for node in run.circuit.components)
    assert run.verdicts == []


def test_other_weights_are_refused(store, labeled, server, small_model, monkeypatch):
    server(by_component(GOOD))
    other = small_model("llama")
    monkeypatch.setattr("acdc_explain.pipeline.prepare.load_model", lambda *a, **k: other)
    with pytest.raises(UserError, match="has other weights"):
        label(labeled, store, Settings(labeler="llm", llm_model="x"))


# --- batch files -------------------------------------------------------------------------------


class Batch:
    """`label RUN --batch-out` and `--batch-in` on a store, as a user types them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.out, self.answers = store, folder / "q.jsonl", folder / "a.jsonl"

    def label(self, *options: str, code: int = 0) -> str:
        command = ["label", "last", "--labeler", "llm", "--llm-model", "gpt-4.1-mini", "--no-judge"]
        done = CliRunner().invoke(app, [*command, *options, "--db", str(self.store.path)])
        if isinstance(done.exception, UserError):
            assert code == 1
            return str(done.exception)
        assert done.exit_code == code, done.output
        return done.output

    def write(self) -> list[dict[str, Any]]:
        self.label("--batch-out", str(self.out))
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def take(self, lines: list[Any], code: int = 0) -> str:
        self.answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return self.label("--batch-in", str(self.answers), code=code)


def answer_line(question: dict[str, Any], content: str) -> dict[str, Any]:
    body = json.loads(completion(content)[2])
    response = {"status_code": 200, "request_id": "x", "body": body}
    return {"id": "b", "custom_id": question["custom_id"], "response": response, "error": None}


@pytest.fixture
def batch(store, labeled, tmp_path) -> Batch:
    return Batch(store, tmp_path)


def test_a_batch_file_there_and_back(batch, store, labeled):
    """Some of the answers, then all: no network, no key, half the price."""
    asked = batch.write()
    n = len(labeled.circuit.components)
    assert len({line["custom_id"] for line in asked}) == len(asked) == n
    assert {(line["method"], line["url"]) for line in asked} == {("POST", "/v1/chat/completions")}
    assert asked[0]["body"]["response_format"]["json_schema"]["strict"] is True
    lines = [answer_line(question, json.dumps(ANSWER)) for question in asked]
    assert f"{n - 2} components have no label yet" in batch.take(lines[:2])
    assert len(batch.write()) == n - 2
    batch.take(lines)  # those that were taken before do no harm
    run = store.get("last")
    assert all(run.labels_of(node) for node in run.circuit.components)
    assert not [node for node in run.circuit.components if run.waits(node)]
    assert run.cost_usd == pytest.approx(n * (100 * 0.4 + 20 * 1.6) / 1e6 / 2)
    assert batch.write() == []


@pytest.mark.slow
def test_components_that_wait_have_not_failed(batch, store, server):
    """But an unusable answer, or a refusal over the network, is a failure."""
    asked = batch.write()
    waiting = len(asked) - 1
    batch.take([answer_line(asked[0], json.dumps(ANSWER))])
    run = store.get("last")
    assert run.failures == []
    assert sum(map(run.waits, run.circuit.components)) == waiting
    shown = CliRunner().invoke(app, ["show", "last", "--db", str(store.path)]).output
    assert shown.count("waiting") == waiting
    assert "failed" not in shown.split("LLM")[0]
    components = to_document(run)["components"]
    assert sum("waiting" in component for component in components) == waiting
    assert not any("failed" in component for component in components)
    assert "no answer of the LLM yet" in page(run, store)

    server(lambda number, body: failure(400, message="maximum context"))
    with pytest.raises(UserError, match="first questions got no reply"):
        label(run, store, Settings(labeler="llm", llm_model="gpt-4.1-mini"), judge=False)
    failed = store.get("last")
    assert failed.failures
    batch.take([answer_line(asked[1], json.dumps(ANSWER))])  # they wait again
    assert store.get("last").failures == []
    assert sum(map(store.get("last").waits, run.circuit.components)) == waiting - 1
    judged = rejudge(store.get("last"), store, Settings())
    assert judged.header.status == "incomplete"


def page(run: Any, store: Store) -> str:
    file = store.path.with_suffix(".html")
    CliRunner().invoke(app, ["report", run.id, "-o", str(file), "--db", str(store.path)])
    return file.read_text()


@pytest.mark.slow
def test_what_comes_after_the_labels_goes_through_a_file_too(store, tmp_path):
    """When all components are labeled and tested: the judge that asks an LLM, and the summary."""
    rules = {**NAMES, "labeler": "rules", "llm_model": "gpt-4.1-mini"}
    ax.explain("ioi", "mini", store=store, **rules)
    (tmp_path / "a.jsonl").touch()
    command = ["label", "last", "--labeler", "llm", "--llm-model", "gpt-4.1-mini",
               "--judge", "prediction_llm", "--db", str(store.path)]  # fmt: skip

    def call(*options: str) -> str:
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        return done.output

    def write() -> list[dict[str, Any]]:
        call("--batch-out", str(tmp_path / "q.jsonl"))
        return [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]

    def take(lines: list[Any]) -> str:
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return call("--batch-in", str(tmp_path / "a.jsonl"))

    def role_of(line: dict[str, Any]) -> str:
        """Two roles, so that each has another one to compare with."""
        head = "attention head" in prompt_of(line["body"])
        named = json.dumps({**ANSWER, "roles": ["name_mover"], "description": "It moves names."})
        return (
            named
            if head and len(line["custom_id"]) and int(line["custom_id"], 16) % 2
            else (json.dumps(ANSWER))
        )

    asked = write()
    assert "The circuit is not told yet" in take([answer_line(q, role_of(q)) for q in asked])
    run = store.get("last")
    assert run.header.status == "incomplete"
    assert "prediction_llm" not in {verdict.judge for verdict in run.verdicts}
    later = write()
    summaries = [line for line in later if is_summary(line["body"])]
    predictions = [line for line in later if line not in summaries]
    assert len(summaries) == 1
    assert all("to which tokens does the head attend" in prompt_of(x["body"]) for x in predictions)
    assert len(predictions) >= 16
    told = answer_line(
        summaries[0], json.dumps({"sentences": [{"text": "It copies.", "claims": ["C1"]}]})
    )
    guess = json.dumps({"tokens": [0], "cutting": "lowers"})
    assert "not told" in take([told, *(answer_line(x, guess) for x in predictions[1:])])
    assert [line["custom_id"] for line in write()] == [predictions[0]["custom_id"]]
    assert "not told" not in take([answer_line(predictions[0], guess)])
    run = store.get("last")
    assert (run.header.status, run.summary.labeler) == ("done", "llm")
    heads = [label for label in run.labels if label.node.kind == "head"]
    judged = {v.label_id for v in run.verdicts if v.judge == "prediction_llm"}
    assert judged == {label.id for label in heads}
    assert write() == []


@pytest.mark.slow
def test_unusable_answers_are_written_again_with_what_is_wrong(batch, store):
    asked = batch.write()
    batch.take([answer_line(asked[0], "no json")])
    again = {line["custom_id"]: line for line in batch.write()}
    assert len(again) == len(asked)
    (repair,) = [
        line for name, line in again.items() if name not in {x["custom_id"] for x in asked}
    ]
    assert "You were asked this before" in repair["body"]["messages"][0]["content"]
    both = [answer_line(asked[1], "no json"), answer_line(repair, json.dumps(ANSWER))]
    batch.take(both)
    assert len(store.get("last").labels) == 1


@pytest.mark.slow
def test_failed_lines_are_exchanges_and_asked_again(batch, store):
    asked = batch.write()
    failed = {"custom_id": asked[0]["custom_id"], "response": None, "error": {"code": "expired"}}
    refused = {"custom_id": asked[1]["custom_id"], "response": {"status_code": 429, "body": {}}}
    empty = {
        "custom_id": asked[2]["custom_id"],
        "response": {"body": {"choices": [{"message": 3}]}},
    }
    batch.take([failed, refused, empty])
    errors = [exchange.error for exchange in store.get("last").exchanges]
    assert len(errors) == 3
    assert any("expired" in error for error in errors)
    assert len(batch.write()) == len(asked)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda lines: [*lines, lines[0]], "line 4 answers '[0-9a-f]+' again; nothing was taken"),
        (
            lambda lines: [*lines, {**lines[0], "custom_id": "x"}],
            "answers 'x', which this run does not ask",
        ),
        (lambda lines: [*lines, {"no": 1}], "line 4 is no answer of a batch .KeyError"),
        (lambda lines: [*lines, 7], "line 4 is no answer"),
        (lambda lines: [*lines, {"custom_id": 3}], "line 4 is no answer"),
    ],
)
def test_a_wrong_file_is_refused_whole(batch, store, spoil, complaint):
    lines = [answer_line(question, json.dumps(ANSWER)) for question in batch.write()[:3]]
    error = batch.take(spoil(lines), code=1)
    assert re.search(complaint, error), error
    assert len(store.runs()) == 1
    assert not store.get("last").exchanges
    assert not [label for label in store.get("last").labels if label.labeler == "llm"]


def test_an_agent_by_batch(batch, store, labeled):
    """Each step is one prompt, so an investigation can go through files, one step a file."""
    questions = {x.id for x in open_requests(labeled, store, Settings(labeler="agent"))}
    assert len(questions) == len(labeled.circuit.components)


def open_requests(run: Any, store: Store, settings: Settings) -> list[Any]:
    from acdc_explain.pipeline.flow import evidence_of
    from acdc_explain.progress import silent

    work = reopen(run, store, settings, silent, RecordingTransport())
    return would_ask(work, run.circuit, evidence_of(run, work))


def test_a_dry_run_sends_nothing_and_estimates_the_cost(store, labeled, tmp_path):
    command = ["label", "last", "--labeler", "llm", "--dry-run", "--db", str(store.path)]
    before = store.path.read_bytes()
    shown = CliRunner().invoke(app, command).output
    n = len(labeled.circuit.components)
    assert shown.count("You say what one") == n
    assert f"{n} requests to gpt-4.1-mini, about" in " ".join(shown.split())
    assert "USD" in shown
    assert store.path.read_bytes() == before
    unknown = CliRunner().invoke(app, [*command, "--llm-model", "who", "--json"]).output
    document = json.loads(unknown)
    assert document["cost_usd_at_most"] is None
    assert document["n"] == len(document["requests"]) == n
    assert document["tokens_in"] == sum(r["tokens_in"] for r in document["requests"])


# --- a kill ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_killed_run_asks_again_nothing_that_was_answered(concurrency, tmp_path, server):
    """SIGKILL when a later request arrives: all earlier replies are in the store."""
    arrived: list[str] = []

    def slow(number: int, body: dict[str, Any]) -> Answer:
        arrived.append(prompt_of(body))
        if number >= 4:
            time.sleep(30)
        return GOOD

    running = server(slow)
    db = str(tmp_path / "k.duckdb")
    command = [
        sys.executable, "-m", "acdc_explain", "run", "ioi", "--labeler", "llm", "--llm-model", "x",
        "--discoverer", "eap", "--max-edges", "40", "--examples", "4", "--judge", "role_card",
        "--concurrency", str(concurrency), "--db", db,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(arrived) < 5 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    answered = set(arrived[: 5 - concurrency])  # the others were under way
    assert len(running.requests) >= 5
    resumed = server(by_component(GOOD))
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert not answered & {prompt_of(body) for body in resumed.requests}
    assert "(done)" in done.stdout
