"""The fast engine: the same decisions as the reference engine, for less work.

When an edge into a node is tested, everything upstream of the node is clean and every cut edge
carries a constant. Only the node and its kept descendants change; of those, only the ports that
read something that changes; and of those, only the rows that can still reach the metric. Several
senders are tested in one batch, each with those before it cut as well. Those after the first edge
that must stay are tested again, so the decisions are those of testing one edge at a time. Edges
that surely do little may be cut in groups (see `groups`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UserError
from ...models.contrast import Contrast
from ...models.functional.layers import Layers
from ...records.circuit import Edge, Node
from ...records.graph import Receiver, SearchGraph
from .groups import FEWEST, MEMBERS, SMALL, UNKNOWN, WINDOW, Trial, trials_of
from .readout import Readout
from .receiver import ReceiverTest
from .recompute import Recomputation, rescale_of
from .reference import Decision, ReceiverGroup
from .rows import Rows, StreamRows
from .state import SearchState

ROWS = 1024  # rows of a node's output in one batch; more would not make them cheaper
FIRST_BATCH = 4  # candidates


class TooLittleMemory(UserError):
    """The prompts need more memory than `memory=` allows."""


class Engine:
    """Exact ACDC decisions for models whose layers `models/functional` can compute."""

    name = "fast"

    def __init__(
        self,
        contrast: Contrast,
        search_graph: SearchGraph | None = None,
        *,
        in_groups: bool = False,
    ) -> None:
        """Prepare to decide.

        Args:
            contrast: The model on clean and corrupted prompts.
            search_graph: The edges; those between heads and MLPs by default.
            in_groups: Whether edges may be cut in groups, as `groups` says.

        Raises:
            UnsupportedModel: The model has a part that is not known here.
            TooLittleMemory: The prompts take more memory than the contrast allows.
        """
        self.contrast, self.in_groups = contrast, in_groups
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
                f"raise `memory=` ({contrast.memory:g} GB) or lower `examples=`."
            )
        self.load((), ())

    # --- the state -----------------------------------------------------------------------------

    @torch.no_grad()
    def load(self, decided: Iterable[Node], kept: Iterable[Edge]) -> None:
        """Cut all edges into the `decided` nodes except the `kept` ones, and no others.

        `kept` must be in the order of the search. Sets `metric` to that with these cuts.
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
        self._refresh(number for number in numbers if number != self.stream_rows.logits)

    def _refresh(self, nodes: Iterable[int]) -> None:
        """Recompute what these nodes write, and the metric."""
        self.state.refresh(sorted(node for node in nodes if node in self.state.alive))
        (self.metric,) = self._metrics(self.state.final[None])

    def _metrics(self, final: Float[Tensor, "candidate batch d_model"]) -> list[float]:
        metrics: list[float] = self.readout(final).double().mean(1).tolist()
        return metrics

    def measure(self, kept: Iterable[Edge]) -> float:
        """The metric of a circuit: every edge cut except these."""
        groups = self.search_graph.receiver_groups
        order = {group[0][0].base: number for number, group in enumerate(groups)}
        self.load(list(order), sorted(kept, key=lambda edge: order[edge.dst.base]))
        return self.metric

    @torch.no_grad()
    def logits(self, kept: Iterable[Edge]) -> Float[Tensor, "batch vocab"]:
        """The logits at the last token with every edge cut except these."""
        self.measure(kept)
        return self.readout.logits(self.state.final)

    # --- deciding ------------------------------------------------------------------------------

    @torch.no_grad()
    def drop(self, receivers: Sequence[Receiver]) -> None:
        """Cut all edges into the ports of a node that no kept edge leaves.

        Such a node is never computed, unless a norm after the heads of its layer reads it.
        """
        members = self.search_graph.members(receivers[0][0])
        heads = {number for number in map(self.stream_rows.number, members) if self._scales(number)}
        if heads:
            one = min(heads)
            masks = {head: self.state.alive[head] for head in heads}
            rescale = rescale_of(self.state, masks)
            assert rescale is not None
            after = Recomputation(self.state, dict.fromkeys(rescale.written or [one], rescale.mask))
            self._refresh(heads | (after.nodes - {self.stream_rows.logits}))

    def _scales(self, number: int) -> bool:
        """Whether a node is a head whose layer has a norm after it and a head that is read."""
        return number in self.state.alive and self.state.post.has(number)

    @torch.no_grad()
    def decide(self, group: ReceiverGroup, tau: float) -> list[Decision]:
        """Decide the edges into one node; cut those whose senders are not in `group`."""
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
        self._refresh(receiver_test.outdated)
        return decisions

    def _decide(
        self, receiver_test: ReceiverTest, receiver: Receiver, senders: Sequence[Node], tau: float
    ) -> Iterator[Decision]:
        """Decide the edges from some senders into a port, in groups as `groups` says, or alone."""
        size, start, trials = FIRST_BATCH, 0, deque[Trial]()
        largest = self._largest_batch(receiver_test)
        in_groups = self.in_groups and len(senders) > FEWEST * largest
        while start < len(senders):
            if not trials:
                window = senders[start : start + WINDOW]
                estimates = [UNKNOWN] * len(window)
                if in_groups and len(receiver_test.rows):
                    estimates = self._estimates(receiver_test, window, tau)
                trials.extend(trials_of(estimates, tau, start))
            batch = list(islice(trials, min(size, largest)))
            n_foreseen, trusted = 0, True
            for trial, effect, cut in self._try(receiver_test, senders, batch, tau):
                trials.popleft()
                n_foreseen += cut != trial.is_likely_kept(tau)
                if trial.is_group and not cut:
                    trials.extendleft(reversed(trial.halves()))
                    continue
                start = trial.stop
                if trial.is_group:
                    yield from trial.cut_unseen(senders, receiver)
                    continue
                edge = Edge(senders[trial.start], *receiver, effect)
                if not cut:
                    self.state.keep(edge)
                yield Decision(edge, not cut)
                trusted &= not trial.audit or trial.fits(effect, tau)
            if not trusted:
                in_groups = False
                trials = deque(one for left in trials for one in left.alone())
            size = 2 * size if n_foreseen == len(batch) else max(2, n_foreseen)

    def _try(
        self,
        receiver_test: ReceiverTest,
        senders: Sequence[Node],
        batch: Sequence[Trial],
        tau: float,
    ) -> Iterator[tuple[Trial, float, bool]]:
        """Trials with their measured effects and whether the edges are cut, in one batch.

        Each is measured as if those before it had gone as expected; the first that has not is the
        last.
        """
        cuts = [senders[trial.start : trial.stop] for trial in batch]
        changes = self._changes(cuts, receiver_test.rows)
        base = accepted = None
        for trial, change in zip(batch, changes):
            if base is not None:
                change += base
            if not trial.is_likely_kept(tau):
                base = change
        for trial, change, metric in zip(batch, changes, self._test(receiver_test, changes)):
            effect = self.contrast.sign * (self.metric - metric)
            cut = trial.fits(effect, tau) if trial.is_group else effect < tau
            if cut:
                self.metric, accepted = metric, change
            yield trial, effect, cut
            if cut == trial.is_likely_kept(tau):
                break
        if accepted is not None:
            receiver_test.accept(accepted)

    def _estimates(
        self, receiver_test: ReceiverTest, senders: Sequence[Node], tau: float
    ) -> list[float]:
        """The effects of cutting edges now, to first order: before and after those of small effect.

        The mean of the two estimates if both are small, else the larger.
        """
        before, offset = [], torch.zeros_like(self.state.deviation[:1, : len(receiver_test.rows)])
        for changes, effects in self._first_order(receiver_test, senders, offset):
            offset += changes[effects.abs() < SMALL * tau].sum(0)
            before.append(effects)
        after = [effects for _, effects in self._first_order(receiver_test, senders, offset)]
        both = torch.stack([torch.cat(before), torch.cat(after)])
        larger = both.gather(0, both.abs().argmax(0, keepdim=True))[0]
        small = (both.abs() < SMALL * tau).all(0)
        estimates: list[float] = torch.where(small, both.mean(0), larger).tolist()
        return estimates

    def _first_order(
        self, receiver_test: ReceiverTest, senders: Sequence[Node], offset: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Some at a time, what cutting edges changes [some row d_model] and its effects [some]."""
        gradient = self._gradient(receiver_test, offset)
        for at in range(0, len(senders), MEMBERS):
            changes = self._changes([(s,) for s in senders[at : at + MEMBERS]], receiver_test.rows)
            yield changes, -self.contrast.sign * (changes.flatten(1) @ gradient.flatten())

    def _gradient(
        self, receiver_test: ReceiverTest, change: Float[Tensor, "1 row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """The gradient of the mean metric in what a port reads, where that is changed."""
        with torch.enable_grad():
            probe = change.clone().requires_grad_()
            final = receiver_test.run(probe)
            if final is None:  # nothing that these edges change reaches the logits
                return torch.zeros_like(change[0])
            (gradient,) = torch.autograd.grad(self.readout(final).double().mean(), probe)
        return gradient[0]

    def _largest_batch(self, receiver_test: ReceiverTest) -> int:
        """How many candidates a batch may hold, by rows and by memory."""
        largest = ROWS // max(1, receiver_test.widest)
        prompts, width = self.stream_rows.n_prompts, self.state.deviation.shape[-1]
        numbers = (2 * receiver_test.n_rows + 4 * receiver_test.widest + prompts) * width
        if self.readout.n_columns:
            numbers += 3 * prompts * self.readout.n_columns
            largest = min(largest, 128 // prompts)
        size = numbers * self.state.deviation.element_size()
        return max(1, min(largest, int(self.free // size)))

    def _test(self, receiver_test: ReceiverTest, changes: Tensor) -> list[float]:
        """The metric for each candidate change of what the port reads."""
        final = receiver_test.run(changes) if len(receiver_test.rows) else None
        return [self.metric] * len(changes) if final is None else self._metrics(final)

    def _changes(
        self, cuts: Sequence[Sequence[Node]], rows: Rows
    ) -> Float[Tensor, "cut row d_model"]:
        """What cutting the edges from each of these sets of senders adds to a port's input.

        The senders are not decided yet, so they still write what they write on clean prompts.
        """
        columns = [
            [c for sender in senders for c in self.search_graph.columns(sender)] for senders in cuts
        ]
        deviation, on_device = self.state.deviation, self.stream_rows.on_device
        index = on_device(rows)
        if all(len(one) == 1 for one in columns):
            senders = on_device(torch.tensor([one[0] for one in columns]))
            return deviation[senders[:, None], index].neg_()
        each = [deviation[on_device(torch.tensor(one))[:, None], index].sum(0) for one in columns]
        return torch.stack(each).neg_()
