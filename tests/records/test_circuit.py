from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_explain.records.circuit import INPUT, LOGITS, Circuit, Edge, Faithfulness, Node
from acdc_explain.records.graph import Graph, prune
from acdc_explain.store.document.eap_ig import from_eap_ig, to_eap_ig

nodes = st.one_of(
    st.just(INPUT),
    st.just(LOGITS),
    st.builds(Node, st.just("mlp"), st.integers(0, 99)),
    st.builds(Node, st.just("head"), st.integers(0, 99), st.integers(0, 99)),
)


@given(nodes)
def test_nodes_print_and_parse(node):
    assert Node.parse(str(node)) == node


@given(nodes, nodes, st.sampled_from("qkv"))
def test_edges_print_and_parse(src, dst, port):
    edge = Edge(src, dst, port if dst.kind == "head" else None)
    assert Edge.parse(str(edge)) == edge


@pytest.mark.parametrize(
    "text", ["", "a", "a1@", "h3", "a1.h", "m", "m-1", "A1.h2", "a1.h2 ", "logit", "input0"]
)
def test_no_node(text):
    with pytest.raises(ValueError, match="is no node"):
        Node.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "m1", "m1->", "->m1", "m1->m2<q>", "a0.h1->a1.h1", "a0.h1->a1.h1<x>", "m1->m2->m3"],
)
def test_no_edge(text):
    with pytest.raises(ValueError):  # noqa: PT011 (several messages)
        Edge.parse(text)


class TestGraph:
    def test_smollm2_has_the_edges_the_field_counts(self):
        assert Graph(30, 9).n_edges == 123_211

    def test_gpt2_small_has_the_edges_the_field_counts(self):
        assert Graph(12, 12).n_edges == 32_491  # EAP-IG's and MIB's number

    def test_order_of_receivers(self):
        found = [f"{node}{port or ''}" for node, port in Graph(2, 2).receivers]
        assert (
            found
            == (
                "logits m1 a1.h1q a1.h1k a1.h1v a1.h0q a1.h0k a1.h0v "
                "m0 a0.h1q a0.h1k a0.h1v a0.h0q a0.h0k a0.h0v"
            ).split()
        )

    def test_order_of_senders(self):
        assert list(map(str, Graph(2, 2).senders(LOGITS))) == (
            "m1 a1.h1 a1.h0 m0 a0.h1 a0.h0 input".split()
        )

    def test_parallel_mlp_does_not_read_its_own_layer(self):
        m1 = Node("mlp", 1)
        assert Node("head", 1, 0) in Graph(2, 2).senders(m1)
        assert Node("head", 1, 0) not in Graph(2, 2, parallel=True).senders(m1)

    def test_attention_only(self):
        graph = Graph(2, 2, has_mlps=False)
        assert not any(node.kind == "mlp" for node in graph.writers)
        assert graph.n_edges == 5 + 6 * 3 + 6 * 1

    @pytest.mark.parametrize("graph", [Graph(3, 2), Graph(2, 3, parallel=True)])
    def test_edges_are_counted(self, graph):
        edges = list(graph.edges())
        assert len(edges) == len(set(edges)) == graph.n_edges


@given(st.sets(st.sampled_from(list(Graph(2, 2).edges())), max_size=40))
def test_prune_keeps_what_lies_on_a_path(edges):
    graph = nx.DiGraph([(edge.src, edge.dst) for edge in edges])
    graph.add_nodes_from([INPUT, LOGITS])
    live = (nx.descendants(graph, INPUT) | {INPUT}) & (nx.ancestors(graph, LOGITS) | {LOGITS})
    expected = {edge for edge in edges if edge.src in live and edge.dst in live}
    assert set(prune(edges)) == expected


def make_circuit(edges: list[Edge], seconds: float = 1.0) -> Circuit:
    return Circuit(
        "task", "model", "acdc", {"tau": 0.1}, tuple(edges), 100, 50,
        Faithfulness("kl", 0.0, 0.1, 1.0), seconds, 0.01,
    )  # fmt: skip


def test_exchange_format_of_eap_ig():
    graph = Graph(1, 2)
    circuit = make_circuit([Edge.parse("input->a0.h1<v>", 0.5), Edge.parse("a0.h1->logits", 0.25)])
    document = to_eap_ig(circuit, graph)
    assert document["cfg"] == {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False}
    assert document["nodes"]["a0.h1"] == {"in_graph": True}
    assert document["nodes"]["m0"] == {"in_graph": False}
    assert document["edges"]["input->a0.h1<v>"] == {"score": 0.5, "in_graph": True}
    assert len(document["edges"]) == graph.n_edges
    back = from_eap_ig(document)
    assert {str(e): e.effect for e in back} == {str(e): e.effect for e in circuit.edges}


def test_id_is_of_what_was_found_not_of_how_long_it_took():
    edges = [Edge.parse("input->logits")]
    assert make_circuit(edges, 1.0).id == make_circuit(edges, 2.0).id
    assert make_circuit(edges).id != make_circuit([]).id


def test_components_in_the_order_of_the_forward_pass():
    names = ["m1->logits", "a1.h3->m1", "input->a0.h0<q>", "a0.h0->a1.h3<k>", "input->m0"]
    circuit = make_circuit([Edge.parse(name) for name in names])
    assert list(map(str, circuit.nodes)) == "input a0.h0 m0 a1.h3 m1 logits".split()
    assert list(map(str, circuit.components)) == "a0.h0 m0 a1.h3 m1".split()


def test_faithfulness_share():
    assert Faithfulness("m", 2.0, 1.5, 1.0).share == 0.5
    assert Faithfulness("m", 1.0, 1.0, 1.0).share is None
