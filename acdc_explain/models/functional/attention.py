"""All heads of a layer, as functions of what their ports read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import PORTS, Port
from ..network.norm import Norm, UnsupportedModel
from ..network.parts import AttentionParts, Block, capped, output_bias
from ..network.precision import noise, relative_error
from ..network.watch import Call
from .affine import Affine, Weight, rotate
from .places import Places


@dataclass(frozen=True)
class Form:
    """How scores follow from queries and keys."""

    scaling: float
    rotary: str | None  # "half", "interleaved", or none
    norm_first: bool  # the norm of each head's queries and keys comes before rotary positions
    distance_scaling: float  # of biases by distance (ALiBi)
    cap: float | None  # c in c tanh(score / c)


@dataclass(frozen=True)
class Attention:
    """All heads of a layer."""

    norm: Norm
    ports: dict[Port, Affine]  # of all heads together
    each: dict[Port, list[Affine]]  # of each head
    joint_norms: dict[Port, Norm]  # over the queries or keys of all heads (OLMo 2)
    head_norms: dict[Port, Norm]  # over each head's; the weight is [head d_head]
    clip: float | None
    form: Form
    sinks: Float[Tensor, "head"] | None  # scores of an invisible key that takes attention
    output: Weight  # W_O of all heads together
    each_output: list[Weight]
    output_bias: Float[Tensor, "d_model"] | None  # which belongs to no head
    head_bias: Float[Tensor, "d_model"] | None  # which every head writes, before `post`
    post: Norm  # over the sum of what the heads write; no norm in most models

    @staticmethod
    def of(block: Block, seen: Mapping[Any, Call], form: Form | None = None) -> Attention:
        """Read the heads of a layer.

        Args:
            block: The layer.
            seen: What its modules read and wrote on a few tokens.
            form: Of another layer, to be tried first.

        Raises:
            UnsupportedModel: No known form gives the attention weights that the model has.
        """
        parts = block.attention
        call, mixed = seen[parts.module], seen[parts.out].input
        stream = call.input if parts.norm is None else seen[parts.norm].input
        places = Places.of(parts.module, call.arguments, stream[0], len(parts.out_weight))
        unfinished = _without_form(block, Norm.of(parts.norm, stream[0, 0]))
        for candidate in (*([] if form is None else [form]), *_forms(parts, places)):
            attention = replace(unfinished, form=candidate)
            if attention.gives(stream, call.weights, mixed, places):
                return attention
        raise UnsupportedModel("its attention weights are those of no form that is known here")

    def gives(self, stream: Tensor, pattern: Tensor | None, mixed: Tensor, places: Places) -> bool:
        """Whether the attention and mixed values of a stream are those of the model itself."""
        n_heads, scale = len(self.each_output), self.norm.inverse_scale(stream)
        tables = places.tables
        tables = None if tables is None else (tables[0][:, None], tables[1][:, None])
        q, k, v = (
            self.finish(port, y.view(*y.shape[:-1], n_heads, -1), tables).transpose(1, 2)
            for port in PORTS
            for y in [self.together(port, stream, scale)]
        )
        ours = self.pattern(q @ k.transpose(-1, -2), places.bias(self.form.distance_scaling))
        z = (ours @ v).transpose(1, 2).flatten(2)
        assert pattern is not None
        limit = noise(stream.dtype)
        return relative_error(ours, pattern.to(ours)) <= limit and relative_error(z, mixed) <= limit

    # --- queries, keys and values ----------------------------------------------------------------

    def together(self, port: Port, x: Tensor, inverse_scale: Tensor) -> Tensor:
        """The queries, keys or values of all heads, before `finish`, of residual-stream rows."""
        y = self.ports[port](x, inverse_scale)
        return self.joint_norms[port](y) if port in self.joint_norms else y

    def project(
        self, port: Port, head: int, x: Tensor, tables: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*rows d_head"]:
        """A head's query, key or value of residual-stream rows.

        `tables`: cosines and sines of the rows' rotary positions, if the model has them.
        """
        scale = self.norm.inverse_scale(x)
        if port in self.joint_norms:
            y = self.together(port, x, scale).chunk(len(self.each_output), -1)[head]
        else:
            y = self.each[port][head](x, scale)
        return self.finish(port, y, tables, head)

    def finish(
        self,
        port: Port,
        y: Float[Tensor, "*rows d_head"],
        tables: tuple[Tensor, Tensor] | None,
        head: int | None = None,
    ) -> Float[Tensor, "*rows d_head"]:
        """From the product with the weights to the query, key or value: norm, rotary position.

        `head`: None for all heads, in the second-last dimension.
        """
        if self.clip is not None:
            y = y.clamp(-self.clip, self.clip)
        if port == "v":
            return y
        if self.form.norm_first:
            y = self._normed(port, y, head)
        if tables is not None and self.form.rotary is not None:
            y = rotate(y, *tables, interleaved=self.form.rotary == "interleaved")
        return y if self.form.norm_first else self._normed(port, y, head)

    def _normed(self, port: Port, y: Tensor, head: int | None) -> Tensor:
        norm = self.head_norms.get(port)
        if norm is None:
            return y
        weight, bias = norm.weight, norm.bias
        if head is not None:
            weight, bias = weight[head], None if bias is None else bias[head]
        return replace(norm, weight=weight, bias=bias)(y)

    def write(self, head: int, z: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What a head makes of its mixed values, before the norm that follows, if one does."""
        output = self.each_output[head](z)
        return output if self.head_bias is None else output + self.head_bias

    # --- attention -------------------------------------------------------------------------------

    def pattern(
        self,
        products: Float[Tensor, "*batch head query key"],
        bias: Float[Tensor, "*batch head query key"],
        head: int | None = None,
    ) -> Float[Tensor, "*batch head query key"]:
        """Attention, from the products of queries and keys.

        `head`: None for all heads, in the third-last dimension.
        """
        scores = products * self.form.scaling
        if self.form.cap is not None:
            scores = capped(scores, self.form.cap)
        scores = scores + bias
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks[:, None, None] if head is None else self.sinks[head]
        column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


