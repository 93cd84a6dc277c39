"""From the logits at the end of each prompt to one number per example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import unknown


@dataclass(frozen=True)
class TokenSets:
    """A set of tokens per example, padded: `ids` where `present`."""

    ids: Int[Tensor, "batch size"]
    present: Bool[Tensor, "batch size"]

    @staticmethod
    def of(sets: Sequence[Sequence[int]], device: torch.device) -> TokenSets:
        """From the token ids of each example."""
        size = max(1, *(len(tokens) for tokens in sets)) if sets else 1
        ids = torch.zeros(len(sets), size, dtype=torch.long)
        present = torch.zeros(len(sets), size, dtype=torch.bool)
        for row, tokens in enumerate(sets):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            present[row, : len(tokens)] = True
        return TokenSets(ids.to(device), present.to(device))

    def contain(self, tokens: Int[Tensor, "batch some"]) -> Bool[Tensor, "batch some"]:
        """Whether each token is one of its example's set."""
        same: Tensor = (tokens[..., None] == self.ids[:, None]) & self.present[:, None]
        return same.any(-1)

    def total(self, values: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
        """The sum of `values` over each example's set."""
        return (values.gather(1, self.ids) * self.present).sum(1)

    def mean(self, values: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch"]:
        """The mean of `values` over each example's set."""
        return self.total(values) / self.present.sum(1)

    def mean_vector(self, vectors: Float[Tensor, "vocab d"]) -> Float[Tensor, "batch d"]:
        """The mean of the vectors of each example's tokens; zero for an empty set."""
        present = self.present[..., None].to(vectors.dtype)
        return (vectors[self.ids] * present).sum(1) / present.sum(1).clamp_min(1)


@dataclass(frozen=True)
class Targets:
    """What a metric compares logits with."""

    answers: TokenSets
    foils: TokenSets
    clean_logits: Callable[[], Float[Tensor, "batch vocab"]]  # not every metric needs them


class Metric(Protocol):
    """One number per example, differentiable in the logits."""

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], targets: Targets
    ) -> Float[Tensor, "batch"]: ...


def kl(logits: Float[Tensor, "batch vocab"], targets: Targets) -> Float[Tensor, "batch"]:
    """Kullback-Leibler divergence from the clean run's distribution, in nats."""
    reference = targets.clean_logits().log_softmax(-1)
    return (reference.exp() * (reference - logits.log_softmax(-1))).sum(-1)


def logit_diff(logits: Float[Tensor, "batch vocab"], targets: Targets) -> Float[Tensor, "batch"]:
    """Mean logit of the answers minus mean logit of the foils."""
    return targets.answers.mean(logits) - targets.foils.mean(logits)


def prob_diff(logits: Float[Tensor, "batch vocab"], targets: Targets) -> Float[Tensor, "batch"]:
    """Probability of all answers together minus that of all foils."""
    probabilities = logits.softmax(-1)
    return targets.answers.total(probabilities) - targets.foils.total(probabilities)


def nll(logits: Float[Tensor, "batch vocab"], targets: Targets) -> Float[Tensor, "batch"]:
    """Minus the log probability of any answer, in nats."""
    scores = logits.log_softmax(-1).gather(1, targets.answers.ids)
    return -scores.masked_fill(~targets.answers.present, -torch.inf).logsumexp(1)


METRICS: dict[str, Metric] = {
    "kl": kl,
    "logit_diff": logit_diff,
    "prob_diff": prob_diff,
    "nll": nll,
}
LOWER_IS_BETTER = frozenset({"kl", "nll"})


def metric_named(name: str) -> Metric:
    """The metric of that name. Raises UserError for an unknown one."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]
