"""Fingerprints, similarity, and motif counts compared with randomised circuits."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from acdc_explain.cli.main import app
from acdc_explain.errors import UserError
from acdc_explain.records.circuit import Edge, Node
from acdc_explain.records.evidence import Evidence
from acdc_explain.records.graph import Graph
from acdc_explain.records.pattern import Pattern
from acdc_explain.records.run.motif import Enrichment
from acdc_explain.store.duck.engine import CONFIG
from acdc_explain.store.motifs import enrich, motifs, read_enrichments
from acdc_explain.store.search.fingerprint import HEADS, SIZE, fingerprint, sign
from acdc_explain.store.search.null_circuits import randomised
from acdc_explain.store.store import Store
from acdc_explain.store.tables.keys import node_key, node_of

from ...samples import make_run, stored, whole_run
from .test_patterns import brute_force


def measures(**found: tuple[float, float]):
    return {name: {"value": v, "percentile": p} for name, (v, p) in found.items()}


class TestFingerprint:
    def test_what_is_usual_in_the_model_is_no_mark(self):
        """Copying that every head does is not distinctive; an unusual pattern is."""
        vector = fingerprint("head", measures(copying=(0.9, 0.5), induction_attention=(0.9, 1.0)))
        assert vector is not None
        assert len(vector) == SIZE
        assert np.linalg.norm(vector) == pytest.approx(1.0)
        assert dict(zip(HEADS, vector))["copying"] == 0.0
        assert dict(zip(HEADS, vector))["induction_attention"] == 1.0

    def test_signs(self):
        up = fingerprint("head", measures(direct_effect=(0.5, 0.9)))
        down = fingerprint("head", measures(direct_effect=(-0.5, 0.1)))
        assert up is not None
        assert down == tuple(-x for x in up)
        assert fingerprint("head", measures(direct_effect=(0.5, 0.1))) is None  # below the median
        assert sign(measures(direct_effect=(-0.5, 0.1), ablation_effect=(0.5, 0.9))) == -1
        assert sign(measures(ablation_effect=(0.5, 0.9))) == 1
        assert sign({}) is None

    @pytest.mark.parametrize(
        "value", [None, "high", True, float("nan"), float("inf"), 10**400, [1], {}]
    )
    def test_evidence_of_others_may_hold_anything(self, value):
        assert fingerprint("head", {"copying": {"value": value}}) is None
        assert sign({"direct_effect": {"value": value}}) is None

    def test_kinds_have_their_own_measures(self):
        assert fingerprint("mlp", measures(copying=(0.9, 1.0))) is None
        assert fingerprint("mlp", measures(token_share=(0.9, 1.0))) is not None


def test_keys_sort_in_the_order_of_the_forward_pass():
    graph = Graph(3, 4)
    nodes = [*graph.writers, Node("logits")]
    keys = [node_key(7, node) for node in nodes]
    assert keys == sorted(keys)
    assert [node_of(key) for key in keys] == nodes
    assert node_key(7, Node("head", 1, 2, "END")) == node_key(7, Node("head", 1, 2))
    assert max(keys) < node_key(8, nodes[0])
    assert node_of(node_key(0, Node("attn", 5))) == Node("attn", 5)


def like(task: str, model: str, **heads: dict[str, tuple[float, float]]):
    """A run whose heads have these measures."""
    run = make_run(task, model)
    assert run.circuit is not None
    evidence = [
        Evidence(
            run.circuit.id,
            Node.parse(name.replace("_", ".")),
            "m",
            {},
            {"measures": measures(**found)},
        )
        for name, found in heads.items()
    ]
    return replace(run, evidence=[*run.evidence, *evidence])


INDUCTION = {"induction_attention": (0.9, 1.0), "copying_strength": (4.0, 0.9)}
WEAKER = {"induction_attention": (0.5, 0.9), "copying_strength": (2.0, 0.8)}
PREVIOUS = {"previous_token_attention": (0.9, 1.0)}


class TestLike:
    @pytest.fixture
    def store(self, tmp_path) -> Store:
        return stored(
            tmp_path / "s.duckdb",
            like("ioi", "big", a1_h0=INDUCTION, a2_h1=WEAKER),
            like("ioi", "mini", a1_h0=WEAKER, a0_h1=PREVIOUS),
            like("induction", "mini", a1_h0=WEAKER, a2_h1=INDUCTION),
        )

    def test_other_models_come_first_and_each_component_once(self, store):
        run = next(h for h in store.runs() if h.model == "big")
        found = store.search(like=f"{run.id}:a1.h0")
        named = [(m.model, *map(str, m.nodes.values())) for m in found]
        assert named[:2] == [("mini", "a2.h1"), ("mini", "a1.h0")]
        assert set(named[2:]) == {("mini", "a0.h1"), ("big", "a0.h1"), ("big", "a2.h1")}
        assert [m for m, _ in named] == ["mini"] * 3 + ["big"] * 2
        assert found[0].score == pytest.approx(1.0)
        assert found[1].score > 0.9 > found[2].score

    def test_as_cosines_say(self, store):
        run = next(h for h in store.runs() if h.model == "big")
        score = store.search(like=f"{run.id}:a1.h0")[1].score
        known = {
            **measures(copying=(0.5, 0.9)),
            **measures(**INDUCTION),
        }  # as in the samples
        other = {**measures(copying=(0.5, 0.9)), **measures(**WEAKER)}
        assert score == pytest.approx(
            np.dot(fingerprint("head", known), fingerprint("head", other)), abs=1e-3
        )

    def test_filters(self, store):
        run = next(h for h in store.runs() if h.model == "big")
        asked = f"{run.id}:a1.h0"
        assert {m.model for m in store.search(like=asked, model="big")} == {"big"}
        assert [m.role for m in store.search(like=asked, role="name_mover", task="induction")] == [
            "name_mover"
        ]
        assert len(store.search(like=asked, limit=1)) == 1
        assert store.search(like=asked, text="previous_token")[0].role == "previous_token"
        assert store.search(like=asked, verdict="refuted") == []

    @pytest.mark.parametrize(
        ("asked", "complaint"),
        [("last", "has no colon"), ("last:x", "is no node"), ("zz:a1.h0", "holds no run 'zz'"),
         ("last:a7.h0", "Nothing was measured of a7.h0"), ("last:input", "Nothing was measured")],
    )  # fmt: skip
    def test_what_cannot_be_asked(self, store, asked, complaint):
        with pytest.raises(UserError, match=complaint):
            store.search(like=asked)

    def test_likeness_or_pattern(self, store):
        with pytest.raises(UserError, match="not both"):
            store.search(like="last:a1.h0", pattern="induction")


class TestText:
    def test_rare_words_and_short_texts_rank_higher(self, tmp_path):
        store, run = Store(tmp_path / "s.duckdb"), whole_run()
        said = [
            "copies names",
            "copies names and many other things that stand before",
            "copies copies",
            "moves",
        ]
        labels = [replace(label, description=text) for label, text in zip(run.labels, said)]
        store.add_run(replace(run, labels=labels, verdicts=[]))
        found = [match.description for match in store.search("copies")]
        assert found == [said[2], said[0], said[1]]
        assert [m.description for m in store.search("NAMES copies")] == said[:2]
        assert store.search("") == store.search()
        assert all(match.score is None for match in store.search())

    def test_with_the_extension(self, tmp_path):
        """Where the user has installed `fts`, other forms of a word are found too."""
        try:
            duckdb.connect(config=CONFIG).execute("LOAD fts")
        except duckdb.Error:
            pytest.skip("DuckDB's extension fts is not installed")
        store, run = Store(tmp_path / "s.duckdb"), whole_run()
        said = ["copies names", "copying", "moves names", "attends"]
        labels = [replace(label, description=text) for label, text in zip(run.labels, said)]
        store.add_run(replace(run, labels=labels, verdicts=[]))
        assert {match.description for match in store.search("copied")} == set(said[:2])
        assert [match.description for match in store.search("name copied")] == said[:1]
        assert store.search("copied", role="nobody") == []
        assert store.verify() == []

    def test_too_many_words(self, tmp_path):
        with pytest.raises(UserError, match="at most 16 words; this has 17"):
            Store(tmp_path / "s.duckdb").search(" ".join(map(str, range(17))))


def random_edges(seed: int, n: int = 60) -> list[Edge]:
    return random.Random(seed).sample(list(Graph(4, 4).edges()), n)


def stage(node: Node):
    return node.kind, node.layer


class TestRandomised:
    @pytest.mark.parametrize("seed", range(3))
    def test_degrees_and_layers_stay(self, seed):
        edges = random_edges(seed)
        for drawn in randomised(edges, 5, seed):
            assert len(set(drawn)) == len(edges)
            assert Counter(src for src, _ in drawn) == Counter(e.src for e in edges)
            assert Counter(dst for _, dst in drawn) == Counter((e.dst, e.port) for e in edges)
            assert (
                Counter((stage(src), stage(node), port) for src, (node, port) in drawn).total()
                == 60
            )
            between = Counter((stage(src), stage(node)) for src, (node, _) in drawn)
            assert between == Counter((stage(e.src), stage(e.dst)) for e in edges)

    def test_edges_move_and_the_seed_decides(self):
        edges = random_edges(0)
        drawn = randomised(edges, 3, 1)
        own = {(e.src, (e.dst, e.port)) for e in edges}
        assert drawn == randomised(edges, 3, 1) != randomised(edges, 3, 2)
        assert all(len(own & set(one)) < 50 for one in drawn)

    def test_all_circuits_are_drawn_alike(self):
        """With two senders in a layer and two receivers, the only other circuit is as frequent."""
        names = ("a0.h0->a1.h0<q>", "a0.h1->a1.h1<q>")
        drawn = randomised([Edge.parse(name) for name in names], 400, 0)
        same = sum((Node("head", 0, 0), (Node("head", 1, 0), "q")) in one for one in drawn)
        assert 150 < same < 250

    def test_where_nothing_can_move(self):
        edges = [Edge.parse("a0.h0->logits")]
        assert randomised(edges, 2, 0) == [[(edges[0].src, (edges[0].dst, None))]] * 2
        assert randomised([], 2, 0) == [[], []]


class TestEnrichment:
    def test_counts_are_those_of_brute_force(self, tmp_path):
        names = tuple(str(edge) for edge in random_edges(5))
        roles = {f"a{layer}.h{head}": random.Random(layer + 4 * head).choice(["induction", "name_mover"])
                 for layer in range(4) for head in range(4)}  # fmt: skip
        run = make_run(edges=names, roles=roles)
        store = Store(tmp_path / "s.duckdb")
        store.add_run(run)
        text = "induction -q-> name_mover"
        found = enrich(store, run.id, [text])[text]
        assert run.circuit is not None
        drawn = randomised(run.circuit.edges, 100, int(run.circuit.id, 16))
        expected = []
        for pairs in drawn[:10]:
            circuit = replace(
                run.circuit, edges=tuple(Edge(src, dst, port) for src, (dst, port) in pairs)
            )
            expected.append(len(brute_force(replace(run, circuit=circuit), Pattern.parse(text))))
        assert found.found == len(brute_force(run, Pattern.parse(text)))
        assert list(found.counts[:10]) == expected
        with store.database.reading() as connection:
            assert read_enrichments(connection, run.id) == {text: found}  # computed once
        store.add_run(run)
        assert enrich(store, run.id, [text]) == {text: found}

    def test_statistics(self):
        one = Enrichment(5, (1, 2, 3, 2))
        assert (one.expected, one.p_value) == (2.0, 0.2)
        assert one.score == pytest.approx(3 / 0.5**0.5)
        assert Enrichment(2, (2, 2)).score is None
        assert Enrichment(2, (2, 2)).p_value == 1.0
        assert Enrichment.total([one, Enrichment(1, (0, 0, 1, 5))]) == Enrichment(6, (1, 2, 4, 7))

    @pytest.mark.slow
    def test_by_task_and_model(self, tmp_path):
        store = Store(tmp_path / "s.duckdb")
        for task, model in (("ioi", "mini"), ("ioi", "big"), ("induction", "mini")):
            store.add_run(make_run(task, model))
        again = make_run()  # the same circuit, labeled again: the newest run counts
        header = replace(again.header, id="f" * 16, created_at="2027-01-01T00:00:00Z")
        labels = [replace(label, role="other") for label in again.labels]
        store.add_run(
            replace(again, header=header, labels=labels, verdicts=[], motifs=[], summary=None)
        )
        named = {"chain": "previous_token -k-> induction"}
        counts = motifs(store, named)
        assert {(c.task, c.model): (c.run, c.runs, c.runs_with, c.matches) for c in counts} == {
            ("ioi", "mini"): ("f" * 16, 2, 1, 0),
            ("ioi", "big"): (make_run("ioi", "big").id, 1, 1, 1),
            ("induction", "mini"): (make_run("induction").id, 1, 1, 1),
        }  # fmt: skip
        assert all(count.enrichment is not None for count in counts)
        for other, chance in (
            (named, False),
            ({"c": "induction"}, True),
            ({"c": "m1 -> logits"}, True),
        ):
            assert {c.enrichment for c in motifs(store, other, chance=chance)} == {None}

    def test_the_command(self, tmp_path):
        store = Store(tmp_path / "s.duckdb")
        store.add_run(make_run())
        db = ["--db", str(store.path)]
        shown = CliRunner().invoke(app, ["motifs", *db]).output
        assert "induction " in shown
        assert "nowhere: " in shown
        told = json.loads(
            CliRunner().invoke(app, ["motifs", "induction -> *", "--json", *db]).stdout
        )
        assert told[0]["matches"] == told[0]["enrichment"]["found"] == 2
        assert told[0]["enrichment"]["randomised"] == 100
        done = CliRunner().invoke(app, ["motifs", "induction ->", *db])
        assert isinstance(done.exception, UserError)
        done = CliRunner().invoke(app, ["motifs", "inductoin -> *", *db])
        assert "did you mean induction?" in str(done.exception)