def _without_form(block: Block, norm: Norm) -> Attention:
    """The heads of a layer, but for how scores follow from queries and keys."""
    parts, module = block.attention, block.attention.module
    ports, joint_norms, head_norms = {}, {}, {}
    n_heads = len(parts.out_weight)
    for port, projection in parts.projections.items():
        bias = projection.bias
        ports[port] = Affine.of(
            norm, projection.weight.flatten(1), None if bias is None else bias.flatten()
        )
        if len(projection.modules) > 1:
            width = ports[port].weight.matrix[0]
            joint_norms[port] = Norm.of(projection.modules[1], width)
        elif (head_norm := _head_norm(module, port, projection.columns)) is not None:
            head_norms[port] = head_norm
    clip = getattr(module, "clip_qkv", None) or getattr(
        getattr(module, "config", None), "clip_qkv", None
    )
    sinks = getattr(module, "sinks", None)
    output = parts.out_weight if block.multiplier == 1 else parts.out_weight * block.multiplier
    return Attention(
        norm,
        ports,
        {p: affine.heads(n_heads) for p, affine in ports.items() if p not in joint_norms},
        joint_norms,
        head_norms,
        None if clip is None else float(clip),
        Form(1.0, None, True, 1.0, None),
        None if sinks is None else sinks.detach(),
        Weight(output.flatten(0, 1)),
        [Weight(matrix) for matrix in output],
        output_bias(block),
        parts.head_bias,
        block.attention_post,
    )


def _head_norm(module: Any, port: Port, columns: Tensor) -> Norm | None:
    """The norm over each head's queries or keys, if there is one."""
    long = {"q": "query", "k": "key"}.get(port, port)
    names = (f"{port}_norm", f"{port}_layernorm", f"{long}_layernorm")
    norm = next((n for name in names if (n := getattr(module, name, None)) is not None), None)
    if norm is None or isinstance(norm, torch.nn.Identity):
        return None
    like = next(module.parameters()).detach().new_empty(columns.shape[1])
    several = getattr(norm, "norms", None)  # StableLM has one for each head
    if several is not None:
        each = [Norm.of(one, like) for one in several]
        return _stacked(each)
    weight = getattr(norm, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == columns.shape:  # Cohere: one row a head
        return Norm(float(norm.variance_epsilon), True, weight.detach(), None)
    one = Norm.of(norm, like)
    return _stacked([one] * len(columns))


def _stacked(norms: list[Norm]) -> Norm:
    """The norms of all heads as one, whose weight has a row for each."""
    biases = [norm.bias for norm in norms if norm.bias is not None]
    return replace(
        norms[0],
        weight=torch.stack([norm.weight for norm in norms]),
        bias=torch.stack(biases) if biases else None,
    )


def _forms(parts: AttentionParts, places: Places) -> Iterator[Form]:
    """Every known form that a layer could have."""
    module, d_head = parts.module, parts.projections["q"].columns.shape[1]
    named = [
        getattr(module, name, None) for name in ("scaling", "softmax_scale", "inv_norm_factor")
    ]
    scalings = [float(s) for s in named if isinstance(s, (int, float))]
    scalings = list(dict.fromkeys([*scalings, d_head**-0.5, 1.0]))
    rotaries = [None] if places.cos is None else ["half", "interleaved", None]
    has_norms = any(hasattr(module, n) for n in ("q_norm", "q_layernorm", "query_layernorm"))
    caps = [getattr(module, "attn_logit_softcapping", None), None]
    for rotary, scaling, first, cap in product(
        rotaries, scalings, (True, False) if has_norms else (True,), dict.fromkeys(caps)
    ):
        for distance in (1.0,) if places.distance is None else (1.0, scaling):
            yield Form(scaling, rotary, first, distance, None if cap is None else float(cap))
