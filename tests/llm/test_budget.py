"""The budget holds, whatever the server does, and no request is paid twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import acdc_explain as ax
from acdc_explain.llm.client import Llm
from acdc_explain.llm.exchange import NotAsked, Request, UnusableReply
from acdc_explain.llm.lease import Holder
from acdc_explain.llm.prices import Prices, tokens_in
from acdc_explain.llm.session import Session
from acdc_explain.llm.templates import Templates
from acdc_explain.records.circuit import Node
from acdc_explain.records.label import Label, LabelResult
from acdc_explain.store.store import Store

from ..conftest import word_task
from ..labeling.test_labeler import GOOD, by_component, questions, server  # noqa: F401
from ..samples import make_run, whole_run
from .scripted_server import RESET, Answer, completion, failure, serve

PROMPTS = Path(__file__).parent.parent.parent / "prompts"
PRICES = Prices({"scripted": (1.0, 2.0)}, 0.5)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def with_usage(answer: Answer, usage: Any) -> Answer:
    document = json.loads(answer[2])
    document["usage"] = usage
    return 200, {}, json.dumps(document).encode()


def usage(sent: Any, received: Any) -> dict[str, Any]:
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": 1}


def ask_all(session: Session, n: int) -> list[Any]:
    """The answers to n different questions, or why there is none."""

    def read(reply: str) -> str:
        if "a" not in json.loads(reply):
            raise ValueError("no a")
        return reply

    async def one(number: int) -> Any:
        try:
            return await session.ask()("t", f"Question {number}? {'x' * 2000}", SCHEMA, read)
        except (NotAsked, UnusableReply) as problem:
            return problem

    async def everyone() -> list[Any]:
        try:
            return await asyncio.gather(*map(one, range(n)))
        finally:
            await session.close()

    return asyncio.run(everyone())


@pytest.fixture
def make_session(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setattr("acdc_explain.llm.client.RETRIES", 2)
    monkeypatch.setattr("acdc_explain.llm.client._pause", lambda problem, attempt: 0.0)

    def make(url: str, **options: Any) -> Session:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        cache = Store(tmp_path / "cache.duckdb").replies
        llm = Llm(options.pop("timeout", 30))
        return Session("scripted", Templates([PROMPTS]), llm, cache, prices=PRICES, **options)

    return make


FULL = usage(680, 1000)  # as much as is allowed
FIT, UNFIT = completion('{"a": "b"}'), completion('{"c": "d"}')
BILLED = {
    "good": with_usage(FIT, FULL),
    "empty": with_usage(completion(None), FULL),
    "no choices": (200, {}, json.dumps({"choices": [], "usage": FULL}).encode()),
    "unusable, and repaired in vain": with_usage(UNFIT, FULL),
    "negative": with_usage(FIT, usage(-(10**9), -(10**9))),
    "boolean": with_usage(FIT, usage(True, False)),
    "absurd": with_usage(FIT, usage(10**30, 10**30)),
    "nothing": with_usage(FIT, usage(0, 0)),
    "text": with_usage(FIT, usage("1", "1")),
    "not counted": with_usage(FIT, None),
    "cut": RESET,
    "broken": failure(500),
    "no json": (200, {}, b"<html>"),
}
LONG = "negative boolean absurd nothing text".split()  # whose true length is unknown


@pytest.mark.slow_after(2)
@pytest.mark.parametrize("kind", BILLED)
def test_no_more_is_billed_than_allowed(kind, make_session, monkeypatch):
    """The server bills the prompt and the reply of every request that it gets."""
    monkeypatch.setattr("acdc_explain.llm.session.GIVE_UP_AFTER", 10**9)
    bill = (680 + 2 * 1000) / 1e6
    if kind in LONG or kind == "not counted":  # the reply is short
        bill = (680 + 2 * 3) / 1e6
    with serve(lambda number, body: BILLED[kind]) as running:
        session = make_session(running.url, max_cost=0.0101, concurrency=3)
        found = ask_all(session, 30)
    billed = len(running.requests) * bill
    assert running.requests
    assert billed <= 0.0101
    assert session.spent >= billed * 0.99
    assert any(isinstance(x, NotAsked) and "max_cost (0.0101 USD)" in str(x) for x in found)


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("kind", LONG)
def test_impossible_token_counts_are_ignored(kind, make_session):
    with serve(lambda number, body: BILLED[kind]) as running:
        ((_, exchange),) = ask_all(make_session(running.url), 1)
    assert (exchange.tokens_in, exchange.tokens_out, exchange.cost_usd) == (None, None, None)


def test_what_was_never_sent_costs_nothing(make_session, monkeypatch):
    monkeypatch.setattr("acdc_explain.llm.session.GIVE_UP_AFTER", 10**9)
    session = make_session("http://127.0.0.1:9/v1", max_cost=0.01)
    found = ask_all(session, 3)
    assert session.spent == 0
    assert all("ConnectionRefusedError" in str(problem) for problem in found)
    with serve(lambda number, body: failure(429)) as running:
        session = make_session(running.url, max_cost=0.01)
        ask_all(session, 2)
    assert session.spent == 0
    assert len(running.requests) == 6


def test_an_attempt_that_was_lost_is_paid_and_the_next_one_must_fit(make_session):
    """Attempts that the budget does not allow are not made."""
    request = Request("t", "scripted", "Question 0? " + "x" * 2000, SCHEMA)
    most = PRICES.cost("scripted", tokens_in(request), 1000)
    assert most is not None
    for fits, tried in ((1.5, 1), (2.5, 2), (9, 3)):
        with serve(lambda number, body: RESET) as running:
            session = make_session(running.url, max_cost=fits * most)
            ask_all(session, 1)
        assert len(running.requests) == tried
        assert session.spent == pytest.approx(tried * most)


def test_letters_beyond_ascii_take_more_tokens():
    plain, other = (Request("t", "x", 300 * letter, {}) for letter in ("a", "漢"))
    assert tokens_in(other) > 2 * tokens_in(plain)
    schema = Request("t", "x", 300 * "a", {"enum": ["b" * 600]})
    assert tokens_in(schema) >= tokens_in(plain) + 200


# --- two commands at once ----------------------------------------------------------------------

LABEL = ["label", "last", "--labeler", "llm", "--llm-model", "x", "--no-judge"]


@pytest.fixture
def labeled(measured, small_model) -> Store:
    """A run, for processes of their own."""
    options = {"discoverer": "eap", "max_edges": 12, "labeler": "rules", "judges": ("role_card",)}
    ax.explain(word_task(4), small_model("neox"), store=measured, anyway=True, **options)
    return measured


def start(store: Store) -> subprocess.Popen[str]:
    run = store.runs()[-1].id  # the first
    command = [sys.executable, "-m", "acdc_explain", "label", run, *LABEL[2:]]
    return subprocess.Popen(
        [*command, "--db", str(store.path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ,
    )  # fmt: skip


@pytest.mark.slow
def test_two_commands_that_ask_the_same_pay_once(labeled, server):  # noqa: F811
    def slow(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.4)
        return GOOD

    running = server(slow)
    both = [start(labeled), start(labeled)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    run = labeled.get("last")
    assert run.circuit is not None
    asked = Counter(questions(running))
    assert set(asked.values()) == {1}
    assert len(asked) == len(run.circuit.components)
    assert Counter(label.node for label in run.labels) == Counter(run.circuit.components)
    assert labeled.verify() == []


@pytest.mark.slow
def test_a_command_that_was_killed_keeps_nobody_waiting(labeled, server):  # noqa: F811
    arrived: list[float] = []

    def stalls(number: int, body: dict[str, Any]) -> Answer:
        arrived.append(time.monotonic())
        if number < 4:
            time.sleep(30)
        return GOOD

    server(stalls)
    process = start(labeled)
    while len(arrived) < 4 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    good = server(by_component(GOOD))
    started = time.monotonic()
    other = start(labeled)
    out, _ = other.communicate(timeout=60)
    assert other.returncode == 0, out
    assert time.monotonic() - started < 25
    run = labeled.get("last")
    assert run.circuit is not None
    assert len(questions(good)) == len(run.circuit.components)


class TestLeases:
    def test_one_at_a_time_until_it_is_released(self, tmp_path):
        replies = Store(tmp_path / "c.duckdb").replies
        first, second = Holder.new(), Holder.new()
        assert replies.lease("r", first, 60) == []
        assert replies.lease("r", first, 60) == []
        assert replies.lease("r", second, 60) is None
        assert replies.lease("other", second, 60) == []
        replies.release("r", second)  # of another holder
        assert replies.lease("r", second, 60) is None
        replies.release("r", first)
        assert replies.lease("r", second, 60) == []

    def test_what_was_replied_in_the_meantime_is_returned(self, tmp_path):
        store, run = Store(tmp_path / "c.duckdb"), make_run()
        store.replies.add_exchange(run.exchanges[0])
        assert store.replies.lease("r1", Holder.new(), 60) == list(run.exchanges)

    def test_a_lease_ends_with_its_time_or_its_process(self, tmp_path):
        here = Holder.new()
        away = replace(here, host="elsewhere", token="t")
        assert here.is_blocked_by(away.lease(60))
        assert not here.is_blocked_by(away.lease(-1))
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        assert not here.is_blocked_by(replace(here, process=ended.pid, token="t").lease(60))
        assert not here.is_blocked_by(replace(here, started="long ago", token="t").lease(60))
        assert here.is_blocked_by(replace(here, token="t").lease(60))
        assert not here.is_blocked_by(here.lease(60))


def test_a_question_keeps_the_first_answer(tmp_path):
    """If two processes get different answers, the node has one label in the end."""
    store, run = Store(tmp_path / "s.duckdb"), whole_run()
    store.add_run(run)
    assert run.circuit is not None
    node = Node.parse("a1.h0")
    before = len(store.get(run.id).labels)
    for role in ("induction", "name_mover"):
        label = Label(run.circuit.id, node, "llm", role, (), "It does.", 0.5, ())
        store.writer(run.id).add_label_results([LabelResult("question", (label,))])
    labels = store.get(run.id).labels
    assert len(labels) == before + 1
    assert [x.role for x in labels if x.labeler == "llm"] == ["induction"]
    assert store.verify() == []


def test_the_reply_to_another_commands_retry_is_used(make_session):
    """Of two commands with --retry, the one that waits uses the other's new reply."""
    with serve(lambda number, body: UNFIT) as running:
        (problem,) = ask_all(make_session(running.url), 1)
        bad = problem.exchange
        session, other = make_session(running.url, again=True), Holder.new()
        first = Request("t", "scripted", f"Question 0? {'x' * 2000}", SCHEMA)
        assert session.cache.lease(first.id, other, 60)

        def answer() -> None:
            good = replace(bad, template="t", prompt=first.prompt, request_id=first.id)
            session.cache.add_exchange(replace(good, reply='{"a": "new"}', error=None))
            session.cache.release(first.id, other)

        threading.Timer(0.7, answer).start()
        ((reply, _),) = ask_all(session, 1)
    assert json.loads(reply) == {"a": "new"}
    assert len(running.requests) == 2  # both before: the question and its repair
