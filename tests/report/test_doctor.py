"""What `doctor` prints."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from acdc_explain.report.text.doctor import show_findings, spoken

FINDINGS: dict[str, Any] = {
    "model": "mini", "id": "mini@1", "architecture": "GPT2LMHeadModel", "parameters": 1000,
    "device": "cpu", "dtype": "float32", "layers": 2, "heads_per_layer": 4, "edges": 100,
    "context_tokens": 32, "special_tokens_before_a_prompt": "none", "norms_after_heads": "none",
    "engine": "fast", "self_check": "passed", "forward_seconds": 0.5, "threads": 2,
    "forward_batch": "8 x 15 tokens",
    "checks": [
        {"of": "model", "what": "the logits", "error": 2e-7, "limit": 1e-4, "passed": True},
        {"of": "fast", "what": "the effects", "error": 3e-2, "limit": 1e-4, "passed": False},
    ],
}  # fmt: skip
COSTS: dict[str, Any] = {
    "weights_gigabytes": 0.5, "search_gigabytes": 0.25, "eap_seconds": 2.0,
    "acdc_seconds_per_tested_edge": 0.5, "acdc_edges_timed": 6,
}  # fmt: skip


def printed(**changes: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    show_findings({**FINDINGS, **changes}, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_check_that_failed_is_marked():
    lines = printed().splitlines()
    assert [line.split()[-2:] for line in lines if line.startswith("the ")] == [
        ["2.0e-07", "1e-04"],
        ["FAILED", "1e-04"],
    ]
    assert "eap" not in printed()  # no costs of a model that cannot be searched


@pytest.mark.parametrize(("seconds", "long"), [(86_000.0, False), (200_000.0, True)])
def test_a_search_that_takes_days_is_advised_against(seconds, long):
    text = printed(**COSTS, acdc_seconds_if_every_edge_is_tested=seconds)
    assert ("use --discoverer eap, or whole layers (--level layer)" in text) == long
    assert "earlier layers take longer" in text
    slow = printed(**COSTS, acdc_seconds_if_every_edge_is_tested=seconds, engine="reference (a)")
    assert "earlier layers" not in slow


def test_norms_after_heads_are_named():
    assert "a norm follows the heads" in printed(norms_after_heads="scaled as in the present run")


def test_spoken():
    assert [spoken(s) for s in (0.25, 119, 120, 7200, 3 * 86400)] == [
        "0.25 s", "119 s", "2 minutes", "2 hours", "3 days",
    ]  # fmt: skip
