"""The metric from the residual stream at the end, with as little of the unembedding as it needs.

Mean logits over answers, foils or the clean distribution are linear in the normalised stream: one
vector for each example is enough. Only the normaliser of the softmax needs every column.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.contrast import Contrast
from ...models.functional.layers import Layers
from ...models.metrics import TokenSets

CHUNK = 4096  # columns of the unembedding that are float64 at a time, to limit memory


class Readout:
    """The metric of a contrast, for many candidates at once."""

    def __init__(self, contrast: Contrast, layers: Layers) -> None:
        self.name = contrast.metric_name
        self.layers, self.norm, self.unembedding = layers, layers.norm, layers.unembedding
        self.answers, self.foils = contrast.answers, contrast.foils
        self._clean = contrast.clean_run.logits
        self._is_capped = layers.soft_cap is not None  # then nothing is linear in the stream
        if self._is_capped:
            return
        if self.name == "logit_diff":
            weights = self._mean_weights(self.answers) - self._mean_weights(self.foils)
            self._linear = self._vector(weights)
        elif self.name == "kl":
            reference = self._clean.double().log_softmax(-1)
            self._linear = self._vector(reference.exp())
            self._negative_entropy = (reference.exp() * reference).sum(-1)

    @property
    def n_columns(self) -> int:
        """How many logits are computed for each prompt."""
        linear = self.name == "logit_diff" and not self._is_capped
        return 0 if linear else self.unembedding.weight.matrix.shape[-1]

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
        norm = self.norm
        vectors = vectors * norm.weight.double()
        return (vectors - vectors.mean(-1, keepdim=True) if norm.centred else vectors), constant

    def __call__(
        self, final: Float[Tensor, "candidate batch d_model"]
    ) -> Float[Tensor, "candidate batch"]:
        """The metric of each example, from the stream at its last token."""
        if self.name == "logit_diff" and not self._is_capped:
            return self._weighted_sum(final)
        logits = self.logits(final)
        if self.name == "logit_diff":
            return self._mean(logits, self.answers) - self._mean(logits, self.foils)
        if self.name == "kl" and not self._is_capped:
            return logits.logsumexp(-1) - self._weighted_sum(final) + self._negative_entropy
        log_probs = logits.log_softmax(-1)
        if self.name == "kl":
            reference = self._clean.log_softmax(-1)
            return (reference.exp() * (reference - log_probs)).sum(-1)
        if self.name == "nll":
            return -self._at_tokens(log_probs, self.answers, -torch.inf).logsumexp(-1)
        probs = log_probs.exp()
        answers, foils = (
            self._at_tokens(probs, x, 0.0).sum(-1) for x in (self.answers, self.foils)
        )
        return answers - foils

    def logits(self, final: Float[Tensor, "*b d_model"]) -> Float[Tensor, "*b vocab"]:
        """All logits, from the stream at the last token."""
        return self.layers.logits(final)

    def _weighted_sum(self, final: Tensor) -> Float[Tensor, "candidate batch"]:
        vectors, constant = self._linear
        scale = self.norm.inverse_scale(final)
        return (final.double() * vectors).sum(-1) * scale[..., 0] + constant

    def _mean(self, values: Tensor, tokens: TokenSets) -> Float[Tensor, "candidate batch"]:
        return self._at_tokens(values, tokens, 0.0).sum(-1) / tokens.present.sum(1)

    def _at_tokens(self, values: Tensor, tokens: TokenSets, absent: float) -> Tensor:
        ids = tokens.ids.expand(len(values), -1, -1)
        return values.gather(-1, ids).masked_fill(~tokens.present, absent)
