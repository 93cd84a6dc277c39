"""The search of Conmy et al. (2023): from the output back, cut every edge the metric does not miss.

A search is its trace: the effects of the tested edges, in order. From a trace and a threshold all
decisions follow, so that a search that was stopped goes on from its trace, and a search with
another threshold takes over every decision up to the first that differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol

from ..records.circuit import LOGITS, Edge, Node, prune
from ..records.graph import Receiver, SearchGraph
from .engine.reference import Decision, ReceiverGroup

CLOSE = 1e-6  # nearer to tau than this, float32 cannot say on which side an effect lies
SAVE_SECONDS = 5.0


class Decider(Protocol):
    """What a search asks of an engine."""

    @property
    def search_graph(self) -> SearchGraph: ...

    @property
    def metric(self) -> float: ...

    def load(self, decided: Sequence[Node], kept: Sequence[Edge]) -> None: ...

    def decide(self, group: ReceiverGroup, tau: float) -> list[Decision]: ...

    def drop(self, receivers: Sequence[Receiver]) -> None: ...


@dataclass
class Trace:
    """The effects measured with a threshold, a list for every node that something kept reads."""

    tau: float
    effects: list[list[float]]

    def agreed(self, tau: float) -> int:
        """For how many nodes every decision is the same with another threshold."""
        if tau == self.tau:
            return len(self.effects)
        for place, effects in enumerate(self.effects):
            if any((effect < tau) != (effect < self.tau) for effect in effects):
                return place
        return len(self.effects)


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `kept` is in the order of the decisions."""

    tau: float
    kept: tuple[Edge, ...]
    n_tested: int
    n_close: int  # effects too close to tau for the precision
    metric: float

    @property
    def circuit(self) -> list[Edge]:
        """Without the edges on no path from the input: they carry what a cut edge carries."""
        return prune(self.kept)


class Search:
    """Searches with one engine, in one order, that share what they have measured."""

    def __init__(
        self,
        engine: Decider,
        report: Callable[[int, int, SearchResult], None],
        *,
        traces: Sequence[Trace] = (),
        save: Callable[[Sequence[Trace]], None] = lambda traces: None,
        screen: Set[Edge] | None = None,
    ) -> None:
        """`report` is told how many edges are decided, of how many, and what is found so far.

        `traces` are taken up; `save` is given them now and then. `screen`: the only edges that
        are tested, all others are cut.
        """
        self.engine, self.search_graph = engine, engine.search_graph
        self.report, self.save, self.screen = report, save, screen
        self.traces = list(traces)
        self._saved = time.monotonic()

    def run(self, tau: float, at_most: int | None = None) -> SearchResult | None:
        """All decisions for a threshold; None as soon as there are more than `at_most` edges."""
        try:
            return self._run(self._trace(tau), at_most)
        finally:  # an interrupted search goes on from here
            self.save(self.traces)

    def _run(self, trace: Trace, at_most: int | None) -> SearchResult | None:
        so_far = _SoFar(trace.tau)
        measured = n_visited = 0
        for receivers in self.search_graph.receiver_groups:
            group = self._to_test(receivers, so_far.read)
            if not group:
                if measured:
                    self.engine.drop(receivers)
            elif n_visited < len(trace.effects):
                so_far.add(_replayed(group, trace.effects[n_visited], trace.tau))
                n_visited += 1
            else:
                if not measured:
                    self.engine.load(so_far.decided, so_far.kept)
                decisions = self.engine.decide(group, trace.tau)
                trace.effects.append([decision.edge.effect for decision in decisions])
                so_far.add(decisions)
                n_visited += 1
                measured += 1
                self._save_now_and_then()
            so_far.decided.append(receivers[0][0].base)
            so_far.n_decided += sum(len(self.search_graph.senders(node)) for node, _ in receivers)
            if measured:
                self.report(
                    so_far.n_decided, self.search_graph.n_edges, so_far.outcome(self.engine.metric)
                )
            if at_most is not None and _too_many(so_far.kept, at_most):
                return None
        if not measured:
            self.engine.load(so_far.decided, so_far.kept)
        return so_far.outcome(self.engine.metric)

    def _trace(self, tau: float) -> Trace:
        """The trace to go on with: this threshold's, or as much of another's as holds for it."""
        for trace in self.traces:
            if trace.tau == tau:
                return trace
        best = max(self.traces, key=lambda trace: trace.agreed(tau), default=None)
        trace = Trace(tau, best.effects[: best.agreed(tau)] if best else [])
        self.traces.append(trace)
        return trace

    def _to_test(self, receivers: Sequence[Receiver], read: Set[Node]) -> ReceiverGroup:
        """The senders to test for each port of a node; nothing if nobody reads the node."""
        group = [
            (receiver, self._senders(receiver) if _is_read(receiver, read) else ())
            for receiver in receivers
        ]
        return group if any(_is_read(receiver, read) for receiver in receivers) else ()

    def _senders(self, receiver: Receiver) -> Sequence[Node]:
        node, port = receiver
        senders = self.search_graph.senders(node)
        if self.screen is None:
            return senders
        return [sender for sender in senders if Edge(sender, node, port) in self.screen]

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save(self.traces)
            self._saved = time.monotonic()


