"""From measurements to verdicts: the outcome of each combination of tests."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from acdc_explain_plugins.judges.card_tests import Test as Measured
from acdc_explain_plugins.judges.card_tests import (
    claim_tests,
    deciding_of,
    measured_test,
    outcome_of,
    verdict_of,
)
from acdc_explain_plugins.roles import CARDS

from acdc_explain.evidence.measurement import Measurement
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult
from acdc_explain.records.graph import Graph
from acdc_explain.records.role import Requirement, RoleCard, RoleClaim

from ..samples import make_run

HEADS = Graph(2, 5).heads
ME = HEADS[0]


def measurement(values: list[float], noise: float = 0.0, n: int = 40) -> Measurement:
    generator = torch.Generator().manual_seed(0)
    samples = torch.tensor(values)[:, None] + noise * torch.randn(
        len(values), n, generator=generator
    )
    return Measurement("m", HEADS[: len(values)], samples)


class TestMeasurement:
    def test_value_chance_and_percentile(self):
        measured = measurement([0.5, 0.1, 0.2, 0.9, 0.8])
        assert measured.value(ME) == 0.5
        assert measured.chance(ME) == pytest.approx(0.2)
        assert measured.percentile(ME) == 0.5
        assert measured.facts(ME) == {
            "value": 0.5, "percentile": 0.5, "null": pytest.approx([0.1, 0.175, 0.5, 0.825, 0.9]),
        }  # fmt: skip

    def test_ties_count_half(self):
        assert measurement([0.0] * 6).percentile(ME) == 0.5

    def test_the_null_has_one_kind_only(self):
        nodes = (ME, Node("mlp", 0), HEADS[1])
        measured = Measurement("m", nodes, torch.tensor([[1.0], [9.0], [0.0]]))
        assert measured.percentile(ME) == 1.0
        assert measurement([0.5]).facts(ME)["null"] == []

    def test_interval_covers_the_mean_95_times_in_100(self):
        covered = 0
        for seed in range(200):
            generator = torch.Generator().manual_seed(seed)
            samples = 1.0 + torch.randn(1, 40, generator=generator)
            low, high = Measurement("m", (ME,), samples).interval(ME)
            covered += low <= 1.0 <= high
        assert 180 <= covered <= 199


@pytest.mark.parametrize(
    ("bounds", "values", "noise", "state"),
    [
        ({"at_least": 0.4, "above": 0.9}, [0.6, 0, 0, 0.1], 0.0, "holds"),
        ({"at_least": 0.4, "above": 0.9}, [0.3, 0, 0, 0.1], 0.0, "fails"),
        ({"at_least": 0.4, "above": 0.9}, [0.6, 0.7, 0, 0.1], 0.0, "fails"),
        ({"at_least": 0.1, "above": 0.9}, [0.2, 0, 0, 0.1], 2.0, "unclear"),
        ({"at_least": 0.4, "above": 0.5}, [0.6, 0.5, 0.4, 0.4], 0.01, "holds"),
        ({"at_least": 0.4}, [0.45, 0.1, 0.1], 0.0, "holds"),
        ({"at_least": 0.4}, [0.45, 0.1, 0.1], 1.0, "unclear"),
        ({"at_least": 0.4}, [0.45, 0.5, 0.5], 0.0, "fails"),  # below chance
        ({"at_least": 0.4}, [0.45, 0.45, 0.45], 0.0, "fails"),  # no more than chance
        ({"at_least": 0.4}, [0.44, 0.1, 0.1], 0.3, "unclear"),  # above chance, too near 0.4
        ({"at_least": 0.0}, [0.2, -0.5, -0.5], 0.0, "holds"),
        ({"at_least": 0.0}, [-0.2, -0.5, -0.5], 0.0, "fails"),
        ({"at_most": 0.0}, [-0.2, -0.5, -0.5], 0.0, "fails"),
        ({"at_most": 0.3}, [0.2, 0.1, 0.1], 0.0, "holds"),  # an upper bound above 0 needs no chance
        ({"at_most": 0.0, "below": 0.1}, [-0.6, 0, 0.1], 0.0, "holds"),
        ({"at_most": 0.0, "below": 0.1}, [0.6, 0, 0.1], 0.0, "fails"),
        ({"away_from_zero": 0.1}, [-0.2, 0], 0.0, "holds"),
        ({"away_from_zero": 0.1}, [0.05, 0], 0.0, "fails"),
        ({"away_from_zero": 0.1}, [0.2, 0], 2.0, "unclear"),
        ({"near_zero": 0.1}, [0.02, 0], 0.0, "holds"),
        ({"near_zero": 0.1}, [0.02, 0], 2.0, "unclear"),
        ({"near_zero": 0.1}, [-0.2, 0], 0.0, "fails"),
    ],
)
def test_states(bounds, values, noise, state):
    shifted = measurement([float(v) for v in values], noise)
    # Remove the mean of the noise, so that each value is exactly that of the case.
    samples = shifted.samples - shifted.samples.mean(1, keepdim=True)
    exact = Measurement("m", shifted.nodes, samples + torch.tensor(values)[:, None])
    assert measured_test(Requirement("pattern", "m", **bounds), exact, ME).state == state


@pytest.mark.parametrize(
    ("pattern", "causal", "outcome"),
    [
        ("holds", "holds", "supported"),
        ("holds", "fails", "pattern_only"),
        ("fails", "holds", "causal_only"),
        ("fails", "fails", "refuted"),
        ("unclear", "holds", "inconclusive"),
        ("holds", "unclear", "inconclusive"),
        ("fails", "unclear", "inconclusive"),
        (None, "holds", "supported"),
        (None, "fails", "refuted"),
        (None, "unclear", "inconclusive"),
    ],
)
def test_outcomes(pattern, causal, outcome):
    tests = [
        Measured(tier, "a", state, "a", value=0.0, n=1)
        for tier, state in (("pattern", pattern), ("causal", causal))
        if state is not None
    ]
    assert outcome_of(tests) == outcome


def test_one_of_several_requirements_is_enough():
    other = Requirement("causal", "b", at_least=0.5)
    both = Requirement("causal", "a", at_least=0.5, instead=(other,))
    assert [str(option) for option in both.options] == ["a >= 0.5", "b >= 0.5"]
    assert both.met({"a": (0.6, 0.5)})
    assert both.met({"a": (0.4, 0.5), "b": (0.6, 0.5)})
    assert not both.met({"a": (0.4, 0.5), "b": (0.4, 0.5)})
    assert not both.met({})


def test_a_requirement_that_counts_only_where_it_is_defined():
    requirement = Requirement("causal", "a", near_zero=0.1, if_defined=True)
    assert requirement.met({})
    assert requirement.met({"a": (0.05, 0.5)})
    assert not requirement.met({"a": (0.5, 0.5)})


def test_the_deciding_test_is_the_first_that_does_not_hold():
    first = measured_test(Requirement("pattern", "a", at_least=0.1), measurement([0.5, 0.0]), ME)
    second = measured_test(Requirement("causal", "b", at_least=0.9), measurement([0.25, 0.125]), ME)
    label = make_run().labels[0]
    tests = [first, second]
    verdict = verdict_of(label, "x", outcome_of(tests), tests, "; ".join(map(str, tests)))
    assert verdict.outcome == "pattern_only"
    assert (verdict.score, verdict.chance, verdict.n) == (0.25, 0.125, 40)
    assert (verdict.measure, verdict.low, verdict.high) == ("b", 0.25, 0.25)
    assert "a >= 0.1 holds" in verdict.reason
    assert "b >= 0.9 fails" in verdict.reason


def test_the_deciding_test_fails_or_is_unclear_or_is_closest_to_its_bound():
    def test(state, value, bounds):
        requirement = Requirement("causal", f"m{value}", **bounds)
        limits = [x for x in (requirement.at_least, requirement.at_most) if x is not None]
        return Measured(
            "causal", "m", state, "m", None, value, value - 0.1, value + 0.1, 0.0, 0.5, 8,
            tuple(limits), absence=requirement.only_absence,
        )  # fmt: skip

    clear, close = test("holds", 0.9, {"at_least": 0.1}), test("holds", 0.3, {"at_least": 0.1})
    absent = test("holds", 0.1, {"at_most": 0.2})
    unclear, failure = (
        test("unclear", 0.5, {"at_least": 0.5}),
        test("fails", 0.7, {"at_least": 0.9}),
    )
    assert deciding_of([clear, close, absent]) is close
    assert deciding_of([absent]) is absent
    assert deciding_of([clear, unclear, failure]) is failure
    assert deciding_of([clear, unclear]) is unclear


class TestChance:
    def test_a_control_is_the_chance(self):
        samples = torch.tensor([[0.6, 0.8], [0.9, 0.9]])
        measured = Measurement("m", HEADS[:2], samples, control=samples / 2)
        assert measured.chance(ME) == pytest.approx(0.35)
        assert measured.percentile(ME) == 0.0

    def test_a_value_equal_to_its_control_is_not_beyond_chance(self):
        """A wrong claim gives the same samples, however large they are."""
        samples = 5 + torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
        (low, high), _ = Measurement("m", (ME,), samples, control=samples).beyond_chance(ME)
        assert low <= high < 0

    def test_value_and_chance_are_resampled_together(self):
        """Prompts that are easy for the claim are easy for its control."""
        easy = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
        measured = Measurement("m", (ME,), 5 + easy, control=4 + 0.9 * easy)
        assert measured.beyond_chance(ME)[0] == pytest.approx((0.5, 0.5))

    def test_the_null_is_resampled_too(self):
        """With two different other heads, chance may be the value of either."""
        measured = Measurement("m", HEADS[:3], torch.tensor([[0.5] * 8, [0.0] * 8, [0.9] * 8]))
        low, high = measured.beyond_chance(ME)[0]
        assert low < 0 < high

    def test_a_share_is_as_uncertain_as_its_gap(self):
        lost = torch.full((1, 40), 0.5)
        gaps = 1 + 0.5 * torch.randn(40, generator=torch.Generator().manual_seed(0))
        gaps = gaps / gaps.mean()
        assert Measurement("m", (ME,), lost).interval(ME) == pytest.approx((0.5, 0.5))
        low, high = Measurement("m", (ME,), lost, gaps=gaps).interval(ME)
        assert low < 0.47 < 0.5 < 0.53 < high


def test_every_measure_has_a_unit():
    from acdc_explain.evidence.effects import NODE_MEASURES
    from acdc_explain.evidence.measures import MEASURES, UNITS

    assert set(UNITS) == {*MEASURES, *NODE_MEASURES}


def test_cards_have_a_claim_and_bounds_on_measures_that_exist():
    from acdc_explain.evidence.effects import NODE_MEASURES
    from acdc_explain.evidence.measures import MEASURES

    for card in CARDS:
        assert card.claim
        assert card.requirements or card.claims
        for requirement in card.requirements:
            assert {o.measure for o in requirement.options} <= {*MEASURES, *NODE_MEASURES}
            assert str(requirement) != requirement.measure


def test_the_roles_of_the_literature_have_cards():
    assert {card.name for card in CARDS} >= {
        "previous_token", "induction", "duplicate_token", "name_mover", "negative_name_mover",
        "backup_name_mover", "s_inhibition", "successor", "relation", "attribute_extractor",
        "positional", "attention_sink", "broad", "token_enrichment", "fact_lookup",
        "logit_booster", "comparison", "key_value_memory", "other",
    }  # fmt: skip


class TestClaims:
    """A card's claims against the results of a component's claims."""

    def result(self, name, outcome="holds", *, specific=True, also=None, **arguments):
        topic = "reads" if name == "attends" else "does"
        return ClaimResult(
            Claim(ME, name, arguments), f"{name} {arguments}", topic, outcome, 0.5, 0.4, 0.6, 0.1,
            specific=specific, also=also or {},
        )  # fmt: skip

    card = RoleCard(
        "copier",
        "head",
        "copies",
        claims=(
            RoleClaim("attends", {"to": ("answer",)}),
            RoleClaim("feeds", {"receiver": ("head",)}, positive=True),
        ),
    )

    def states(self, *results) -> list[str]:
        return [test.state for test in claim_tests(self.card, results)]

    def test_both_claims_must_hold_at_one_position(self):
        reads = self.result("attends", at="A", to="IO", also={"to": ["answer"]})
        fed = self.result("feeds", at="A", receiver="a1.h0", by=0.2)
        elsewhere = self.result("feeds", at="B", receiver="a1.h0", by=0.2)
        assert self.states(reads, fed) == ["holds", "holds"]
        assert self.states(reads, elsewhere) == ["holds", "fails"]

    def test_sign_receiver_and_relation_count(self):
        reads = self.result("attends", at="A", to="IO", also={"to": ["foil"]})
        against = self.result("feeds", at="A", receiver="a1.h0", by=-0.2)
        to_an_mlp = self.result("feeds", at="A", receiver="m1", by=0.2)
        assert self.states(reads, against, to_an_mlp) == ["fails", "fails"]

    def test_what_is_not_specific_supports_nothing(self):
        reads = self.result("attends", specific=False, at="A", to="answer")
        fed = self.result("feeds", at="A", receiver="a1.h0", by=0.2)
        assert self.states(reads, fed) == ["unclear", "holds"]

    def test_a_component_of_which_nothing_is_known_is_unclear(self):
        assert self.states() == ["unclear", "unclear"]
        assert outcome_of(claim_tests(self.card, [])) == "inconclusive"

    def test_a_claim_that_fails_fails(self):
        reads = self.result("attends", "fails", at="A", to="answer")
        fed = self.result("feeds", at="A", receiver="a1.h0", by=0.2)
        tests = claim_tests(self.card, [reads, fed])
        assert outcome_of(tests) == "causal_only"
        assert deciding_of(tests).measure == "attends {'at': 'A', 'to': 'answer'}"

    def test_a_claim_that_says_the_opposite_refutes_at_any_position(self):
        card = replace(self.card, unless=(RoleClaim("raises", {"what": ("foils",)}),))
        reads = self.result("attends", at="A", to="answer")
        fed = self.result("feeds", at="A", receiver="a1.h0", by=0.2)
        opposite = self.result("raises", what="foils", source="S1", by=0.4)
        other = self.result("raises", what="answers", source="S1", by=0.4)
        uncertain = self.result("raises", "unclear", what="foils", source="S1", by=0.4)
        for extra, outcome in (
            ([], "supported"),
            ([other], "supported"),
            ([uncertain], "supported"),
            ([opposite], "pattern_only"),
        ):
            assert outcome_of(claim_tests(card, [reads, fed, *extra])) == outcome
        without_claims = replace(card, claims=())
        assert [x.state for x in claim_tests(without_claims, [opposite])] == ["fails"]
