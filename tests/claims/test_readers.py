"""Which readers of a component are claimed: the strongest that are sure, then likely ones."""

from __future__ import annotations

import torch

from acdc_explain.claims.paths import Path
from acdc_explain.claims.readers import ENOUGH, MOST, Reader, chief_readers
from acdc_explain.evidence.patching.edges import Response
from acdc_explain.records.circuit import Node

SENDER = Node.parse("a0.h0")
STILL = Response(torch.zeros(8, 2))


def reader(number: int, mean: float, error: float = 0.01, *, turn: float = 0.0) -> Reader:
    """The query of a head, changed by this share of the gap; `turn`: of its attention."""
    response = STILL
    if turn:
        attention = torch.zeros(8, 2, 2)
        attention[:, 1, 0] = -turn + 0.001 * torch.arange(8)
        response = Response(torch.zeros(8, 2), attention)
    path = Path(SENDER, "END", Node("head", number, 0), "q")
    return Reader(path, response, mean, error)


def test_the_strongest_are_claimed_and_no_more_than_some():
    many = [reader(number, 0.1 + 0.01 * number) for number in range(MOST + 3)]
    assert [r.path.receiver.layer for r in chief_readers(many)] == [*range(MOST + 2, 2, -1)]
    twice = [reader(1, 0.1), reader(1, 0.3), reader(2, -0.2)]
    assert [r.mean for r in chief_readers(twice)] == [0.3, -0.2]  # a port once


def test_turned_attention_counts_without_a_share_of_the_gap():
    found = chief_readers([reader(1, 0.0, turn=0.3), reader(2, 0.0, turn=0.01)])
    assert [r.path.receiver.layer for r in found] == [1]


def test_likely_readers_fill_up_where_few_are_sure():
    sure = [reader(1, 0.1)]
    likely = [reader(2, 0.019), reader(3, 0.02), reader(4, 0.0161), reader(5, 0.018)]
    unlikely = [reader(6, 0.014), reader(7, 0.0009, 0.0001)]  # 1.4 errors; too small to claim
    found = chief_readers([*unlikely, *likely, *sure])
    assert [r.path.receiver.layer for r in found] == [1, 3, 2, 5]  # the surest first
    assert len(found) == ENOUGH
    assert chief_readers(unlikely) == []
    assert len(chief_readers([reader(n, 0.1) for n in range(ENOUGH)] + likely)) == ENOUGH
