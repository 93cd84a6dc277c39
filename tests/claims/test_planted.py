"""Claims about heads that were built by hand: what each does is known, and decoys do nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from acdc_explain_plugins.known_roles.planted_weights import jobs

import acdc_explain as ax
from acdc_explain.claims.candidates import candidates
from acdc_explain.claims.effects import component_results, idle_components
from acdc_explain.claims.testing import check_claims as results_of
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import Circuit, Faithfulness, Node
from acdc_explain.records.claim import Claim, is_explained

MOVERS = ("mover", "two_jobs")


class Planted:
    """A planted model on `planted_ioi`, with the claims that its discovery prompts suggest."""

    def __init__(self) -> None:
        model = ax.load_model("planted-small-0")
        task = load_plugins().tasks()["planted_ioi"](model, examples=12, seed=0)
        self.discover = Contrast(model, task, task.discover)
        self.held_out = Contrast(model, task, task.held_out)
        self.kinds = load_plugins().claims()
        self.jobs = jobs("small", 0)
        self.nodes = list(self.jobs)
        edges = tuple(edge for edge in model.graph.edges() if edge.src.kind == "head")
        measured = Faithfulness("logit_diff", 1.0, 1.0, 0.0)
        self.circuit = Circuit("t", "m", "all", {}, edges, len(edges), len(edges), measured, 0, 0)
        made = candidates(self.discover, self.circuit, self.nodes, self.kinds)
        tested = results_of(self.discover, made, self.kinds)
        self.claims = [result.claim for result in tested if result.explains]
        self.results = defaultdict(list)
        for result in results_of(self.held_out, self.claims, self.kinds):
            self.results[result.node].append(result)

    def having(self, *names: str) -> list:
        return [node for node, job in self.jobs.items() if job in names]

    def of(self, node, name: str) -> list[dict]:
        """The arguments of a head's claims of one kind that hold."""
        return [
            dict(result.claim.arguments)
            for result in self.results[node]
            if result.claim.name == name and result.outcome == "holds"
        ]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_movers_read_the_answer_and_raise_it(planted):
    for head in planted.having(*MOVERS):
        [raised] = planted.of(head, "raises")
        assert (raised["what"], raised["source"]) == ("answers", "IO")
        assert raised["by"] == pytest.approx(3.0, abs=0.1)  # as planted
        assert {"END"} == {claim["at"] for claim in planted.of(head, "attends")}
        assert "IO" in {claim["to"] for claim in planted.of(head, "attends")}
        assert {claim["variable"] for claim in planted.of(head, "carries")} == {"IO"}
        assert planted.of(head, "lowers") == []


def test_the_negative_head_lowers_the_answer(planted):
    [head] = planted.having("negative")
    [lowered] = planted.of(head, "lowers")
    assert (lowered["what"], lowered["source"]) == ("answers", "IO")
    assert planted.of(head, "raises") == []


def test_the_backup_stands_in_for_the_movers(planted):
    [head], movers = planted.having("backup"), {*map(str, planted.having(*MOVERS))}
    [backs_up] = [x for x in planted.results[head] if x.claim.name == "backs_up"]
    assert backs_up.outcome == "holds"
    assert backs_up.specific
    assert set(backs_up.claim.arguments["components"]) == movers
    assert backs_up.value == pytest.approx(3.0, abs=0.1)  # as planted: what one mover writes
    assert planted.of(head, "copies") == [{}]
    assert planted.of(head, "opposes") == []


def test_what_opposes_shrinks_without_what_it_opposes(planted, monkeypatch):
    """The negative head is built to lower the answer always; here it does so for the movers."""
    [head], movers = planted.having("negative"), tuple(planted.having(*MOVERS))
    row = planted.held_out.model.graph.writer_index[head]
    n_writers, n = len(planted.held_out.model.graph.writers), len(planted.held_out)
    arguments = {"components": list(map(str, movers)), "what": "answers"}
    claim = planted.kinds["opposes"].claim(head, "opposes", arguments)
    for rise, outcome in ((1.0, "holds"), (0.1, "fails"), (-1.0, "fails")):

        def without(contrast, ablated, what, rise=rise):
            assert what == "answers"
            effects = torch.zeros(n_writers, n, dtype=torch.float64)
            if set(ablated) == set(movers):
                effects[row] = rise + 0.01 * torch.randn(n, dtype=torch.float64)
            return effects

        monkeypatch.setattr("acdc_explain.evidence.composition.direct_without", without)
        [result] = results_of(planted.held_out, [claim], planted.kinds)
        assert result.outcome == outcome, result.reason


