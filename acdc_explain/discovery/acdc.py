"""ACDC (Conmy et al. 2023): from the output back, cut every edge without which the metric holds.

A trace lists the effects of the tested edges, in order. All decisions follow from a trace and a
threshold. A search that was stopped therefore continues from its trace, and a search with another
threshold takes over every decision up to the first that differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from ..models.contrast import Contrast
from ..models.network.hooks import Hook, Point
from ..models.network.precision import FLOAT32_NOISE, ROUNDINGS, is_half, rounded
from ..records.circuit import LOGITS, Edge, Node
from ..records.graph import Receiver, SearchGraph, prune
from .engine.groups import SMALL
from .engine.reference import Decision, ReceiverGroup

SAVE_SECONDS = 5.0  # between two checkpoints


class Decider(Protocol):
    """What a search needs of an engine; see `ReferenceEngine` for what the methods do."""

    @property
    def search_graph(self) -> SearchGraph: ...

    @property
    def metric(self) -> float: ...

    def load(self, decided: Sequence[Node], kept: Sequence[Edge]) -> None: ...

    def decide(self, group: ReceiverGroup, tau: float) -> list[Decision]: ...

    def drop(self, receivers: Sequence[Receiver]) -> None: ...


def metric_noise(contrast: Contrast) -> float:
    """Effects that differ by less cannot be told apart.

    In float32 that is 1e-6. In half precision it is measured: the largest change of the mean
    metric when the first stream is rounded in other ways.
    """
    if not is_half(contrast.model.dtype):
        return FLOAT32_NOISE
    changes = []
    for seed in ROUNDINGS:
        hook: Hook = (Point("input"), partial(rounded, seed=seed))
        logits = contrast.model.forward(contrast.clean, [hook])
        changes.append(abs(float(contrast.metric(logits).mean()) - contrast.clean_metric))
    return max(changes)


@dataclass
class Trace:
    """The effects measured with one threshold: the checkpoint of a search.

    `effects` has a list for every node whose edges were tested, in the order of the search.
    `estimated`: as many lists, of the places in `effects` that are estimates; none before.
    """

    tau: float
    effects: list[list[float]]
    estimated: list[list[int]] = field(default_factory=list)

    def n_agreeing(self, tau: float) -> int:
        """The number of nodes, from the first, with the same decisions for another threshold."""
        if tau == self.tau:
            return len(self.effects)
        for number, effects in enumerate(self.effects):
            if any((effect < tau) != (effect < self.tau) for effect in effects):
                return number
            estimates = self.estimated[number] if number < len(self.estimated) else ()
            if any(not abs(effects[place]) < SMALL * tau for place in estimates):
                return number
        return len(self.effects)

    def first(self, n: int, tau: float) -> Trace:
        """The effects of the first `n` nodes as those of another threshold."""
        return Trace(tau, self.effects[:n], self.estimated[:n])

    def add(self, decisions: Sequence[Decision]) -> None:
        """Add the effects of the edges into a node."""
        missing = len(self.effects) - len(self.estimated)  # in what an earlier version stored
        places = [place for place, decision in enumerate(decisions) if decision.estimated]
        self.estimated += [*([[]] * missing), places]
        self.effects.append([decision.edge.effect for decision in decisions])


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for one threshold. `kept` is in the order of the decisions."""

    tau: float
    kept: tuple[Edge, ...]
    n_tested: int
    n_close: int  # effects nearer to tau than the noise: they could as well be on the other side
    metric: float
    n_in_groups: int  # edges that were cut in groups, as `engine/groups.py` says

    @property
    def circuit(self) -> list[Edge]:
        """The kept edges on a path from the input; the others carry what a cut edge carries."""
        return prune(self.kept)


