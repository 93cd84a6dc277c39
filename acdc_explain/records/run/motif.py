"""Places where a named pattern matches, and whether there are more of them than by chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import mean, pstdev
from typing import Any

from ...ids import content_id
from ..circuit import Node

MOST_MATCHES = 1000  # of one pattern that are stored with a run; all are counted


@dataclass(frozen=True, slots=True)
class Motif:
    """A place in a run's labeled circuit where a named pattern matches.

    Attributes:
        pattern: The name of the pattern.
        run_id: The run.
        circuit_id: Its circuit.
        nodes: The node of each step. Steps of one name are numbered: `*`, `*.2`.
    """

    pattern: str
    run_id: str
    circuit_id: str
    nodes: Mapping[str, Node]

    @property
    def id(self) -> str:
        """A hash of the content."""
        return content_id("motif", self)


@dataclass(frozen=True, slots=True)
class Enrichment:
    """How often a pattern matches, compared with randomised circuits that have the same labels.

    Attributes:
        found: The matches in the circuit.
        counts: The matches in each of the randomised circuits; of several runs, the sums.
    """

    found: int
    counts: tuple[int, ...]

    @property
    def expected(self) -> float:
        """The mean number of matches in the randomised circuits."""
        return mean(self.counts)

    @property
    def score(self) -> float | None:
        """Standard deviations above the mean; None if all randomised circuits have one count."""
        spread = pstdev(self.counts)
        return (self.found - self.expected) / spread if spread else None

    @property
    def p_value(self) -> float:
        """The probability of as many matches by chance, at least 1 / (1 + number of circuits)."""
        return (1 + sum(n >= self.found for n in self.counts)) / (1 + len(self.counts))

    @staticmethod
    def total(several: Iterable[Enrichment]) -> Enrichment:
        """The enrichment in several circuits together."""
        each = list(several)
        counts = zip(*(enrichment.counts for enrichment in each))
        return Enrichment(sum(enrichment.found for enrichment in each), tuple(map(sum, counts)))


@dataclass(frozen=True, slots=True)
class MotifCount:
    """How often a pattern matches in one run of a task and a model, and in how many runs it does.

    Runs of the same task and model are not independent, so one of them represents all.

    Attributes:
        pattern: The name of the pattern.
        task, model: Their names.
        run: The run that represents all.
        matches: The matches in that run.
        runs: How many runs with labels there are.
        runs_with: In how many of them the pattern matches.
        enrichment: None if it was not computed, or if every randomised circuit has as many matches.
    """

    pattern: str
    task: str
    model: str
    run: str
    matches: int
    runs: int
    runs_with: int
    enrichment: Enrichment | None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        others = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "enrichment"}
        enrichment = self.enrichment
        if enrichment is None:
            return {**others, "enrichment": None}
        score = enrichment.score
        numbers = {
            "found": enrichment.found,
            "expected": round(enrichment.expected, 4),
            "score": None if score is None else round(score, 4),
            "p_value": round(enrichment.p_value, 4),
            "randomised": len(enrichment.counts),
        }
        return {**others, "enrichment": numbers}
