"""The modules of a Hugging Face model at which its nodes read and write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...records.circuit import Port
from .norm import Norm
from .precision import precise


@dataclass(frozen=True)
class Projection:
    """Where the queries, keys or values of all heads come out, before anything is done to them.

    `modules` are applied in turn: a linear map, and in OLMo 2 a norm over all heads together.
    """

    modules: tuple[Any, ...]
    columns: Int[Tensor, "head d_head"]  # of the last module's output

    @property
    def weight(self) -> Float[Tensor, "d_model head d_head"]:
        """The linear map of each head; a view of the model's own where columns are in order."""
        matrix, first = weight_of(self.modules[0]), self._first
        if first is None:
            return matrix[:, self.columns]
        matrix = matrix[:, first : first + self.columns.numel()]
        return matrix.view(len(matrix), *self.columns.shape)

    @cached_property
    def _first(self) -> int | None:
        """The first column, if the others follow in order."""
        columns = self.columns.flatten().tolist()
        first: int = columns[0]
        return first if columns == list(range(first, first + len(columns))) else None

    @property
    def bias(self) -> Float[Tensor, "head d_head"] | None:
        """The bias of each head, if there is one."""
        bias = bias_of(self.modules[0])
        return None if bias is None else bias[self.columns]

    def of_heads(
        self, normed: Float[Tensor, "batch pos head d_model"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """What each head projects of its own row."""
        if len(self.modules) == 1:
            y = torch.einsum("bphd,dhe->bphe", normed, self.weight)
            return y if self.bias is None else y + self.bias
        whole = normed
        for module in self.modules:
            whole = module.forward(whole)  # not a call: hooks on the module are for the model's own
        index = self.columns.expand(*whole.shape[:-2], *self.columns.shape)
        return whole.gather(-1, index)


@dataclass(frozen=True)
class AttentionParts:
    """The heads of a layer."""

    module: Any  # returns its output and the attention weights
    norm: Any  # the module before it; None if there is none
    projections: dict[Port, Projection]
    out: Any  # the linear map from the mixed values of all heads, one after the other
    post: Any  # the module after it, before the residual stream; None if there is none

    @property
    def out_weight(self) -> Float[Tensor, "head d_head d_model"]:
        """W_O of each head."""
        weight = weight_of(self.out)
        return weight.view(len(self.projections["q"].columns), -1, weight.shape[1])

    @property
    def out_bias(self) -> Tensor | None:
        """The bias of W_O. It belongs to no head, unless a norm follows (see `head_bias`)."""
        return bias_of(self.out)

    @property
    def head_bias(self) -> Tensor | None:
        """Each head's part of the bias of W_O where a norm follows: the same for every head.

        What the norm makes of the bias depends on the heads, so it cannot stand beside them.
        """
        bias = self.out_bias
        return None if bias is None or self.post is None else bias / len(self.out_weight)


@dataclass(frozen=True)
class MlpParts:
    """The MLP of a layer."""

    module: Any  # None where its maps are modules of the block itself (OPT)
    norm: Any
    entry: Any  # the module that reads the normed stream
    exit: Any  # the module whose output is what the MLP writes, before any norm after it
    post: Any
    names: dict[str, str]  # of the maps: `in`, `gate`, `out`, where the model has them


@dataclass(frozen=True)
class Block:
    """A layer. `multiplier`: what its outputs are multiplied by on their way to the stream."""

    module: Any
    attention: AttentionParts
    mlp: MlpParts | None
    attention_post: Norm  # no norm in most models
    mlp_post: Norm
    multiplier: float


@dataclass(frozen=True)
class Network:
    """A whole model."""

    hf_model: Any
    blocks: Sequence[Block]
    parallel: bool  # MLPs read what the heads of their layer read
    final_norm: Any
    norm: Norm  # the same, as numbers
    head: Any  # from the normed stream to logits
    logit_scale: float  # what the head's output is multiplied by
    soft_cap: float | None  # c in c tanh(logits / c)
    n_heads: int
    context_length: int

    @property
    def body(self) -> Any:
        """The model without its head."""
        return self.hf_model.base_model

    @property
    def unembedding(self) -> Float[Tensor, "d_model vocab"]:
        """From the normed stream to logits, with their scale and without their soft cap."""
        weight = weight_of(self.head)
        return weight if self.logit_scale == 1 else weight * self.logit_scale

    @property
    def unembedding_bias(self) -> Tensor | None:
        """The bias of the logits, if there is one."""
        bias = bias_of(self.head)
        return bias if bias is None or self.logit_scale == 1 else bias * self.logit_scale

    def logits(self, final: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch vocab"]:
        """The logits of residual streams, in float32 if the model has 16 bits."""
        final = final.to(self.head.weight.dtype)
        logits = precise(self.head(self.final_norm(final[:, None]))[:, 0])
        if self.logit_scale != 1:
            logits = logits * self.logit_scale
        return logits if self.soft_cap is None else capped(logits, self.soft_cap)

    def logits_of(
        self, final: Float[Tensor, "batch d_model"], ids: Int[Tensor, "some"]
    ) -> Float[Tensor, "batch some"]:
        """The logits of some tokens alone, without their soft cap."""
        normed = self.final_norm(final.to(self.head.weight.dtype)[:, None])[:, 0]
        logits, bias = precise(normed @ weight_of(self.head)[:, ids]), bias_of(self.head)
        logits = logits if bias is None else logits + bias[ids]
        return logits if self.logit_scale == 1 else logits * self.logit_scale

    @property
    def output_biases(self) -> Tensor | float:
        """What attention layers write that belongs to no head."""
        biases = [bias for block in self.blocks if (bias := output_bias(block)) is not None]
        return sum(biases, start=torch.zeros((), device=self.head.weight.device))


def output_bias(block: Block) -> Float[Tensor, "d_model"] | None:
    """What the attention of a layer writes that belongs to no head, if anything."""
    post = block.attention_post
    bias = post.bias if post.scaled else block.attention.out_bias
    return None if bias is None else bias * block.multiplier


def weight_of(linear: Any) -> Float[Tensor, "d_in out"]:
    """The matrix of a linear layer, to multiply rows with, whichever way round it is stored."""
    weight: Tensor = linear.weight.detach()
    return weight if hasattr(linear, "nf") else weight.T  # transformers' Conv1D has `nf`


def bias_of(linear: Any) -> Tensor | None:
    """The bias of a linear layer, if it has one."""
    bias = getattr(linear, "bias", None)
    return None if bias is None else bias.detach()


def capped(values: Tensor, cap: float) -> Tensor:
    """Values softly limited to between minus and plus `cap`."""
    return torch.tanh(values / cap) * cap
