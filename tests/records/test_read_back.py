"""What an imported record may hold: claims in evidence, and the pair of prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acdc_explain.ids import plain
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult
from acdc_explain.records.evidence import CLAIMS, Evidence, suggestion
from acdc_explain.records.run.pair import Pair

NODE = Node.parse("a1.h1")
RESULT = ClaimResult(
    Claim(NODE, "attends", {"at": "END", "to": "IO"}), "attends to IO", "reads", "holds",
    0.5, 0.25, 0.75, 0.125, 1.0, "attention", 8, also={"to": ["answer"]},
)  # fmt: skip


def test_a_claim_with_a_list_is_the_same_once_stored():
    """Else claims of evidence and claims of labels would be tested twice."""
    kind = load_plugins().claims()["backs_up"]
    made = kind.claim(NODE, "backs_up", {"components": ("a0.h0", "m0"), "what": "answers"})
    stored = json.loads(json.dumps(plain(made.arguments)))
    assert kind.claim(NODE, "backs_up", stored) == made == Claim(NODE, "backs_up", stored)


def suggested(entry: Any, collector: str = CLAIMS) -> list[ClaimResult]:
    return Evidence("c", NODE, collector, {}, {"suggested": [entry]}).suggested


def test_a_suggested_claim_is_read_as_it_was_written():
    assert suggested(suggestion(RESULT)) == [RESULT]
    assert suggested(suggestion(RESULT), "attention") == []  # of another collector


@pytest.mark.parametrize(
    "changes",
    [
        {"claim": None, "arguments": 3}, {"topic": "whispers"}, {"text": 7}, {"value": "much"},
        {"value": float("nan")}, {"also": ["to"]}, {"unit": None},
    ],
)  # fmt: skip
def test_what_is_no_claim_is_left_out(changes):
    assert suggested({**suggestion(RESULT), **changes}) == []
    assert suggested("no object") == []


PAIR = Pair(
    ("When", " Mary", " and", " John", " left", ",", " John"),
    ("When", " Anna", " and", " Carl", " left", ",", " Nick"), (" Mary",), (" John",),
    {"END": [6], "IO": [1], "S1": [3], "rest": [0, 2, 4, 5]},
    {"IO": (("answer", None),), "END": (("same", "S1"),)}, {"name": ("IO",)},
)  # fmt: skip


def test_a_pair_is_read_as_it_was_written_in_the_order_of_its_tokens():
    read = Pair.parse(plain(PAIR))
    assert plain(read) == plain(PAIR)
    assert read.place_names == ["rest", "IO", "S1", "END"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"corrupt": ["When"]}, "its places must be tokens of both prompts"),
        ({"places": {"END": [7]}}, "its places must be tokens of both prompts"),
        ({"places": {"END": [-1]}}, "its places must be tokens of both prompts"),
        ({"relations": {"END": [["same", "S9"]]}}, "there is no place 'S9'"),
        ({"variables": {"name": ["S9"]}}, "there is no place 'S9'"),
    ],
)
def test_a_pair_that_speaks_of_what_is_not_there_is_refused(changes, error):
    with pytest.raises(ValueError, match=error):
        Pair.parse({**plain(PAIR), **changes})
