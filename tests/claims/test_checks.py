"""When a check holds, fails or is unclear, and how false discoveries are limited."""

from __future__ import annotations

import pytest
import torch

from acdc_explain.claims.checks import Check, _p_value, decide, discoveries, measured
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult, ComponentResult, Coverage, is_explained

NODES = [Node("head", 0, number) for number in range(12)]
FIRST = NODES[0]


def check(value: float, spread: float = 0.01, chance: float = 0.0, **settings) -> Check:
    """A check whose first node has a value, and all others 0.1."""
    generator = torch.Generator().manual_seed(0)
    noise = spread * torch.randn(len(NODES), 40, generator=generator).double()
    noise -= noise.mean(1, keepdim=True)
    means = torch.tensor([value, *[0.1] * (len(NODES) - 1)]).double()
    samples = list(noise + means[:, None])
    control = [torch.full((40,), chance)] * len(NODES)
    return Check(measured("m", NODES, samples, control), "logits", **settings)


@pytest.mark.parametrize(
    ("value", "settings", "outcome"),
    [
        (0.5, {}, "holds"),
        (-0.5, {}, "fails"),  # the other sign
        (0.5, {"chance": 0.6}, "fails"),  # below chance
        (0.5, {"chance": 0.5}, "fails"),  # at chance
        (0.5, {"chance": 0.46}, "fails"),  # a tenth must be beyond it
        (0.5, {"spread": 4.0}, "unclear"),
        (0.5, {"least": 0.4}, "holds"),
        (0.5, {"least": 0.6}, "fails"),
        (0.5, {"least": 0.5}, "unclear"),
        (0.5, {"size": 0.3}, "holds"),
        (0.5, {"size": 0.2}, "fails"),
        (0.5, {"size": 1.1}, "fails"),
        (0.5, {"size": 1.1, "spread": 1.0}, "unclear"),
    ],
)
def test_outcomes(value, settings, outcome):
    assert decide(check(value, **settings), FIRST, ()).outcome == outcome


def test_a_value_below_zero_is_no_support_however_low_chance_is():
    assert decide(check(-0.5, chance=-2.0), FIRST, ()).outcome == "fails"


def test_the_percentile_leaves_out_those_that_make_the_same_claim():
    low = check(0.05)
    assert decide(low, FIRST, ()).percentile == 0
    assert decide(low, FIRST, NODES[1:]).percentile is None
    assert decide(check(0.5), FIRST, ()).percentile == 1
    assert decide(check(0.5, for_null=False), FIRST, ()).percentile is None


def test_chance_is_judged_by_its_own_side_of_a_skewed_interval():
    """The interval of a ratio is often wide on the far side, which says nothing of chance."""
    assert _p_value(1.0, 0.0, 0.8, 4.0) < 1e-6
    assert _p_value(1.0, 0.0, -2.0, 1.2) > 0.2
    assert _p_value(1.0, 1.5, 0.9, 1.6) > 0.9
    assert _p_value(1.0, 0.0, 0.0, 4.0) == pytest.approx(0.025, abs=1e-4)  # as the interval says


def test_benjamini_and_hochberg():
    """Their own example: of 15 tests, the 4 smallest are discoveries at 5 %."""
    p_values = [
        *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240),
        *(0.4262, 0.5719, 0.6528, 0.7590, 1.0),
    ]
    assert discoveries(p_values, 0.05) == [True] * 4 + [False] * 11
    assert discoveries(p_values[::-1], 0.05) == [False] * 11 + [True] * 4
    assert discoveries([], 0.05) == []
    assert discoveries([0.9], 0.05) == [False]


def result(
    topic: str, outcome: str = "holds", *, specific: bool = True, at: str = "S2"
) -> ClaimResult:
    claim = Claim(FIRST, "feeds", {"at": at})
    return ClaimResult(claim, "", topic, outcome, specific=specific)


@pytest.mark.parametrize(
    ("results", "explained"),
    [
        ([result("reads"), result("does")], True),
        ([result("reads"), result("reads")], False),
        ([result("reads"), result("does", specific=False)], False),
        ([result("reads"), result("does", "unclear")], False),
        ([result("where"), result("does")], False),
        ([result("reads"), result("does", at="END")], False),
        ([result("reads"), result("does", at="END"), result("reads", at="END")], True),
        ([result("weights"), result("does")], False),
        ([result("reads"), result("does"), *[result("does", "fails")] * 2], False),
        ([result("reads"), result("does"), result("does", "fails")], True),
        ([result("reads"), result("does"), result("does", "untested")], True),
        ([], False),
    ],
)
def test_what_explains_a_component(results, explained):
    assert is_explained(results) is explained


def test_coverage_counts_what_is_not_idle():
    def component(effect: float, *, idle: bool = False, explained: bool = False):
        return ComponentResult(FIRST, effect, effect, effect, idle, explained)

    coverage = Coverage.of(
        [
            component(0.3, explained=True),
            component(-0.1),
            component(0.001, idle=True),
            component(0.002, idle=True, explained=True),
        ]
    )
    assert (coverage.components, coverage.effect) == (0.5, pytest.approx(0.75))
    assert (coverage.idle, coverage.n) == (2, 2)
    assert coverage.in_words == (
        "1 of 2 components are explained (50%), with 75% of the summed effect; 2 idle"
    )
    assert Coverage.of([]).components is None