def _is_read(receiver: Receiver, read: Set[Node]) -> bool:
    """Whether a kept edge depends on a port. A key or value matters to any later place."""
    node, port = receiver
    if port in ("k", "v"):
        return any(other.base == node.base for other in read)
    return node in read


def _replayed(group: ReceiverGroup, effects: Sequence[float], tau: float) -> list[Decision]:
    edges = [Edge(sender, *receiver) for receiver, senders in group for sender in senders]
    return [
        Decision(replace(edge, effect=effect), not effect < tau)
        for edge, effect in zip(edges, effects, strict=True)
    ]


class _SoFar:
    """The decisions of a search until now."""

    def __init__(self, tau: float) -> None:
        self.tau = tau
        self.kept: list[Edge] = []
        self.read: set[Node] = {LOGITS}  # nodes with a kept outgoing edge
        self.decided: list[Node] = []
        self.n_decided = self.n_tested = self.n_close = 0

    def add(self, decisions: Sequence[Decision]) -> None:
        self.n_tested += len(decisions)
        self.n_close += sum(abs(edge.effect - self.tau) < CLOSE for edge, _ in decisions)
        new = [edge for edge, kept in decisions if kept]
        self.kept += new
        self.read |= {edge.src for edge in new}

    def outcome(self, metric: float) -> SearchResult:
        return SearchResult(self.tau, tuple(self.kept), self.n_tested, self.n_close, metric)


STEPS = 30  # searches at most for a number of edges
NEAR = 0.02  # a circuit this much smaller than asked for is good enough
CLOSEST = 1.001  # thresholds nearer to each other than this factor are not told apart


def best_of_size(search: Search, max_edges: int, tau: float, clean: float) -> SearchResult | None:
    """The largest circuit found of at most `max_edges` edges; of equal ones the nearest to `clean`.

    Thresholds are halved from `tau` (or doubled, if that is too small) until circuits become too
    large, and then bisected. None if no circuit with an edge is that small.
    """
    low = high = None  # thresholds that kept too many, and few enough
    found: list[SearchResult] = []
    for _ in range(STEPS):
        outcome = search.run(tau, at_most=max_edges)
        if outcome is None:
            low = tau
        else:
            high = tau
            found.append(outcome)
            if len(outcome.circuit) >= max_edges * (1 - NEAR):
                break
        if low is None:
            if tau < CLOSE:
                break  # whatever is cut now, float32 cannot tell
            tau = tau / 2
        elif high is None:
            tau = tau * 2
        elif high / low < CLOSEST:
            break
        else:
            tau = (low * high) ** 0.5
    fitting = [outcome for outcome in found if outcome.circuit]
    return max(fitting, key=lambda one: (len(one.circuit), -abs(one.metric - clean)), default=None)


def _too_many(kept: Sequence[Edge], at_most: int) -> bool:
    """Whether a circuit will have more edges than `at_most`: a path, once there, stays.

    Paths that do not reach the input yet may still come to nothing. Few do: a search that keeps
    twice as many edges and 20 more is given up.
    """
    if len(kept) <= at_most:
        return False
    return len(kept) > 2 * at_most + 20 or len(prune(kept)) > at_most
