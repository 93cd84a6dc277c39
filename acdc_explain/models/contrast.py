"""A model on the clean and corrupted prompts of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import UserError
from ..records.task import Example, Task
from .activations import Activations, LayerInputs, give_back_memory
from .metrics import LOWER_IS_BETTER, Targets, TokenSets, metric_named
from .model import Model
from .options import DEFAULT_MEMORY, Ablation, Checkpoints, NoCheckpoints
from .positions import Positions

T = TypeVar("T")
P = ParamSpec("P")


class Contrast:
    """What a model does on the clean and on the corrupted prompts of a task.

    Discoverers, collectors and judges get one. Runs of the model and results of experiments are
    computed when they are first asked for, and once.

    Attributes:
        clean: The clean prompts as a batch; `corrupt`: the corrupted ones.
        examples: The task's examples that the prompts come from.
        metric_name: Of the metric that `metric` computes.
        ablation: What a cut edge carries (see `ablated`).
        checkpoints: Where a long search saves how far it is.
        memory: Gigabytes that a search may take.
    """

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
        """Tokenize the prompts.

        Args:
            model: The transformer.
            task: Where `examples` are from; its `discover` or `held_out`, or some of them.
            examples: The pairs of prompts to run.
            metric: One of `metrics.METRICS`; the task's own if None.
            ablation: What a cut edge carries: the corrupted activation, its mean, or zero.
            checkpoints: Where a long search saves how far it is; nowhere if None.
            memory: Gigabytes that a search may take.

        Raises:
            UserError: The metric is unknown or needs foils that an example lacks, or a prompt is
                longer than the model's context.
        """
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
        self._results: dict[Any, Any] = {}
        self._clean_results: dict[Any, Any] = {}  # shared with other corruptions of the prompts
        self.clean = model.batch([example.clean for example in self.examples])
        self.corrupt = model.batch([example.corrupt for example in self.examples])

    def __len__(self) -> int:
        return len(self.examples)

    # --- runs of the model ---------------------------------------------------------------------

    @property
    def clean_run(self) -> Activations:
        """One pass over the clean prompts: outputs of all nodes, attention, logits."""
        return self.once_for_clean(_clean_run)

    @property
    def clean_logits(self) -> Float[Tensor, "batch vocab"]:
        """The logits of the clean prompts, without a run that keeps what every node writes."""
        return self.once_for_clean(_clean_logits)

    @cached_property
    def corrupt_logits(self) -> Float[Tensor, "batch vocab"]:
        """The logits of the corrupted prompts."""
        with torch.no_grad():
            return self.model.forward(self.corrupt)

    @cached_property
    def corrupt_run(self) -> Activations:
        """One pass over the corrupted prompts."""
        return self.model.run(self.corrupt, self.memory)

    @property
    def clean_inputs(self) -> LayerInputs:  # for `model.run_from`
        return self.once_for_clean(_clean_inputs)

    # --- what a cut edge carries ---------------------------------------------------------------

    @cached_property
    def ablated(self) -> Float[Tensor, "writer batch pos d_model"]:
        """What a cut edge carries: what its sender writes when ablated.

        By `ablation`: what it writes on the corrupted prompts, the mean of that, or zero.
        """
        if self.ablation == "zero":
            clean = self.clean_run.writers
            return clean.new_zeros(()).expand_as(clean)
        corrupt = self.corrupt_run.writers
        if self.ablation == "mean":
            return self.corrupt_run.mean(self.clean)[:, None, None].expand_as(corrupt)
        return corrupt

    @cached_property
    def ablated_logits(self) -> Float[Tensor, "batch vocab"]:
        """The logits with every edge cut."""
        if self.ablation == "corrupt":
            return self.corrupt_logits
        final = (
            self.clean.at_end(self.ablated.sum(0).to(self.model.device)) + self.model.output_biases
        )
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

    # --- the metric ----------------------------------------------------------------------------

    @cached_property
    def answers(self) -> TokenSets:
        """The right tokens of each example. Raises UserError for a word that is not one token."""
        return self._tokens([example.answers for example in self.examples])

    @cached_property
    def foils(self) -> TokenSets:
        """The wrong tokens of each example. Raises UserError for a word that is not one token."""
        return self._tokens([example.foils for example in self.examples])

    def _tokens(self, sets: Sequence[Sequence[str]]) -> TokenSets:
        ids = [[self.model.single(word) for word in words] for words in sets]
        return TokenSets.of(ids, self.model.device)

    @cached_property
    def targets(self) -> Targets:
        return Targets(self.answers, self.foils, lambda: self.clean_logits)

    def metric(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
        """One number per example, differentiable in the logits at each prompt's last token."""
        return self._metric(logits, self.targets)

    @property
    def sign(self) -> int:
        """1 where a higher metric is better, -1 where a lower one is."""
        return -1 if self.metric_name in LOWER_IS_BETTER else 1

    @cached_property
    def clean_metric(self) -> float:
        """The mean metric of the clean prompts."""
        return float(self.metric(self.clean_logits).mean())

    @cached_property
    def corrupt_metric(self) -> float:
        """The mean metric with every edge cut (of the corrupted prompts, if `ablation` says so)."""
        return float(self.metric(self.ablated_logits).mean())

    @cached_property
    def direction(self) -> Float[Tensor, "batch d_model"]:
        """Mean unembedding of an example's answers minus that of its foils."""
        vectors = self.model.unembedding.T  # [vocab d_model]
        return self.answers.mean_vector(vectors) - self.foils.mean_vector(vectors)

    # --- named positions -----------------------------------------------------------------------

    @cached_property
    def _positions(self) -> Positions:
        return Positions(self.task.name, self.examples, self.clean, len(self.model.prefix))

    @property
    def position_names(self) -> tuple[str, ...]:
        """The positions that every example names."""
        return self._positions.names

    def position(self, name: str) -> Int[Tensor, "batch"]:
        """The token index of a named position in each prompt."""
        return self._positions.index(name)

    def position_mask(self, name: str) -> Bool[Tensor, "batch pos"]:
        """The token at a named position of each prompt, or at END, the last one."""
        return self._positions.mask(name)

    @property
    def place_names(self) -> tuple[str, ...]:
        """The places that circuits can be split by: `rest`, the named positions, END.

        Raises UserError if a position's name cannot be part of a node's name.
        """
        return self._positions.place_names

    def place_masks(self, places: Sequence[str]) -> Bool[Tensor, "place batch pos"]:
        """Which tokens belong to each place, each to one; without places, one mask of all."""
        return self._positions.masks(places)

    # --- experiments ---------------------------------------------------------------------------

    def once(
        self, experiment: Callable[Concatenate[Contrast, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of an experiment on this contrast, computed at most once.

        Args:
            experiment: A function (not a new lambda each time) whose first argument is a contrast.
            *args: Its other arguments, hashable.
            **kwargs: The same by name.

        Returns:
            `experiment(self, *args, **kwargs)`, or what it returned before for the same arguments.
            An experiment that raises is run again the next time.
        """
        key = (experiment, args, tuple(sorted(kwargs.items())))
        if key not in self._results:
            self._results[key] = experiment(self, *args, **kwargs)
        result: T = self._results[key]
        return result

    def once_for_clean(self, experiment: Callable[[Contrast], T]) -> T:
        """As `once`, for an experiment that does not look at the corrupted prompts.

        Computed once for all corruptions of the same prompts.
        """
        if experiment not in self._clean_results:
            self._clean_results[experiment] = experiment(self)
        result: T = self._clean_results[experiment]
        return result

    # --- other contrasts -----------------------------------------------------------------------

    @cached_property
    def schemes(self) -> dict[str, Contrast]:
        """The same clean prompts with the task's other corruptions, by name."""
        contrasts = {}
        for scheme in self.task.schemes:
            task = self.task.under(scheme)
            by_clean = {example.clean: example for example in (*task.discover, *task.held_out)}
            contrast = self.of([by_clean[example.clean] for example in self.examples], task)
            contrast._clean_results = self._clean_results
            contrasts[scheme] = contrast
        return contrasts

    def of(self, examples: Sequence[Example], task: Task | None = None) -> Contrast:
        """The same on other examples, of this task or of another one."""
        options = self.metric_name, self.ablation
        return Contrast(self.model, task or self.task, examples, *options, memory=self.memory)

    def forget(self, *experiments: Callable[..., object]) -> None:
        """Drop what experiments returned, to free memory; without any, every run and result."""
        for results in (self._results, self._clean_results):
            for key in list(results):
                if not experiments or (key[0] if isinstance(key, tuple) else key) in experiments:
                    del results[key]
        for name in () if experiments else ("corrupt_run", "ablated", "schemes"):
            self.__dict__.pop(name, None)
        give_back_memory()


def _clean_run(contrast: Contrast) -> Activations:
    return contrast.model.run(contrast.clean, contrast.memory)


@torch.no_grad()
def _clean_logits(contrast: Contrast) -> Float[Tensor, "batch vocab"]:
    return contrast.model.forward(contrast.clean)


def _clean_inputs(contrast: Contrast) -> LayerInputs:
    return contrast.model.layer_inputs(contrast.clean)
