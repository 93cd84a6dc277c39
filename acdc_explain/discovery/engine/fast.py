"""ACDC's question, asked fast and exactly: what is the metric without this edge?

When an edge into a node is tested, everything upstream of the node is clean, every cut edge
carries a constant, and only the node and its kept descendants move, and of those only the ports
that read something that moves, at the rows that can still reach the metric. Several senders are
tested in one batch, each with those before it cut; what follows the first that must stay is asked
again, so that the decisions are those of testing one by one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UserError
from ...models.activations import TOLERANCE, relative_error
from ...models.affine import UnsupportedModel
from ...models.contrast import Contrast
from ...models.layers import Layers
from ...models.model import Model
from ...progress import Progress, silent
from ...records.circuit import Edge, Node
from ...records.graph import Receiver, SearchGraph
from .readout import Readout
from .receiver import ReceiverTest
from .reference import Decision, ReceiverGroup, ReferenceEngine
from .rows import StreamRows
from .state import SearchState

ROWS = 1024  # rows of a node's output in one batch; more would not make them cheaper
FIRST_BATCH = 4


class TooLittleMemory(UserError):
    """The prompts need more than the limit the user set."""


AnyEngine: TypeAlias = "Engine | ReferenceEngine"


def engine_for(
    contrast: Contrast, search_graph: SearchGraph, progress: Progress = silent, name: str = "auto"
) -> AnyEngine:
    """The fast engine where it is exact, else the reference engine, and says so.

    `name`: "fast" and "reference" insist. Raises UserError if the one asked for is not exact.
    """
    trouble = "it was not asked for" if name == "reference" else fast_trouble(contrast)
    if trouble is None:
        return Engine(contrast, search_graph)
    if name == "fast":
        raise UserError(f"The fast engine cannot do {contrast.model.name}: {trouble}.")
    progress("reference engine", 1, 1, f"a forward pass an edge; the fast engine: {trouble}")
    wrong = ReferenceEngine(contrast.take(2)).self_check()
    if wrong is not None:
        raise UserError(f"{contrast.model.name}: cutting edges is not exact: {wrong}.")
    return ReferenceEngine(contrast, search_graph)


_CHECKED: WeakKeyDictionary[Model, str | None] = WeakKeyDictionary()


def fast_trouble(contrast: Contrast) -> str | None:
    """Why the fast engine is not exact for a model, in a few words; None if it is.

    On two examples its logits must be the model's own with nothing cut, the ablated ones with
    everything cut, and the reference engine's with a random half of the edges cut. A loaded
    model is checked once.
    """
    if contrast.model not in _CHECKED:
        _CHECKED[contrast.model] = _check(contrast.take(2))
    return _CHECKED[contrast.model]


def _check(few: Contrast) -> str | None:
    try:
        engine = Engine(few)
    except UnsupportedModel as reason:
        return str(reason)
    reference = ReferenceEngine(few)
    edges = list(engine.search_graph.edges())
    half = random.Random(0).sample(edges, len(edges) // 2)
    checks: tuple[tuple[str, Sequence[Edge], Tensor], ...] = (
        ("nothing", edges, few.clean_run.logits),
        ("everything", [], few.ablated_logits),
        ("half of the edges", half, reference.logits(reference.cut_except(half))),
    )
    for what, kept, expected in checks:
        error = relative_error(engine.logits(kept), expected)
        if not error <= TOLERANCE:
            return f"its logits with {what} cut are off by {error:.1g} (relative)"
    return None


class Engine:
    """Exact ACDC decisions for the families of transformers that `layers` takes apart."""

    name = "fast"

    def __init__(self, contrast: Contrast, search_graph: SearchGraph | None = None) -> None:
        """Raises UnsupportedModel, and TooLittleMemory for the contrast's limit."""
        self.contrast = contrast
        self.search_graph = search_graph or SearchGraph(contrast.model.graph)
        with torch.no_grad():
            layers = Layers.of(contrast.model)
            self.stream_rows = StreamRows(contrast, self.search_graph, layers)
            self.readout = Readout(contrast, layers)
        self.free = contrast.memory * 1e9 - self.stream_rows.bytes
        if self.free <= 0:
            raise TooLittleMemory(
                "What the nodes write on these prompts takes "
                f"{self.stream_rows.bytes / 1e9:.1f} GB; "
                f"raise --memory ({contrast.memory:g} GB) or lower --examples."
            )
        self.load((), ())

    # --- the state -----------------------------------------------------------------------------

    @torch.no_grad()
    def load(self, decided: Iterable[Node], kept: Iterable[Edge]) -> None:
        """Stand where all edges into the `decided` nodes are cut but the `kept` ones.

        `kept` comes in the order of the search. `metric` is then that of these cuts.
        """
        self.state = SearchState(self.stream_rows, self.search_graph)
        for edge in kept:
            self.state.keep(edge)
        numbers = {
            self.stream_rows.number(member)
            for node in decided
            for member in self.search_graph.members(node)
        }
        if not numbers:
            self.metric = self.contrast.clean_metric
            return
        self._settle(number for number in numbers if number != self.stream_rows.logits)

    def _settle(self, nodes: Iterable[int]) -> None:
        """Compute anew what these nodes write, and the metric."""
        self.state.refresh(sorted(node for node in nodes if node in self.state.alive))
        (self.metric,) = self._metrics(self.state.final[None])

    def _metrics(self, final: Float[Tensor, "candidate batch d_model"]) -> list[float]:
        found: list[float] = self.readout(final).double().mean(1).tolist()
        return found

    def measure(self, kept: Iterable[Edge]) -> float:
        """The metric of a circuit: everything cut but these edges."""
        order = {
            group[0][0].base: place for place, group in enumerate(self.search_graph.receiver_groups)
        }
        self.load(list(order), sorted(kept, key=lambda edge: order[edge.dst.base]))
        return self.metric

    @torch.no_grad()
    def logits(self, kept: Iterable[Edge]) -> Float[Tensor, "batch vocab"]:
        """The logits at the last token with everything cut but these edges."""
        self.measure(kept)
        return self.readout.logits(self.state.final)

    # --- deciding ------------------------------------------------------------------------------

    def drop(self, receivers: Sequence[Receiver]) -> None:
        """What nothing kept reads is not computed at all."""

    @torch.no_grad()
    def decide(self, group: ReceiverGroup, tau: float) -> list[Decision]:
        """Decide the edges into one node in turn; those not from the given senders are cut."""
        receiver_test = ReceiverTest(self.state, group[0][0][0])
        decisions: list[Decision] = []
        for receiver, senders in group:
            receiver_test.open(receiver)
            others = set(self.search_graph.senders(receiver[0])) - set(senders)
            if others:
                change = self._changes([tuple(others)], receiver_test.rows)
                (self.metric,) = self._test(receiver_test, change)
                receiver_test.accept(change[0])
            decisions += self._decide(receiver_test, receiver, senders, tau)
            receiver_test.close()
        self._settle(receiver_test.moved)
        return decisions

    def _decide(
        self, receiver_test: ReceiverTest, receiver: Receiver, senders: Sequence[Node], tau: float
    ) -> Iterator[Decision]:
        start, size, most = 0, FIRST_BATCH, self._most(receiver_test)
        while start < len(senders):
            size = min(size, most)
            batch = senders[start : start + size]
            changes = self._changes([(sender,) for sender in batch], receiver_test.rows).cumsum_(0)
            cut = 0
            for sender, metric in zip(batch, self._test(receiver_test, changes)):
                edge = Edge(sender, *receiver, self.contrast.sign * (self.metric - metric))
                if not edge.effect < tau:
                    self.state.keep(edge)
                    yield Decision(edge, True)
                    break
                self.metric = metric
                cut += 1
                yield Decision(edge, False)
            if cut:
                receiver_test.accept(changes[cut - 1])
            start += min(cut + 1, len(batch))
            size = 2 * size if cut == len(batch) else max(2, cut)

    def _most(self, receiver_test: ReceiverTest) -> int:
        """How many candidates a batch may hold."""
        most = ROWS // max(1, receiver_test.widest)
        prompts, width = self.stream_rows.n_prompts, self.stream_rows.change.shape[-1]
        numbers = (2 * receiver_test.n_rows + 4 * receiver_test.widest + prompts) * width
        if self.readout.n_columns:
            numbers += 3 * prompts * self.readout.n_columns
            most = min(most, 128 // prompts)
        return max(
            1, min(most, int(self.free // (numbers * self.stream_rows.change.element_size())))
        )

    def _test(self, receiver_test: ReceiverTest, changes: Tensor) -> list[float]:
        """The metric for each candidate."""
        final = receiver_test.run(changes) if len(receiver_test.rows) else None
        return [self.metric] * len(changes) if final is None else self._metrics(final)

    def _changes(
        self, cuts: Sequence[Sequence[Node]], rows: Tensor
    ) -> Float[Tensor, "cut row d_model"]:
        """What cutting the edges from each of these sets of senders adds to what a port reads."""
        columns = [
            [c for sender in senders for c in self.search_graph.columns(sender)] for senders in cuts
        ]
        change = self.stream_rows.change
        return torch.stack(
            [change[one[0]][rows] if len(one) == 1 else change[one].sum(0)[rows] for one in columns]
        )
