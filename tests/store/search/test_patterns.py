"""The pattern language, and its SQL compared with a brute-force matcher on networkx graphs."""

from __future__ import annotations

import operator
import random
from dataclasses import replace
from itertools import product
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc_explain.errors import UserError
from acdc_explain.records.circuit import Node
from acdc_explain.records.claim import Claim, ClaimResult
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.graph import Graph
from acdc_explain.records.pattern import Arrow, Condition, Pattern
from acdc_explain.records.run.run import Run
from acdc_explain.records.verdict import worst
from acdc_explain.store.store import Store

from ...samples import make_run

ROLES = ["previous_token", "induction", "name_mover", "other"]
OUTCOMES = ["supported", "refuted", "inconclusive"]


class TestReading:
    def test_everything_at_once(self):
        pattern = Pattern.parse(
            "(duplicate_token|head[layer<3])[verdict!=refuted] -*q|k-> name_mover(-)[depth>=0.5]"
            "<-v- a0.h1 <- input"
        )
        first, second, third, last = pattern.steps
        refuted = Condition("verdict", "!=", "refuted")
        assert [(p.name, p.conditions) for p in first.parts] == [
            ("duplicate_token", (refuted,)),
            ("head", (Condition("layer", "<", 3.0), refuted)),
        ]
        assert (second.parts[0].sign, second.parts[0].conditions) == (
            -1, (Condition("depth", ">=", 0.5),),
        )  # fmt: skip
        assert (third.parts[0].role, last.parts[0].role) == (None, None)
        assert pattern.arrows == (
            Arrow(("q", "k"), far=True), Arrow(("v",), backward=True), Arrow(backward=True),
        )  # fmt: skip
        assert pattern.step_names == ("duplicate_token|head", "name_mover", "a0.h1", "input")

    def test_spaces_do_not_matter(self):
        tight, loose = "a->b(+)[depth<1]<-k-c", " a  ->\tb ( + ) [ depth  < 1 ] <-k- c "
        assert replace(Pattern.parse(tight), text="", steps=()) == replace(
            Pattern.parse(loose), text="", steps=()
        )
        names = [step.parts[0].name for step in Pattern.parse(loose).steps]
        assert names == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "character 1: found the end, expected a role"),
            ("induction ->", "character 13: found the end, expected a role"),
            ("induction -x-> logits", "character 11: found '-', expected an arrow"),
            ("induction > logits", "character 11: found '>', expected an arrow"),
            ("induction -> logits; DROP TABLE runs", "character 20: found ';'"),
            ("(induction -> logits", "character 12: found '-', expected | or )"),
            ("induction[depth>] -> logits", "character 17: found ']', expected a number"),
            ("induction[deph>0.5]", "character 11: expected depth, layer, confidence, verdict, "
             "node or a claim; did you mean depth?"),
            ("head[attends=]", "character 14: found ']', expected a word"),
            ("head[attends<3]", "character 6: expected depth, layer, confidence, verdict, node or "
             "a claim."),
            ("head[depth]", "character 11: found ']', expected =, !=, <"),
            ("induction[verdict=suported]", "character 19: there is no verdict 'suported'; "
             "did you mean supported?"),
            ("induction[verdict>supported]", "character 11: verdict takes = or !="),
            ("induction[node=a9h6]", "character 16: 'a9h6' is no node"),
            ("a9.h6.x -> logits", "character 1: 'a9.h6.x' is no node"),
            ("induction(+ -> logits", "character 10: found '(', expected an arrow"),
            ("a -> " * 100 + "b", "at most 12 steps; this has 101"),
            ("a -> " * 2000, "at most 2000 characters; this has 10000"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read(self, text, complaint):
        with pytest.raises(UserError) as caught:
            Pattern.parse(text)
        assert complaint in str(caught.value)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("induction -> nam_mover", "character 14: there is no role 'nam_mover'; "
             "did you mean name_mover?"),
            ("Induction -> logits", "character 1: there is no role 'Induction'; "
             "did you mean induction?"),
            ("induction -> logit", "character 14: there is no role 'logit'; did you mean logits?"),
            ("(induction|zzzz) -> logits", "character 12: there is no role 'zzzz'."),
        ],
    )  # fmt: skip
    def test_a_role_that_is_not_there(self, text, complaint):
        with pytest.raises(UserError, match="no role") as caught:
            Pattern.parse(text).check(ROLES, ())
        assert complaint in str(caught.value)

    def test_a_claim_that_is_not_there(self):
        pattern = Pattern.parse("head[atends.to=IO] -> logits")
        pattern.check((), ["atends"])
        with pytest.raises(UserError) as caught:
            pattern.check((), ["attends", "reads"])
        assert "character 6: expected one of depth, layer" in str(caught.value)
        assert "did you mean attends?" in str(caught.value)

    @given(st.text(alphabet="ab.h1*()[]|<>-=+, 0qkv", max_size=40) | st.text(max_size=40))
    @settings(deadline=None, max_examples=100)
    def test_any_text_is_a_pattern_or_one_sentence(self, text):
        try:
            pattern = Pattern.parse(text)
        except UserError as error:
            complaint = str(error)
            assert len(complaint) < 400
        else:
            assert len(pattern.steps) == len(pattern.arrows) + 1


