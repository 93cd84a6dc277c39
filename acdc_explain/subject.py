"""A model on the examples of a task: what every discoverer, collector and judge works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import UserError
from .metrics import LOWER_IS_BETTER, Targets, TokenSets, metric_named
from .model import Model, Replay, Run
from .task import Example, Task

T = TypeVar("T")


class Subject:
    """A model, some examples of a task and a metric, with the clean and corrupted runs cached."""

    def __init__(
        self, model: Model, task: Task, examples: Sequence[Example], metric: str | None = None
    ) -> None:
        self.model = model
        self.task = task
        self.examples = tuple(examples)
        self.metric_name = metric or task.metric
        self._metric = metric_named(self.metric_name)
        if self.metric_name == "logit_diff" and any(not e.foils for e in self.examples):
            raise UserError(
                f"Metric 'logit_diff' compares answers with foils, and task {task.name!r} has "
                "examples without foils; add some, or use --metric kl, nll or prob_diff."
            )
        self._memory: dict[str, Any] = {}
        self.clean = model.batch([example.clean for example in self.examples])
        self.corrupt = model.batch([example.corrupt for example in self.examples])

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def clean_run(self) -> Run:
        return self.model.run(self.clean)

    @cached_property
    def corrupt_run(self) -> Run:
        return self.model.run(self.corrupt)

    @cached_property
    def replay(self) -> Replay:
        return self.model.record_blocks(self.clean)

    @cached_property
    def answers(self) -> TokenSets:
        return self._tokens([example.answers for example in self.examples])

    @cached_property
    def foils(self) -> TokenSets:
        return self._tokens([example.foils for example in self.examples])

    def _tokens(self, sets: Sequence[Sequence[str]]) -> TokenSets:
        ids = [[self.model.single(word) for word in words] for words in sets]
        return TokenSets.of(ids, self.model.device)

    @cached_property
    def targets(self) -> Targets:
        return Targets(self.answers, self.foils, self.clean_run.logits)

    def metric(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
        """One number per example; differentiable."""
        return self._metric(logits, self.targets)

    @property
    def sign(self) -> int:
        """1 where a higher metric is better, -1 where a lower one is."""
        return -1 if self.metric_name in LOWER_IS_BETTER else 1

    @cached_property
    def clean_metric(self) -> float:
        return float(self.metric(self.clean_run.logits).mean())

    @cached_property
    def corrupt_metric(self) -> float:
        return float(self.metric(self.corrupt_run.logits).mean())

    @cached_property
    def direction(self) -> Float[Tensor, "batch d_model"]:
        """Unembedding of the answers minus that of the foils, averaged over each set."""
        columns = self.model.unembedding.T  # [vocab d_model]

        def mean(sets: TokenSets) -> Tensor:
            present = sets.present[..., None].to(columns.dtype)
            return (columns[sets.ids] * present).sum(1) / present.sum(1).clamp_min(1)

        return mean(self.answers) - mean(self.foils)

    @cached_property
    def position_names(self) -> tuple[str, ...]:
        """The names that every example gives a position, in the order of the first example."""
        names = list(self.examples[0].positions)
        return tuple(n for n in names if all(n in e.positions for e in self.examples))

    def position(self, name: str) -> Tensor:
        """Token index of a named position in each example, counted with the model's prefix."""
        offset = len(self.model.prefix)
        places = [example.positions[name] + offset for example in self.examples]
        return torch.tensor(places, device=self.model.device)

    def remember(self, what: str, compute: Callable[[], T]) -> T:
        """The result of an experiment, computed at most once."""
        if what not in self._memory:
            self._memory[what] = compute()
        found: T = self._memory[what]
        return found

    def take(self, n: int) -> Subject:
        """The first `n` examples."""
        return Subject(self.model, self.task, self.examples[:n], self.metric_name)
