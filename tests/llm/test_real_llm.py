"""A real and very small LLM labels badly; the run shows it, and nothing breaks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from acdc_explain_plugins.labelers.agent import Conclusion
from acdc_explain_plugins.labelers.llm import Answer

import acdc_explain as ax
from acdc_explain.plugins import load_plugins
from acdc_explain.records.verdict import worst
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from .real_llm import serve_gguf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gguf() -> Path:
    pytest.importorskip("xllamacpp")
    try:
        return Path(load_plugins().models()["smollm2-135m"]())
    except ax.UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(tmp_path_factory.mktemp("real") / "s.duckdb")


def supported(run: Any) -> int:
    outcomes = [worst(run.verdicts_of(label)) for label in run.labels if label.role != "other"]
    return sum(verdict is not None and verdict.outcome == "supported" for verdict in outcomes)


@pytest.mark.parametrize(
    ("labeler", "settings"), [("llm", {}), ("agent", {"calls": 1, "tokens": 20_000})]
)
def test_a_small_llm(labeler, settings, gguf, store, mini, monkeypatch):
    if gguf.suffix != ".gguf":
        pytest.skip("the model is not a GGUF file here")
    options: dict[str, Any] = {
        "store": store, "discoverer": "eap", "max_edges": 4, "judges": ("claims", "role_card"),
    }  # fmt: skip
    rules = ax.explain("ioi", mini, labeler="rules", **options)
    with serve_gguf(gguf) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        run = ax.explain(
            "ioi", mini, labeler=labeler, llm_model="smollm2", labeler_settings=settings,
            concurrency=1, timeout=120, **options,
        )  # fmt: skip
    nodes = run.circuit.components
    assert {x.node for x in run.labels} | {x.node for x in run.failures} == set(nodes)
    assert run.header.status == ("incomplete" if run.failures else "done")
    exchanges = {exchange.id: exchange for exchange in run.exchanges}
    roles, evidence = load_plugins().roles(), {e.id for e in run.evidence}
    schema = Conclusion if labeler == "agent" else Answer
    for label in run.labels:  # each has the form that was asked for
        exchange = exchanges[label.exchange_id]
        assert exchange.error is None
        answer = schema.model_validate_json(exchange.reply)
        assert label.role in (answer.roles or ["other"])
        assert answer.confidence == label.confidence
        assert len(label.claims) <= len(answer.claims)
        tested = {result.claim for result in run.claims_of(label.node)}
        assert set(label.claims) <= tested  # as the rules' own are
        assert roles[label.role].kind in (label.node.kind, "any")
        assert set(label.evidence_ids) <= evidence
        assert label.evidence_ids
    for failure in run.failures:
        assert failure.reason
    assert all(x.error for x in run.exchanges if x.reply is None)
    assert sum(x.tokens_in or 0 for x in run.exchanges) > 1000
    assert to_document(run)["exchanges"]["cost_usd"] is None  # unknown, and so not 0
    assert supported(run) < supported(rules)
    print(labeler, json.dumps(Counter(label.role for label in run.labels)), supported(run))