def test_weights_that_copy_and_that_push_down(planted):
    for head in planted.having(*MOVERS, "negative"):
        name, other = ("copies", "suppresses") if planted.jobs[head] in MOVERS else (
            "suppresses", "copies")  # fmt: skip
        claims = [planted.kinds[x].claim(head, x, {}) for x in (name, other)]
        does, does_not = results_of(planted.held_out, claims, planted.kinds)
        assert (does.outcome, does.topic) == ("holds", "weights")
        assert does_not.outcome == "fails"


def test_the_inhibiting_head_turns_every_mover_to_the_answer(planted):
    [head] = planted.having("inhibit")
    fed = planted.of(head, "feeds")
    movers = {str(mover) for mover in planted.having(*MOVERS)}
    assert movers <= {claim["receiver"] for claim in fed}
    for claim in fed:
        if claim["receiver"] in movers:
            assert (claim["port"], claim["at"]) == ("q", "END")
            assert (claim["query"], claim["key"]) == ("END", "IO")
            assert claim["by"] > 0.5
    carried = {claim["variable"] for claim in planted.of(head, "carries")}
    assert "S2" in carried <= {"S2", "S"}  # S is the name that stands at S2
    assert "S2" in {claim["to"] for claim in planted.of(head, "attends")}


def test_they_are_explained_and_no_decoy_is(planted):
    explained = {node for node in planted.nodes if is_explained(planted.results[node])}
    assert set(planted.having(*MOVERS, "negative", "inhibit")) <= explained
    decoys = [node for node, job in planted.jobs.items() if job.startswith("decoy")]
    assert not explained & {*decoys, *planted.having("sink", "induction")}


def test_claims_dealt_to_other_heads_explain_nothing(planted):
    """Each head gets the claims of the next one with another job."""
    nodes = [node for node in planted.nodes if planted.results[node]]
    order = sorted(nodes, key=lambda node: planted.jobs[node])
    dealt = []
    for place, node in enumerate(order):
        others = (*order[place + 1 :], *order)
        giver = next(x for x in others if {planted.jobs[x], planted.jobs[node]} - set(MOVERS)
                     and planted.jobs[x] != planted.jobs[node])  # fmt: skip
        dealt += [Claim(node, x.claim.name, x.claim.arguments) for x in planted.results[giver]]
    results = defaultdict(list)
    for result in results_of(planted.held_out, dealt, planted.kinds):
        results[result.node].append(result)
    assert len(results) == len(order)
    assert [node for node in order if is_explained(results[node])] == []