def random_run(seed: int) -> Run:
    """A random circuit of three layers; some nodes have no label, some two, some no sign."""
    rng = random.Random(seed)
    graph = Graph(3, 2)
    edges = tuple(str(edge) for edge in rng.sample(list(graph.edges()), 30))
    touched = {str(n) for e in edges for n in (e.split("->")[0], e.split("->")[1].split("<")[0])}
    nodes = sorted(touched - {"input", "logits"})
    run = make_run(f"t{seed}", edges=edges, roles={name: rng.choice(ROLES) for name in nodes})
    assert run.circuit is not None
    labels = [label for label in run.labels if rng.random() < 0.8]
    again = [
        replace(x, role=rng.choice(ROLES), labeler="second") for x in labels if rng.random() < 0.3
    ]
    labels += again
    verdicts = [
        replace(run.verdicts[0], label_id=label.id, judge=judge, outcome=rng.choice(OUTCOMES))
        for label in labels for judge in rng.sample(["role_card", "transfer"], rng.randint(0, 2))
    ]  # fmt: skip
    evidence = [*run.evidence]
    for name in nodes:
        if rng.random() < 0.8:
            facts = {
                "measures": {"direct_effect": {"value": rng.choice([-0.5, 0.5]), "percentile": 0.9}}
            }
            evidence.append(Evidence(run.circuit.id, Node.parse(name), "direct", {}, facts))
    circuit = replace(run.circuit, n_layers=rng.choice([3, 4, None]))
    claims = [claim for name in nodes for claim in random_claims(rng, Node.parse(name))]
    return replace(
        run, circuit=circuit, labels=labels, verdicts=verdicts, evidence=evidence, claims=claims
    )


def random_claims(rng: random.Random, node: Node) -> list[ClaimResult]:
    to = rng.choice(["S1", "IO"])
    also = {"to": ["answer token", "duplicate"]} if to == "IO" else {"at": ["duplicate"]}
    ablated = rng.choice([["a0.h0", "m0"], ["m1"]])
    made: list[Any] = [
        ("attends", "reads", {"at": "END", "to": to, "through": "logits"}, also),
        ("raises", "does", {"what": rng.choice(["answers", "foils"]), "source": None, "by": 1}, {}),
        ("opposes", "does", {"components": ablated, "what": "answers"}, {}),
    ]
    outcomes: list[Any] = ["holds", "holds", "fails"]
    return [
        ClaimResult(Claim(node, name, arguments), name, topic, rng.choice(outcomes), also=also)
        for name, topic, arguments, also in rng.sample(made, rng.randint(0, 3))
    ]


def graph_of(run: Run) -> nx.MultiDiGraph:
    """The circuit as a graph, each node with the properties that patterns can name."""
    assert run.circuit is not None
    graph = nx.MultiDiGraph()
    for edge in run.circuit.edges:
        graph.add_edge(str(edge.src), str(edge.dst), port=edge.port)
    layers = run.circuit.n_layers or 1 + max(n.layer or 0 for n in run.circuit.nodes)
    for node in run.circuit.nodes:
        effects = [e.measures["direct_effect"]["value"] for e in run.evidence
                   if e.node == node and "direct_effect" in e.measures]  # fmt: skip
        labels = []
        for label in run.labels_of(node):
            verdict = worst(run.verdicts_of(label))
            labels.append((label.role, verdict and verdict.outcome, label.confidence))
        depth = {"input": 0.0, "logits": 1.0}.get(node.kind)
        graph.add_node(
            str(node), kind=node.kind, layer=node.layer, labels=labels or [(None, None, None)],
            depth=depth if depth is not None else node.layer / max(layers - 1, 1),
            sign=(1 if effects[0] > 0 else -1) if effects else None,
            claims=[x for x in run.claims if x.node == node and x.outcome == "holds"],
        )  # fmt: skip
    return graph


COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def fits(step, name: str, facts) -> bool:
    return any(
        part_fits(part, name, facts, label) for part in step.parts for label in facts["labels"]
    )


