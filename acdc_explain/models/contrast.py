"""A model on the examples of a task: what every discoverer, collector and judge works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UserError
from ..records.graph import END, PLACE, REST
from ..records.task import Example, Task, shared_positions
from .metrics import LOWER_IS_BETTER, Targets, TokenSets, metric_named
from .model import Activations, Model, Replay
from .options import DEFAULT_MEMORY, Ablation

T = TypeVar("T")


class Checkpoints(Protocol):
    """Pages of JSON that outlive the process."""

    def read(self, page: str) -> Any: ...

    def write(self, page: str, content: Any) -> None: ...


class NoCheckpoints:
    """Pages that nobody keeps."""

    def read(self, page: str) -> Any:
        return None

    def write(self, page: str, content: Any) -> None:
        pass


class Contrast:
    """A model, some examples of a task and a metric, with the clean and corrupted runs cached."""

    def __init__(
        self,
        model: Model,
        task: Task,
        examples: Sequence[Example],
        metric: str | None = None,
        ablation: Ablation = "corrupt",
        *,
        checkpoints: Checkpoints | None = None,
        memory: float = DEFAULT_MEMORY,
    ) -> None:
        """`checkpoints`: where long searches note how far they are; `memory`: gigabytes for them."""
        self.model = model
        self.task = task
        self.ablation = ablation
        self.examples = tuple(examples)
        self.metric_name = metric or task.metric
        self._metric = metric_named(self.metric_name)
        if self.metric_name == "logit_diff" and any(not e.foils for e in self.examples):
            raise UserError(
                f"Metric 'logit_diff' compares answers with foils, and task {task.name!r} has "
                "examples without foils; add some, or use another `metric=`: kl, nll or prob_diff."
            )
        self.checkpoints: Checkpoints = checkpoints or NoCheckpoints()
        self.memory = memory
        self._remembered: dict[str, Any] = {}
        self._of_clean: dict[Any, Any] = {}  # what other corruptions of the prompts leave alone
        self.clean = model.batch([example.clean for example in self.examples])
        self.corrupt = model.batch([example.corrupt for example in self.examples])

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def clean_run(self) -> Activations:
        return self.model.run(self.clean)

    @cached_property
    def corrupt_run(self) -> Activations:
        return self.model.run(self.corrupt)

    # --- what a cut edge carries ---------------------------------------------------------------

    @cached_property
    def ablated(self) -> Float[Tensor, "writer batch pos d_model"]:
        """What the nodes write when ablated: on the corrupted prompts, its mean, or nothing."""
        corrupt = self.corrupt_run.writers
        if self.ablation == "zero":
            return torch.zeros_like(corrupt)
        if self.ablation == "mean":
            mean = corrupt[:, self.within].mean(1)
            return mean[:, None, None].expand_as(corrupt)
        return corrupt

    @property
    def within(self) -> Bool[Tensor, "batch pos"]:
        """The prompts' own tokens and those before them, without padding."""
        places = torch.arange(self.clean.tokens.shape[1], device=self.clean.end.device)
        return places <= self.clean.end[:, None]

    @cached_property
    def ablated_logits(self) -> Float[Tensor, "batch vocab"]:
        """The logits with every edge cut."""
        if self.ablation == "corrupt":
            return self.corrupt_run.logits
        final = self.clean.at_end(self.ablated.sum(0)) + self.model.output_biases
        return self.model.unembed(final)

    @cached_property
    def first_change(self) -> Int[Tensor, "batch"]:
        """The first token of each prompt at which a cut can change anything."""
        if self.ablation != "corrupt":
            return torch.zeros_like(self.clean.end)
        differs = self.clean.tokens != self.corrupt.tokens
        places = torch.arange(differs.shape[1], device=differs.device)
        last = self.clean.end[:, None].expand(differs.shape)
        return torch.where(differs, places, last).amin(1)

    @cached_property
    def replay(self) -> Replay:
        return self.model.record_blocks(self.clean)

    @cached_property
    def corrupt_replay(self) -> Replay:
        return self.model.record_blocks(self.corrupt)

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
        return Targets(self.answers, self.foils, lambda: self.clean_run.logits)

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
        """With every edge cut: on the corrupted prompts, unless the ablation is another."""
        return float(self.metric(self.ablated_logits).mean())

    @cached_property
    def direction(self) -> Float[Tensor, "batch d_model"]:
        """Unembedding of the answers minus that of the foils, averaged over each set."""
        columns = self.model.unembedding.T  # [vocab d_model]

        def mean(sets: TokenSets) -> Tensor:
            present = sets.present[..., None].to(columns.dtype)
            return (columns[sets.ids] * present).sum(1) / present.sum(1).clamp_min(1)

        return mean(self.answers) - mean(self.foils)

    @property
    def position_names(self) -> tuple[str, ...]:
        return shared_positions(self.examples)

    def position(self, name: str) -> Tensor:
        """Token index of a named position in each example, counted with the model's prefix."""
        offset = len(self.model.prefix)
        places = [example.positions[name] + offset for example in self.examples]
        return torch.tensor(places, device=self.model.device)

    @cached_property
    def place_names(self) -> tuple[str, ...]:
        """Names for all tokens, in the order of the first prompt: END is the last token, `rest`
        whatever has no name of its own."""
        names = [name for name in self.position_names if name != END]
        for name in names:
            if not PLACE.fullmatch(name):
                raise UserError(
                    f"Task {self.task.name!r} has a position {name!r}, which cannot be part of a "
                    "node's name; use letters, digits, _, + and . where circuits are split."
                )
        return (REST, *sorted(names, key=lambda name: self.examples[0].positions[name]), END)

    def place_masks(self, places: Sequence[str]) -> Bool[Tensor, "place batch pos"]:
        """Which tokens belong to each place, each to one; one place of all tokens if none."""
        everything = torch.ones_like(self.clean.tokens, dtype=torch.bool)
        if not places:
            return everything[None]
        tokens = torch.arange(everything.shape[1], device=everything.device)
        masks, free = {END: tokens == self.clean.end[:, None]}, everything
        free = free & ~masks[END]
        for name in places:
            if name not in (END, REST):
                masks[name] = (tokens == self.position(name)[:, None]) & free
                free = free & ~masks[name]
        masks[REST] = free
        return torch.stack([masks[name] for name in places])

    def remember(self, what: str, compute: Callable[[], T]) -> T:
        """The result of an experiment, computed at most once."""
        if what not in self._remembered:
            self._remembered[what] = compute()
        found: T = self._remembered[what]
        return found

    def once(self, experiment: Callable[[Contrast], T]) -> T:
        """The result of an experiment on this contrast, computed at most once."""
        return self.remember(experiment.__name__, lambda: experiment(self))

    def once_for_clean(self, experiment: Callable[[Contrast], T]) -> T:
        """The result of an experiment that does not look at the corrupted prompts.

        Computed once for all corruptions of the same prompts.
        """
        if experiment not in self._of_clean:
            self._of_clean[experiment] = experiment(self)
        found: T = self._of_clean[experiment]
        return found

    @cached_property
    def schemes(self) -> dict[str, Contrast]:
        """The same clean prompts with the task's other corruptions, by name."""
        found = {}
        for scheme in self.task.schemes:
            task = self.task.under(scheme)
            other = {example.clean: example for example in (*task.discover, *task.held_out)}
            examples = [other[example.clean] for example in self.examples]
            contrast = Contrast(
                self.model, task, examples, self.metric_name, self.ablation, memory=self.memory
            )
            contrast.clean_run, contrast.replay = self.clean_run, self.replay
            contrast._of_clean = self._of_clean
            found[scheme] = contrast
        return found

    def take(self, n: int) -> Contrast:
        """The first `n` examples."""
        return Contrast(
            self.model,
            self.task,
            self.examples[:n],
            self.metric_name,
            self.ablation,
            memory=self.memory,
        )