def test_wrong_arguments_fail_or_cannot_be_tested(planted):
    mover = planted.having("mover")[0]
    inhibit = planted.having("inhibit")[0]

    def outcome(node, name, **arguments):
        claim = planted.kinds[name].claim(node, name, arguments)
        [result] = results_of(planted.held_out, [claim], planted.kinds)
        return result.outcome

    assert outcome(mover, "raises", what="answers", source="IO") == "holds"
    assert outcome(mover, "lowers", what="answers", source="IO") == "fails"
    assert outcome(mover, "raises", what="foils", source="IO") == "fails"
    assert outcome(mover, "raises", what="answers", source="S1") == "fails"
    assert outcome(mover, "raises", what="answers", source="IO", by=30) == "fails"
    assert outcome(mover, "attends", at="END", to="S2", through="answers") == "fails"
    assert outcome(mover, "carries", variable="S", at="END", through="answers") == "fails"
    fed = {"receiver": str(mover), "port": "q", "at": "END", "query": "END", "key": "IO"}
    assert outcome(inhibit, "feeds", **fed) == "holds"
    assert outcome(inhibit, "feeds", **{**fed, "key": "S1"}) != "holds"
    assert outcome(inhibit, "feeds", **{**fed, "port": "k"}) != "holds"
    assert outcome(inhibit, "feeds", **{**fed, "port": "v"}) == "untested"  # no attention
    assert outcome(inhibit, "feeds", **{**fed, "key": None}) == "untested"  # from END to what?
    assert outcome(inhibit, "feeds", **{**fed, "port": None}) == "untested"
    assert outcome(mover, "feeds", receiver=str(inhibit), port="q", at="END") == "untested"
    absent = Node.parse("a9.h9")  # as an imported claim may say
    through = {"at": "END", "receiver": "logits"}
    assert outcome(absent, "feeds", **through) == "untested"
    backup, negative = planted.having("backup")[0], planted.having("negative")[0]
    movers = [str(x) for x in planted.having(*MOVERS)]
    assert outcome(backup, "backs_up", components=movers, what="answers") == "holds"
    assert outcome(backup, "backs_up", components=movers[:1], what="answers") == "fails"
    assert outcome(backup, "backs_up", components=movers, what="foils") == "fails"
    assert outcome(negative, "backs_up", components=movers, what="answers") == "fails"
    # It lowers what they raise, but no less without them.
    assert outcome(negative, "opposes", components=movers, what="answers") == "fails"
    assert outcome(backup, "opposes", components=movers, what="answers") != "holds"
    late, itself = [str(backup)], [movers[0]]
    assert outcome(mover, "backs_up", components=late, what="answers") == "untested"
    assert outcome(mover, "backs_up", components=itself, what="answers") == "untested"
    assert outcome(mover, "backs_up", components=["a9.h9"], what="answers") == "untested"
    assert outcome(mover, "backs_up", components=["moon"], what="answers") == "untested"
    assert outcome(mover, "maps", relation="successor") == "untested"  # no such words
    assert outcome(mover, "attends", at="nowhere", to="IO", through="answers") == "untested"
    assert outcome(mover, "carries", variable="?", at="END", through="answers") == "untested"
    assert outcome(mover, "acts", at="END") == "holds"
    assert outcome(mover, "acts", at="S1") == "fails"


def test_idle_is_proven(planted, monkeypatch):
    """Heads that write where nobody reads are idle; heads that matter are not."""
    idle = idle_components(planted.held_out, planted.nodes)
    assert set(planted.having("decoy_mover", "decoy_previous", "sink")) <= idle
    assert not idle & set(planted.having(*MOVERS, "negative", "inhibit", "duplicate"))
    results = component_results(planted.held_out, planted.nodes, [*planted.results.values()])
    effects = {result.node: result.effect for result in results}
    assert effects[planted.having("inhibit")[0]] > 0.5
    assert effects[planted.having("negative")[0]] < -0.05


def test_nothing_is_explained_of_an_idle_head(planted):
    """Claims that hold of a mover, as if they were of a sink: it is idle all the same."""
    [sink, *_], [mover, *_] = planted.having("sink"), planted.having("mover")
    borrowed = [
        replace(result, claim=replace(result.claim, node=sink)) for result in planted.results[mover]
    ]
    assert is_explained(borrowed)
    explanation = [*borrowed, *planted.results[mover]]
    of_sink, of_mover = component_results(planted.held_out, [sink, mover], [explanation])
    assert (of_sink.idle, of_sink.explained) == (True, False)
    assert (of_mover.idle, of_mover.explained) == (False, True)


def test_a_corruption_that_contradicts_takes_the_claim_away(planted, monkeypatch):
    from acdc_explain.claims import testing

    mover = planted.having("mover")[0]
    feeds = planted.kinds["feeds"]
    claim = feeds.claim(mover, "feeds", {"receiver": "logits", "at": "END", "by": 0.4})
    [result] = results_of(planted.held_out, [claim], planted.kinds)
    assert result.outcome == "holds"
    assert "agrees" in result.votes.values()
    monkeypatch.setattr(testing, "_vote", lambda *arguments: "contradicts")
    [result] = results_of(planted.held_out, [claim], planted.kinds)
    assert result.outcome == "unclear"
