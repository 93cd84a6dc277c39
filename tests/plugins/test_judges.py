"""Sufficiency, transfer and interchange on a model whose heads are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from acdc_explain_plugins.judges.card_tests import Test as Measured
from acdc_explain_plugins.judges.claims import claims as judge_claims
from acdc_explain_plugins.judges.interchange import interchange
from acdc_explain_plugins.judges.role_card import role_card
from acdc_explain_plugins.judges.sufficiency import _outcome, sufficiency
from acdc_explain_plugins.judges.transfer import _votes, transfer
from acdc_explain_plugins.known_roles.planted_weights import jobs

import acdc_explain as ax
from acdc_explain.claims.compose import compose
from acdc_explain.claims.testing import check_claims
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Circuit, Faithfulness, Node
from acdc_explain.records.claim import Claim, ClaimResult
from acdc_explain.records.label import Label
from acdc_explain.records.verdict import Verdict, worst

PLACED = jobs("small", 0)
ROLE_OF = {
    "mover": "name_mover",
    "negative": "negative_name_mover",
    "inhibit": "s_inhibition",
    "duplicate": "duplicate_token",
    "previous": "previous_token",
}


def nodes(job: str) -> list[Node]:
    return [node for node, node_job in PLACED.items() if node_job == job]


def label_of(node: Node, role: str) -> Label:
    return Label("circuit", node, "test", role, (), "", 0.5, ())


@pytest.fixture(scope="module")
def splits() -> tuple[Contrast, Contrast]:
    model = ax.load_model("planted-small-0")
    task = load_plugins().tasks()["planted_ioi"](model, examples=12, seed=0)
    return Contrast(model, task, task.discover), Contrast(model, task, task.held_out)


ABSURD = (
    "It counts the vowels of every name and keeps the sum for later.",
    "It knows which of the two people is older.",
    "It detects sarcasm.",
    "It stores the capital of France.",
    "It moves the name.",  # true, but nothing puts it to a test
)


@pytest.fixture(scope="module")
def held_out(splits) -> Contrast:
    return splits[1]


@pytest.fixture(scope="module")
def claims(splits) -> dict[Node, list[ClaimResult]]:
    """What holds about every planted head, all edges between heads kept."""
    discover, held_out = splits
    kinds, graph = load_plugins().claims(), held_out.model.graph
    edges = tuple(edge for edge in graph.edges() if edge.src.kind == "head")
    measured = Faithfulness("logit_diff", 1.0, 1.0, 0.0)
    circuit = Circuit("t", "m", "all", {}, edges, len(edges), len(edges), measured, 0, 0)
    made = [result.claim for result in compose(discover, circuit, list(PLACED), kinds)]
    by_node: dict[Node, list[ClaimResult]] = {node: [] for node in PLACED}
    for result in check_claims(held_out, made, kinds):
        by_node[result.node].append(result)
    return by_node


@pytest.fixture(scope="module")
def judged(held_out, claims) -> Callable[..., list[Verdict | None]]:
    def judge(function, *labeled: tuple[Node, str]) -> list[Verdict | None]:
        labels = [label_of(*one) for one in labeled]
        given = () if function is interchange else (claims,)
        found = function(held_out, labels, load_plugins().roles(), *given)
        verdicts = {verdict.label_id: verdict for verdict in found}
        return [verdicts.get(label.id) for label in labels]

    return judge


class TestRoleCard:
    @pytest.mark.parametrize(("job", "role"), ROLE_OF.items())
    def test_a_planted_job_is_granted_and_no_other(self, job, role, judged):
        """Of 13 roles of heads that the model could have, the one that was planted."""
        node = nodes(job)[0]
        roles = [
            *("previous_token", "duplicate_token", "induction", "name_mover"),
            *("negative_name_mover", "backup_name_mover", "s_inhibition", "foil_suppressor"),
            *("foil_mover", "repeater", "damper", "attention_sink", "attribute_extractor"),
        ]
        verdicts = judged(role_card, *((node, name) for name in roles))
        granted = [name for name, v in zip(roles, verdicts) if v.outcome == "supported"]
        assert granted == [role]

    def test_a_head_that_surely_does_something_else_is_refuted(self, judged):
        (verdict,) = judged(role_card, (nodes("mover")[0], "previous_token"))
        assert verdict.outcome == "refuted"
        assert "of which nothing is found" in verdict.reason
        assert verdict.score is None

    def test_a_decoy_has_no_claims_and_no_role(self, judged):
        """It attends as the role says, and nothing reads it."""
        jobs_of = {"decoy_mover": "name_mover", "decoy_duplicate": "duplicate_token"}
        for job, role in jobs_of.items():
            (verdict,) = judged(role_card, (nodes(job)[0], role))
            assert verdict.outcome == "inconclusive"

    def test_other_without_claims_is_never_supported(self, judged):
        mover, sink = nodes("mover")[0], nodes("sink")[0]
        verdicts = judged(role_card, (mover, "other"), (sink, "other"))
        assert [verdict.outcome for verdict in verdicts] == ["matters", "refuted"]


def about(node: Node, claims, name: str) -> Claim:
    return next(x.claim for x in claims[node] if x.claim.name == name)


class TestClaims:
    """A text is as good as its claims."""

    def verdict(self, held_out, claims, node: Node, role: str, text: str, *made: Claim) -> Verdict:
        label = replace(label_of(node, role), description=text, claims=made)
        (found,) = judge_claims(held_out, [label], load_plugins().roles(), claims)
        return found

    def test_what_holds_is_supported_whatever_the_role(self, held_out, claims):
        mover = nodes("mover")[0]
        true = [about(mover, claims, name) for name in ("attends", "raises")]
        for role in ("name_mover", "other"):
            verdict = self.verdict(held_out, claims, mover, role, "It moves the name.", *true)
            assert verdict.outcome == "supported"
            assert verdict.score is not None
            assert verdict.unit

    def test_another_ones_claims_are_not_granted(self, held_out, claims):
        """Tested on the component that they are said of: they fail there."""
        mover, negative = nodes("mover")[0], nodes("negative")[0]
        kinds = load_plugins().claims()
        borrowed = Claim(negative, "raises", about(mover, claims, "raises").arguments)
        (result,) = check_claims(held_out, [borrowed], kinds)
        everything = {**claims, negative: [*claims[negative], result]}
        verdict = self.verdict(held_out, everything, negative, "name_mover", "It moves.", borrowed)
        assert verdict.outcome == "refuted"
        own = about(negative, claims, "attends")
        verdict = self.verdict(held_out, everything, negative, "other", "It moves.", own, borrowed)
        assert verdict.outcome == "pattern_only"

    def test_where_it_acts_is_not_what_it_does(self, held_out, claims):
        mover = nodes("mover")[0]
        verdict = self.verdict(
            held_out, claims, mover, "other", "At END.", about(mover, claims, "acts")
        )
        assert verdict.outcome == "matters"

    def test_claims_that_were_not_tested_grant_nothing(self, held_out, claims):
        mover = nodes("mover")[0]
        verdict = self.verdict(held_out, {}, mover, "other", "x", about(mover, claims, "raises"))
        assert verdict.outcome == "inconclusive"

    @pytest.mark.parametrize("text", ABSURD)
    def test_a_story_without_claims_is_untested_whatever_its_role(self, text, held_out, claims):
        mover = nodes("mover")[0]
        for role in ("name_mover", "other"):
            label = replace(label_of(mover, role), description=text)
            roles = load_plugins().roles()
            found = [*role_card(held_out, [label], roles, claims)]
            found += judge_claims(held_out, [label], roles, claims)
            verdict = worst(found)
            assert verdict is not None
            assert verdict.outcome == "untested"

    def test_a_text_that_says_what_the_role_says_is_left_to_its_judges(self, held_out, claims):
        roles = load_plugins().roles()
        label = label_of(nodes("mover")[0], "name_mover")
        for text in ("", roles["name_mover"].sentence):
            named = replace(label, description=text)
            assert list(judge_claims(held_out, [named], roles, claims)) == []


class TestSufficiency:
    @pytest.mark.parametrize(("job", "role"), ROLE_OF.items())
    def test_the_claimed_places_are_enough(self, job, role, judged):
        (verdict,) = judged(sufficiency, (nodes(job)[0], role))
        assert verdict.outcome == "supported"
        assert verdict.score > 0.95 > 0.5 > verdict.chance

    def test_roles_without_such_a_claim_get_no_verdict(self, judged):
        assert judged(sufficiency, (nodes("mover")[0], "previous_token")) == [None]
        assert judged(sufficiency, (nodes("sink")[0], "name_mover")) == [None]
        assert judged(sufficiency, (nodes("mover")[0], "broad")) == [None]

    @pytest.mark.parametrize(
        ("interval", "beyond_chance", "outcome"),
        [
            ((0.5, 0.6), True, "supported"),
            ((0.3, 0.6), True, "inconclusive"),
            ((0.0, 0.19), True, "causal_only"),
            ((0.7, 0.9), False, "inconclusive"),  # random places keep as much
            ((1.6, 2.0), True, "supported"),  # the other places work against it
        ],
    )
    def test_outcomes(self, interval, beyond_chance, outcome):
        assert _outcome(*interval, beyond_chance)[0] == outcome


class TestTransfer:
    def test_a_role_that_holds_under_other_corruptions(self, judged):
        (verdict,) = judged(transfer, (nodes("inhibit")[0], "s_inhibition"))
        assert verdict.outcome == "supported"
        assert "swap_s2: agrees" in verdict.reason
        assert "random_s2: agrees" in verdict.reason

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
        Measured(tier, "m", state, "m", value=value, n=8, bounds=(0.2,))
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
