"""The grains at which circuits are sought, and their order."""

from __future__ import annotations

import pytest

from acdc_explain.records.circuit import Edge, prune
from acdc_explain.records.graph import Graph, View

GRAPHS = [Graph(2, 3), Graph(2, 3, parallel=True), Graph(2, 3, has_mlps=False)]


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_default_view_is_the_graph_in_its_order(graph):
    view = View(graph)
    by_port = sorted(map(str, graph.edges()))
    assert sorted(map(str, view.edges())) == by_port
    assert view.n_edges == graph.n_edges
    assert [str(edge) for edge in view.edges()] == [str(edge) for edge in graph.edges()]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("places", [(), ("rest", "S", "END")])
@pytest.mark.parametrize("level", ["head", "layer"])
def test_edges_are_counted_and_stand_for_edges_of_the_model(graph, places, level):
    view = View(graph, level, places)
    edges = list(view.edges())
    assert len(edges) == len(set(edges)) == view.n_edges
    covered = {
        (view.place(edge.dst), row, column)
        for edge in edges
        for row in view.rows(edge.dst, edge.port)
        for column in view.columns(edge.src)
    }
    n_places = len(places) or 1
    logits_at_one_place = graph.n_senders(edges[0].dst) * (n_places - 1)
    assert len(covered) == graph.n_edges * n_places - logits_at_one_place


def test_last_places_first():
    view = View(Graph(1, 1), "head", ("rest", "S", "END"))
    assert [str(node) for visit in view.visits for node, port in visit if port in ("k", None)] == [
        "logits", "m0@END", "m0@S", "m0@rest", "a0.h0@END", "a0.h0@S", "a0.h0@rest",
    ]  # fmt: skip
    assert [str(node) for node in view.senders(view.visits[0][0][0])] == [
        "m0@END", "a0.h0@END", "input@END",
    ]  # fmt: skip


@pytest.mark.parametrize("graph", GRAPHS)
def test_other_orders_still_go_back_from_the_output(graph):
    view = View(graph).shuffled(1)
    assert {*view.edges()} == {*graph.edges()}
    assert list(view.edges()) == list(View(graph).shuffled(1).edges())
    assert list(view.edges()) != list(View(graph).shuffled(2).edges())
    seen = set()
    for edge in view.edges():  # no sender has had its turn as a receiver
        seen.add(edge.dst)
        assert edge.src not in seen


def test_the_view_is_known_from_edges():
    graph = Graph(2, 3)
    places = ("rest", "S", "END")
    assert View.of(graph, [Edge.parse("a0.h1->logits")], places) == View(graph)
    assert View.of(graph, [Edge.parse("a0->m1")], places) == View(graph, "layer")
    split = [Edge.parse("a0.h1@END->logits")]
    assert View.of(graph, split, places) == View(graph, "head", places)


def test_a_key_read_at_one_place_is_written_at_another():
    names = ("input@S->a0.h0@S<k>", "a0.h0@END->logits", "input@S->a0.h1@S<q>")
    kept = prune(map(Edge.parse, names))
    assert [str(edge) for edge in kept] == list(names[:2])
