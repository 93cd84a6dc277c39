"""Sufficiency, transfer and interchange on a model whose heads are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from acdc_explain_plugins.judges.interchange import interchange
from acdc_explain_plugins.judges.role_card import Test as Measured
from acdc_explain_plugins.judges.sufficiency import _verdict, shares_kept, sufficiency
from acdc_explain_plugins.judges.transfer import _votes, transfer
from acdc_explain_plugins.known_roles.planted_weights import jobs

import acdc_explain as ax
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Node
from acdc_explain.records.label import Label
from acdc_explain.records.role import Requirement
from acdc_explain.records.verdict import Verdict, worst

PLACED = jobs("small", 0)


def nodes(job: str) -> list[Node]:
    return [node for node, node_job in PLACED.items() if node_job == job]


def label_of(node: Node, role: str) -> Label:
    return Label("circuit", node, "test", role, (), "", 0.5, ())


@pytest.fixture(scope="module")
def held_out() -> Contrast:
    model = ax.load_model("planted-small-0")
    task = load_plugins().tasks()["planted_ioi"](model, examples=8, seed=0)
    return Contrast(model, task, task.held_out)


@pytest.fixture(scope="module")
def judged(held_out) -> Callable[..., dict[str, Verdict]]:
    def judge(function, *claims: tuple[Node, str]) -> list[Verdict | None]:
        labels = [label_of(*claim) for claim in claims]
        verdicts = {v.label_id: v for v in function(held_out, labels, load_plugins().roles())}
        return [verdicts.get(label.id) for label in labels]

    return judge


class TestSufficiency:
    @pytest.mark.slow_after(1)
    @pytest.mark.parametrize(
        ("job", "role"),
        [
            ("mover", "name_mover"),
            ("negative", "negative_name_mover"),
            ("inhibit", "s_inhibition"),
            ("duplicate", "duplicate_token"),
            ("previous", "previous_token"),
        ],
    )
    def test_the_claimed_places_are_enough(self, job, role, judged):
        (verdict,) = judged(sufficiency, (nodes(job)[0], role))
        assert verdict.outcome == "supported"
        assert verdict.score > 0.95 > 0.5 > verdict.chance

    def test_other_places_are_not_enough(self, judged):
        """A mover does not work by attending to the token before."""
        (verdict,) = judged(sufficiency, (nodes("mover")[0], "previous_token"))
        assert verdict is None or verdict.outcome == "causal_only"
        (verdict,) = judged(sufficiency, (nodes("two_jobs")[0], "induction"))
        assert verdict.outcome == "causal_only"
        assert verdict.score < 0.1

    def test_roles_without_a_place_and_heads_without_effect_get_no_verdict(self, judged):
        assert judged(sufficiency, (nodes("sink")[0], "name_mover")) == [None]
        assert judged(sufficiency, (nodes("mover")[0], "broad")) == [None]

    @pytest.mark.parametrize(
        ("lost", "at_random", "score", "outcome"),
        [
            (0.5, 1.0, 0.5, "supported"),
            (0.7, 1.0, 0.3, "inconclusive"),
            (0.9, 1.0, 0.1, "causal_only"),
            (0.2, 0.2, 0.8, "inconclusive"),  # random places keep as much
            (-0.4, 1.0, 1.4, "supported"),
            (-1.17, 1.0, 2.17, "inconclusive"),  # the other places work against it
        ],
    )
    def test_shares(self, lost, at_random, score, outcome):
        whole = torch.tensor([1.0, 3.0])
        shares = shares_kept(whole * lost, whole, [whole * at_random])
        verdict = _verdict(label_of(nodes("mover")[0], "name_mover"), shares)
        assert (verdict.outcome, verdict.n) == (outcome, 2)
        assert verdict.score == pytest.approx(score)
        assert verdict.chance == pytest.approx(1 - at_random)
        assert (verdict.measure, verdict.unit) == ("share_kept", "share of the effect")

    def test_a_share_that_may_be_too_large_gets_no_verdict(self):
        """The effect is small compared with its error, so its share is between 0 and several."""
        noise = torch.randn(32, generator=torch.Generator().manual_seed(0))
        whole = torch.ones(32)
        shares = shares_kept(-0.6 + 2 * noise, whole, [whole])
        assert shares.interval[0] < 1.5 < shares.kept < shares.interval[1]
        assert _verdict(label_of(nodes("mover")[0], "name_mover"), shares) is None

    def test_an_effect_that_may_be_zero_gets_no_verdict(self):
        whole = torch.randn(32, generator=torch.Generator().manual_seed(0))
        shares = shares_kept(whole * 0.3, whole, [whole])
        assert _verdict(label_of(nodes("mover")[0], "name_mover"), shares) is None

    def test_a_share_that_may_be_below_half_is_inconclusive(self):
        generator = torch.Generator().manual_seed(0)
        whole = torch.ones(32)
        kept = 0.45 + torch.randn(32, generator=generator)
        shares = shares_kept(kept, whole, [whole])
        assert shares.interval[0] < 0.5 < shares.interval[1]
        verdict = _verdict(label_of(nodes("mover")[0], "name_mover"), shares)
        assert verdict.outcome == "inconclusive"


class TestTransfer:
    def test_a_role_that_holds_under_other_corruptions(self, judged):
        (verdict,) = judged(transfer, (nodes("inhibit")[0], "s_inhibition"))
        assert verdict.outcome == "supported"
        assert "swap_s2: supported" in verdict.reason
        assert "random_s2: supported" in verdict.reason

    def test_a_scheme_that_does_not_change_what_a_head_reads_has_no_vote(self, judged):
        """Under swap_s2 a name is repeated too, the other one."""
        (verdict,) = judged(transfer, (nodes("duplicate")[0], "duplicate_token"))
        assert verdict.outcome == "supported"
        assert "swap_s2" not in verdict.reason

    def test_the_schemes_share_the_clean_run(self, held_out):
        for other in held_out.schemes.values():
            assert other.clean_run is held_out.clean_run
            assert not torch.equal(other.corrupt.tokens, held_out.corrupt.tokens)
            assert [e.clean for e in other.examples] == [e.clean for e in held_out.examples]


class TestInterchange:
    def test_movers_can_replace_each_other(self, judged):
        one, other = nodes("mover")
        verdicts = judged(interchange, (one, "name_mover"), (other, "name_mover"))
        for verdict in verdicts:
            assert verdict.outcome == "supported"
            assert verdict.score > 0.999 > 0.98 > min(verdict.chance, 0.97)

    def test_a_mover_and_its_opponent_do_not(self, judged):
        claims = [(nodes(job)[0], "name_mover") for job in ("mover", "negative")]
        assert [v.outcome for v in judged(interchange, *claims)] == ["inconclusive"] * 2

    def test_a_single_component_gets_no_verdict(self, judged):
        assert judged(interchange, (nodes("mover")[0], "name_mover")) == [None]

    def test_it_runs_only_on_request(self, held_out):
        from acdc_explain.pipeline.inputs.plan import Plan
        from acdc_explain.pipeline.settings import Settings

        usual = Plan.of(load_plugins(), Settings(), "rules").judges
        assert {"role_card", "sufficiency", "transfer"} <= set(usual)
        assert "interchange" not in usual
        requested = Plan.of(load_plugins(), Settings(judges=("interchange",)), "rules").judges
        assert list(requested) == ["interchange"]


def test_the_worst_verdict_counts():
    def verdict(outcome):
        return Verdict("x", "j", outcome, None, None, None, 0, "")

    mixed = [verdict("supported"), verdict("inconclusive"), verdict("causal_only")]
    assert worst(mixed).outcome == "causal_only"
    assert worst([]) is None


def test_of_judges_that_agree_the_role_card_is_shown():
    def verdict(judge):
        return Verdict("x", judge, "supported", None, None, None, 0, "")

    verdicts = [verdict(judge) for judge in ("interchange", "role_card", "transfer")]
    assert worst(verdicts).judge == "role_card"
    assert worst([verdicts[2], verdicts[0]]).judge == "interchange"


@pytest.mark.parametrize(
    ("states", "votes"),
    [
        ((("pattern", "holds", 0.5), ("causal", "holds", 0.5)), True),
        ((("pattern", "holds", 0.5), ("causal", "unclear", 0.3)), False),
        ((("pattern", "holds", 0.5), ("causal", "fails", 0.01)), False),  # no effect
        ((("pattern", "holds", 0.5), ("causal", "fails", -0.5)), True),
        ((("pattern", "fails", 0.1), ("causal", "holds", 0.5)), True),
    ],
)
def test_a_scheme_votes_where_it_can_tell(states, votes):
    tests = [
        Measured(Requirement(tier, "m", at_least=0.2), state, value, 0, 0, 0, 0, 8)
        for tier, state, value in states
    ]
    assert _votes(tests) is votes


def test_schemes_that_disagree():
    from acdc_explain_plugins.collectors.patching import _disagree

    assert not _disagree([0.3, 0.2, 0.06])
    assert not _disagree([0.0, 0.005, -0.01])
    assert _disagree([0.3, 0.0])
    assert _disagree([0.06, -0.06])
    assert not _disagree([0.06, 0.02])


def test_patching_measures_every_scheme(held_out):
    from acdc_explain_plugins.collectors.patching import patching

    node = nodes("duplicate")[0]
    ((_, facts),) = patching(held_out, [node])
    assert facts["measures"]["ablation_effect"]["value"] > 0.5
    assert abs(facts["under_other_corruptions"]["swap_s2"]) < 0.01
    assert facts["under_other_corruptions"]["random_s2"] > 0.5
    assert facts["schemes_disagree"] is True
