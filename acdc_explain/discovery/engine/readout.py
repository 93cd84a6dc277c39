"""The metric from the residual stream at the end, with as little of the unembedding as it needs.

Mean logits over answers, foils or the clean distribution are linear in the normalised stream: one
vector for each example is enough. Only the normaliser of the softmax needs every column.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.contrast import Contrast
from ...models.layers import Layers
from ...models.metrics import TokenSets

CHUNK = 4096  # columns of the unembedding that are float64 at a time, to limit memory


class Readout:
    """The metric of a contrast, for many candidates at once."""

    def __init__(self, contrast: Contrast, layers: Layers) -> None:
        self.name = contrast.metric_name
        self.norm, self.unembedding = layers.norm, layers.unembedding
        self.answers, self.foils = contrast.answers, contrast.foils
        if self.name == "logit_diff":
            weights = self._mean_weights(self.answers) - self._mean_weights(self.foils)
            self._linear = self._vector(weights)
        elif self.name == "kl":
            reference = contrast.clean_run.logits.double().log_softmax(-1)
            self._linear = self._vector(reference.exp())
            self._negative_entropy = (reference.exp() * reference).sum(-1)

    @property
    def n_columns(self) -> int:
        """How many logits are computed for each prompt."""
        return 0 if self.name == "logit_diff" else self.unembedding.weight.matrix.shape[-1]

    def _mean_weights(self, tokens: TokenSets) -> Float[Tensor, "batch vocab"]:
        size = len(tokens.ids), self.unembedding.weight.matrix.shape[1]
        weights = torch.zeros(size, dtype=torch.double, device=tokens.ids.device)
        share = tokens.present.to(weights.dtype) / tokens.present.sum(1, keepdim=True)
        return weights.scatter_add_(1, tokens.ids, share)

    def _vector(
        self, weights: Float[Tensor, "batch vocab"]
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch"]]:
        """The vector and constant that give the weighted sum of an example's logits.

        They are float64: a few dimensions of a stream can be in the thousands and nearly cancel.
        """
        bias, matrix = self.unembedding.bias, self.unembedding.weight.matrix
        constant = weights.new_zeros(len(weights)) if bias is None else weights @ bias.double()
        vectors = weights.new_zeros(len(weights), len(matrix))
        for part, columns in zip(torch.split(weights, CHUNK, 1), torch.split(matrix, CHUNK, 1)):
            vectors += part @ columns.double().T
        return vectors, constant

    def __call__(
        self, final: Float[Tensor, "candidate batch d_model"]
    ) -> Float[Tensor, "candidate batch"]:
        """The metric of each example, from the stream at its last token."""
        scale = self.norm.inverse_scale(final)
        if self.name == "logit_diff":
            return self._weighted_sum(final, scale)
        logits = self.logits(final)
        if self.name == "kl":
            total = logits.logsumexp(-1) - self._weighted_sum(final, scale)
            return total + self._negative_entropy
        log_probs = logits.log_softmax(-1)
        if self.name == "nll":
            return -self._at_tokens(log_probs, self.answers, -torch.inf).logsumexp(-1)
        probs = log_probs.exp_()
        answers, foils = (
            self._at_tokens(probs, x, 0.0).sum(-1) for x in (self.answers, self.foils)
        )
        return answers - foils

    def logits(self, final: Float[Tensor, "*b d_model"]) -> Float[Tensor, "*b vocab"]:
        """All logits, from the stream at the last token."""
        return self.unembedding(final, self.norm.inverse_scale(final))

    def _weighted_sum(self, final: Tensor, scale: Tensor) -> Float[Tensor, "candidate batch"]:
        vectors, constant = self._linear
        return (final.double() * vectors).sum(-1) * scale[..., 0] + constant

    def _at_tokens(self, values: Tensor, tokens: TokenSets, absent: float) -> Tensor:
        ids = tokens.ids.expand(len(values), -1, -1)
        return values.gather(-1, ids).masked_fill(~tokens.present, absent)