class Search:
    """Searches for several thresholds, with one engine and order, that share measurements."""

    def __init__(
        self,
        engine: Decider,
        report: Callable[[int, int, SearchResult], None],
        *,
        traces: Sequence[Trace] = (),
        save: Callable[[Sequence[Trace]], None] = lambda traces: None,
        screen: Set[Edge] | None = None,
        noise: float = FLOAT32_NOISE,
    ) -> None:
        """Prepare searches.

        Args:
            engine: Measures and decides.
            report: Called with the number of edges decided, their total, and the result so far.
            traces: Of earlier searches with the same graph, order and screen.
            save: Called with all traces every few seconds and at the end of a search.
            screen: The only edges to test; all others are cut. None: test all.
            noise: Decisions whose effects are nearer to tau than this are counted as too close.
        """
        self.engine, self.search_graph = engine, engine.search_graph
        self.report, self.save, self.screen, self.noise = report, save, screen, noise
        self.traces = list(traces)
        self._saved = time.monotonic()

    def run(self, tau: float, at_most: int | None = None) -> SearchResult | None:
        """Decide every edge.

        Args:
            tau: An edge whose cut worsens the metric by less is cut.
            at_most: Give up when the circuit will have more edges than this.

        Returns:
            The result; None if the search was given up.
        """
        try:
            return self._run(self._trace(tau), at_most)
        finally:  # an interrupted search continues from these
            self.save(self.traces)

    def _run(self, trace: Trace, at_most: int | None) -> SearchResult | None:
        decisions = _Decisions(trace.tau, self.noise)
        n_measured = n_tested = 0  # nodes
        for receivers in self.search_graph.receiver_groups:
            group = self._to_test(receivers, decisions.read)
            if not group:
                if n_measured:
                    self.engine.drop(receivers)
            elif n_tested < len(trace.effects):
                decisions.add(_replay(group, trace.effects[n_tested], trace.tau))
                n_tested += 1
            else:
                if not n_measured:
                    self.engine.load(decisions.nodes, decisions.kept)
                new = self.engine.decide(group, trace.tau)
                trace.add(new)
                decisions.add(new)
                n_tested += 1
                n_measured += 1
                self._save_if_due()
            decisions.nodes.append(receivers[0][0].base)
            decisions.n_edges += sum(len(self.search_graph.senders(node)) for node, _ in receivers)
            if n_measured:
                result = decisions.result(self.engine.metric)
                self.report(decisions.n_edges, self.search_graph.n_edges, result)
            if at_most is not None and _too_many(decisions.kept, at_most):
                return None
        if not n_measured:
            self.engine.load(decisions.nodes, decisions.kept)
        return decisions.result(self.engine.metric)

    def _trace(self, tau: float) -> Trace:
        """The trace of this threshold, begun with the decisions of the one most like it."""
        for trace in self.traces:
            if trace.tau == tau:
                return trace
        best = max(self.traces, key=lambda trace: trace.n_agreeing(tau), default=None)
        trace = best.first(best.n_agreeing(tau), tau) if best else Trace(tau, [])
        self.traces.append(trace)
        return trace

    def _to_test(self, receivers: Sequence[Receiver], read: Set[Node]) -> ReceiverGroup:
        """The senders to test for each port of a node; empty if no kept edge leaves the node."""
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

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save(self.traces)
            self._saved = time.monotonic()


def _is_read(receiver: Receiver, read: Set[Node]) -> bool:
    """Whether a kept edge depends on a port. Keys and values are read at all later places."""
    node, port = receiver
    if port in ("k", "v"):
        return any(other.base == node.base for other in read)
    return node in read


def _replay(group: ReceiverGroup, effects: Sequence[float], tau: float) -> list[Decision]:
    """The decisions that follow from effects measured before."""
    edges = [Edge(sender, *receiver) for receiver, senders in group for sender in senders]
    return [
        Decision(replace(edge, effect=effect), not effect < tau)
        for edge, effect in zip(edges, effects, strict=True)
    ]


class _Decisions:
    """The decisions of a search so far: about `n_edges` edges into `nodes`."""

    def __init__(self, tau: float, noise: float) -> None:
        self.tau, self.noise = tau, noise
        self.kept: list[Edge] = []
        self.read: set[Node] = {LOGITS}  # nodes with a kept outgoing edge
        self.nodes: list[Node] = []
        self.n_edges = self.n_tested = self.n_close = self.n_in_groups = 0

    def add(self, decisions: Sequence[Decision]) -> None:
        self.n_tested += len(decisions)
        self.n_close += sum(abs(d.edge.effect - self.tau) < self.noise for d in decisions)
        self.n_in_groups += sum(d.estimated for d in decisions)
        new = [decision.edge for decision in decisions if decision.kept]
        self.kept += new
        self.read |= {edge.src for edge in new}

    def result(self, metric: float) -> SearchResult:
        return SearchResult(
            self.tau, tuple(self.kept), self.n_tested, self.n_close, metric, self.n_in_groups
        )


STEPS = 30  # the most searches for a number of edges
NEAR = 0.02  # a circuit may be smaller than requested by this share
CLOSEST = 1.001  # the bisection ends when two thresholds differ by less than this factor


def best_of_size(search: Search, max_edges: int, tau: float, clean: float) -> SearchResult | None:
    """The largest circuit of at most `max_edges` edges, by a search for the threshold.

    The threshold is halved from `tau` (or doubled, if that keeps too many edges) until one keeps
    too many and another few enough, and then bisected.

    Args:
        search: Runs each threshold.
        max_edges: The most edges that the circuit may have.
        tau: The first threshold.
        clean: The clean metric. Of circuits of equal size the one nearest to it is chosen.

    Returns:
        The result; None if no circuit with an edge is that small.
    """
    low = high = None  # thresholds that kept too many edges, and few enough
    results: list[SearchResult] = []
    for _ in range(STEPS):
        result = search.run(tau, at_most=max_edges)
        if result is None:
            low = tau
        else:
            high = tau
            results.append(result)
            if len(result.circuit) >= max_edges * (1 - NEAR):
                break
        if low is None:
            if tau < search.noise:
                break  # a smaller threshold is beyond the precision
            tau = tau / 2
        elif high is None:
            tau = tau * 2
        elif high / low < CLOSEST:
            break
        else:
            tau = (low * high) ** 0.5
    return max(
        (result for result in results if result.circuit),
        key=lambda result: (len(result.circuit), -abs(result.metric - clean)),
        default=None,
    )


def _too_many(kept: Sequence[Edge], at_most: int) -> bool:
    """Whether a circuit will have more edges than `at_most`.

    Edges on a path from the input to the logits stay in the circuit. The others may still turn out
    to be on no path, but few do: a search that keeps twice as many edges and 20 more is given up.
    """
    if len(kept) <= at_most:
        return False
    return len(kept) > 2 * at_most + 20 or len(prune(kept)) > at_most