def part_fits(part, name: str, facts, label) -> bool:
    role, outcome, confidence = label
    named = {
        "*": facts["kind"] not in ("input", "logits"),
        facts["kind"]: True,
        name: True,
    }.get(part.name, part.name == role and role is not None)
    known = {**facts, "verdict": outcome, "confidence": confidence, "node": name}
    return (
        named
        and part.sign in (None, facts["sign"])
        and all(
            claimed(condition, facts["claims"])
            if condition.claim
            else holds(condition, known[condition.key])
            for condition in part.conditions
        )
    )


def claimed(condition: Condition, claims: list[ClaimResult]) -> bool:
    """Whether a claim that holds says so, or for != whether none does."""
    name, _, argument = condition.key.partition(".")
    values = []
    for result in (x for x in claims if name in (x.claim.name, x.topic)):
        main = {"attends": "to", "raises": "what", "opposes": "what"}[result.claim.name]
        one = result.claim.arguments.get(argument or main)
        values += one if isinstance(one, list) else [one]
        values += result.also.get(argument or main, ())
        values += [""]  # of the claim itself
    return (condition.value in [str(x).replace(" ", "_") for x in values]) != (
        condition.operator == "!="
    )


def holds(condition, value) -> bool:
    if value is None:
        return condition.operator == "!="
    return COMPARE[condition.operator](value, condition.value)


def leads(graph: nx.MultiDiGraph, arrow: Arrow, a: str, b: str) -> bool:
    a, b = (b, a) if arrow.backward else (a, b)
    last = [
        (u, v) for u, v, port in graph.in_edges(b, data="port")
        if not arrow.ports or port in arrow.ports
    ]  # fmt: skip
    if arrow.far:
        return any(u == a or nx.has_path(graph, a, u) for u, _ in last)
    return (a, b) in last


def brute_force(run: Run, pattern: Pattern) -> set[tuple[str, ...]]:
    """Tries every combination of nodes."""
    graph = graph_of(run)
    candidates = [
        [name for name, facts in graph.nodes(data=True) if fits(step, name, facts)]
        for step in pattern.steps
    ]
    return {
        (run.header.task, *path)
        for path in product(*candidates)
        if all(leads(graph, arrow, a, b) for arrow, a, b in zip(pattern.arrows, path, path[1:]))
    }


CLAIMED = (
    "attends=IO", "attends!=IO", "reads=answer_token", "attends.at=duplicate", "attends.at=END",
    "opposes", "opposes.components=m0", "opposes=answers", "does=foils", "raises!=answers",
)  # fmt: skip


def random_pattern(rng: random.Random) -> str:
    names = [*ROLES, *ROLES, "*", "*", "head", "mlp", "logits", "input", "a1.h0", "m1"]

    def conditions() -> str:
        sign = rng.choice(["", "", "", "(+)", "(-)"])
        where = rng.choice(
            ["", "", "", f"[depth>{rng.choice([0.3, 0.5])}]", "[layer<=1]", "[verdict=supported]",
             "[verdict!=refuted]", "[confidence>=0.9, depth<0.9]", "[node!=a1.h0]", "[depth=0.5]",
             f"[{rng.choice(CLAIMED)}]", f"[{rng.choice(CLAIMED)}, {rng.choice(CLAIMED)}]"]
        )  # fmt: skip
        return sign + where

    def step() -> str:
        if rng.random() < 0.3:
            parts = [rng.choice(names) + conditions() for _ in range(2)]
            return f"({'|'.join(parts)})" + rng.choice(["", conditions()])
        return rng.choice(names) + conditions()

    arrows = ["->", "->", "-q->", "-k->", "-v->", "-q|k->", "-*->", "-*v->", "<-", "<-k-", "<-*-"]
    text = step()
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3])):
        text += f" {rng.choice(arrows)} {step()}"
    return text


@pytest.mark.slow_after(1)
@pytest.mark.parametrize("seed", range(6))
def test_patterns_against_brute_force(seed, tmp_path):
    store = Store(tmp_path / "s.duckdb")
    runs = [random_run(10 * seed + i) for i in range(3)]
    for run in runs:
        store.add_run(run)
    rng, matched = random.Random(seed), 0
    for _ in range(20):
        text = random_pattern(rng)
        pattern = Pattern.parse(text)
        expected = set().union(*(brute_force(run, pattern) for run in runs))
        found = store.search(pattern=text, limit=100_000, any_verdict=True)
        assert found.total == len(expected), text
        assert {(m.task, *map(str, m.nodes.values())) for m in found} == expected, text
        assert len(found) == len(expected), text
        alone = store.match(runs[0].id, {"it": text}, any_verdict=True)
        of_first = {path for path in expected if path[0] == runs[0].header.task}
        assert {(runs[0].header.task, *map(str, m.nodes.values())) for m in alone} == of_first, text
        matched += bool(expected)
    assert matched >= 3  # or nothing is tested
