"""What labeling needs of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..records.label import LabelResult


class LabelWriter(Protocol):
    """Where a run's label results are stored."""

    @property
    def run_id(self) -> str: ...

    def link_label_results(self, results: Sequence[LabelResult]) -> None:
        """Make stored results of other runs part of this run."""
        ...

    def add_label_results(self, results: Sequence[LabelResult]) -> Sequence[LabelResult]:
        """Store new results.

        Returns:
            For each, the result that is stored now: if another command has answered the question
            in the meantime, its answer is kept.
        """
        ...
