"""Which edges into a port are tested together.

Most edges are cut, and most of these do almost nothing. One gradient estimates the effects of all
candidates of a port to first order (attribution patching, Syed et al. 2023). Neighbours with
estimates of less than SMALL tau are cut together and measured once, and stay cut if the measured
effect is the sum of the estimates, within CLOSE tau. A group that fails is split in two. All other
edges are tested alone, and so is one in AUDIT whatever its estimate.

So every kept edge was tested alone. An edge that is cut in a group could have had an effect of tau
only if its estimate is wrong by most of tau and the errors of the others in its group hide that.
Audited edges show how wrong estimates are: after one that is wrong by more than CLOSE tau, the
other edges into the port are tested alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...records.circuit import Edge, Node
from ...records.graph import Receiver
from .reference import Decision

SMALL = 1 / 4  # of tau: the estimates of edges in groups
CLOSE = 1 / 8  # of tau: how far measured effects may be from the sum of the estimates
MEMBERS = 32  # the most edges of a group
AUDIT = 64
FEWEST = 3  # batches of candidates: for fewer a gradient does not pay
WINDOW = 256  # candidates whose effects one gradient estimates
UNKNOWN = -math.inf  # the estimate of an edge that is tested alone


@dataclass(frozen=True)
class Trial:
    """Consecutive candidates that are cut together and measured once.

    `estimates`: of the candidates' effects; `audit`: whether it could have been in a group.
    """

    start: int
    estimates: tuple[float, ...]
    audit: bool = False

    @property
    def stop(self) -> int:
        """The number after the last candidate's."""
        return self.start + len(self.estimates)

    @property
    def is_group(self) -> bool:
        """Whether several edges are cut together."""
        return len(self.estimates) > 1

    def is_likely_kept(self, tau: float) -> bool:
        """Whether the estimate says that the edge must stay."""
        return not self.is_group and not self.estimates[0] < tau

    def fits(self, effect: float, tau: float) -> bool:
        """Whether a measured effect is what the estimates say."""
        return abs(effect - sum(self.estimates)) < CLOSE * tau

    def cut_unseen(self, senders: Sequence[Node], receiver: Receiver) -> Iterator[Decision]:
        """The decisions to cut the edges of a group."""
        for sender, estimate in zip(senders[self.start : self.stop], self.estimates):
            yield Decision(Edge(sender, *receiver, estimate), False, True)

    def halves(self) -> list[Trial]:
        """The first half of the candidates, and the rest."""
        half = len(self.estimates) // 2
        first, rest = self.estimates[:half], self.estimates[half:]
        return [Trial(self.start, first), Trial(self.start + half, rest)]

    def alone(self) -> list[Trial]:
        """The same candidates, each by itself."""
        return [Trial(self.start + n, (UNKNOWN,)) for n in range(len(self.estimates))]


def trials_of(estimates: Sequence[float], tau: float, first: int) -> Iterator[Trial]:
    """How candidates with these estimated effects are tested, in their order.

    Args:
        estimates: The effects; UNKNOWN for a candidate that is to be tested alone.
        tau: The threshold.
        first: The number of the first candidate among all of the port.
    """
    group: list[float] = []
    for number, estimate in enumerate(estimates, first):
        small = abs(estimate) < SMALL * tau
        audit = small and number % AUDIT == AUDIT // 2
        joins = small and not audit
        if group and (not joins or len(group) == MEMBERS):
            yield Trial(number - len(group), tuple(group))
            group = []
        if joins:
            group.append(estimate)
        else:
            yield Trial(number, (estimate,), audit)
    if group:
        yield Trial(first + len(estimates) - len(group), tuple(group))
