"""Places where a named pattern matches, and whether they are more than chance makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import mean, pstdev
from typing import Any

from ...ids import content_id
from ..circuit import Node

MOST_MATCHES = 1000  # places of one pattern that are kept with a run; all are counted


@dataclass(frozen=True, slots=True)
class Motif:
    """A place in a run's labeled circuit where a named pattern matches.

    `nodes` maps each step (numbered where a step occurs twice: `*`, `*.2`) to its node.
    """

    pattern: str
    run_id: str
    circuit_id: str
    nodes: Mapping[str, Node]

    @property
    def id(self) -> str:
        return content_id("motif", self)


@dataclass(frozen=True, slots=True)
class Enrichment:
    """How often a pattern matches, beside randomised circuits with the same labels.

    `counts`: the matches in each of the randomised circuits; of several runs, the sums.
    """

    found: int
    counts: tuple[int, ...]

    @property
    def expected(self) -> float:
        return mean(self.counts)

    @property
    def score(self) -> float | None:
        """How many standard deviations above the mean; None where no exchange changes the count."""
        spread = pstdev(self.counts)
        return (self.found - self.expected) / spread if spread else None

    @property
    def p_value(self) -> float:
        """The chance of as many matches; never less than the number of circuits can tell."""
        return (1 + sum(n >= self.found for n in self.counts)) / (1 + len(self.counts))

    @staticmethod
    def total(several: Iterable[Enrichment]) -> Enrichment:
        """Of several circuits together."""
        each = list(several)
        return Enrichment(
            sum(one.found for one in each), tuple(map(sum, zip(*(one.counts for one in each))))
        )


@dataclass(frozen=True, slots=True)
class MotifCount:
    """A pattern in the run that speaks for a task and a model, and in how many of their runs.

    Runs of one task and model are no independent witnesses: each pair has one vote.
    `enrichment`: None where it was not asked for, or where chance always makes as many.
    """

    pattern: str
    task: str
    model: str
    run: str
    matches: int
    runs: int  # with labels
    runs_with: int
    enrichment: Enrichment | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        found = self.enrichment
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "enrichment"}
        if found is None:
            return {**known, "enrichment": None}
        told = {
            "found": found.found,
            "expected": round(found.expected, 4),
            "score": None if found.score is None else round(found.score, 4),
            "p_value": round(found.p_value, 4),
            "randomised": len(found.counts),
        }
        return {**known, "enrichment": told}
