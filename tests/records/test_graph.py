"""The graphs in which circuits are searched for, and their order."""

from __future__ import annotations

import pytest

from acdc_explain.records.circuit import Edge
from acdc_explain.records.graph import Graph, SearchGraph, prune

GRAPHS = [Graph(2, 3), Graph(2, 3, parallel=True), Graph(2, 3, has_mlps=False)]


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_default_is_the_graph_in_its_order(graph):
    search_graph = SearchGraph(graph)
    by_port = sorted(map(str, graph.edges()))
    assert sorted(map(str, search_graph.edges())) == by_port
    assert search_graph.n_edges == graph.n_edges
    assert [str(edge) for edge in search_graph.edges()] == [str(edge) for edge in graph.edges()]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("places", [(), ("rest", "S", "END")])
@pytest.mark.parametrize("level", ["head", "layer"])
def test_edges_are_counted_and_stand_for_edges_of_the_model(graph, places, level):
    search_graph = SearchGraph(graph, level, places)
    edges = list(search_graph.edges())
    assert len(edges) == len(set(edges)) == search_graph.n_edges
    covered = {
        (search_graph.place(edge.dst), row, column)
        for edge in edges
        for row in search_graph.rows(edge.dst, edge.port)
        for column in search_graph.columns(edge.src)
    }
    n_places = len(places) or 1
    logits_at_one_place = graph.n_senders(edges[0].dst) * (n_places - 1)
    assert len(covered) == graph.n_edges * n_places - logits_at_one_place


def test_last_places_first():
    search_graph = SearchGraph(Graph(1, 1), "head", ("rest", "S", "END"))
    assert [str(node) for group in search_graph.receiver_groups for node, port in group if port in ("k", None)] == [
        "logits", "m0@END", "m0@S", "m0@rest", "a0.h0@END", "a0.h0@S", "a0.h0@rest",
    ]  # fmt: skip
    assert [str(node) for node in search_graph.senders(search_graph.receiver_groups[0][0][0])] == [
        "m0@END", "a0.h0@END", "input@END",
    ]  # fmt: skip


@pytest.mark.parametrize("graph", GRAPHS)
def test_other_orders_still_go_back_from_the_output(graph):
    search_graph = SearchGraph(graph).shuffled(1)
    assert {*search_graph.edges()} == {*graph.edges()}
    assert list(search_graph.edges()) == list(SearchGraph(graph).shuffled(1).edges())
    assert list(search_graph.edges()) != list(SearchGraph(graph).shuffled(2).edges())
    seen = set()
    for edge in search_graph.edges():  # no sender comes before as a receiver
        seen.add(edge.dst)
        assert edge.src not in seen


def test_the_search_graph_of_edges():
    graph = Graph(2, 3)
    places = ("rest", "S", "END")
    assert SearchGraph.of(graph, [Edge.parse("a0.h1->logits")], places) == SearchGraph(graph)
    assert SearchGraph.of(graph, [Edge.parse("a0->m1")], places) == SearchGraph(graph, "layer")
    split = [Edge.parse("a0.h1@END->logits")]
    assert SearchGraph.of(graph, split, places) == SearchGraph(graph, "head", places)


def test_a_key_read_at_one_place_is_written_at_another():
    names = ("input@S->a0.h0@S<k>", "a0.h0@END->logits", "input@S->a0.h1@S<q>")
    kept = prune(map(Edge.parse, names))
    assert [str(edge) for edge in kept] == list(names[:2])
