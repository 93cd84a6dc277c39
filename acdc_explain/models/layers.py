"""What the layers of a transformer compute, as plain functions of what their ports read.

Read from the weights that the bridge exposes. The norm before a port is folded into its weights:
LayerNorm(x) W + b = (x W') / scale(x) + b', so that a port costs one product and one row norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from ..records.graph import Graph
from .model import Model


class NotTakenApart(Exception):
    """The model has a part that is not one of those written here."""


_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Weight:
    """A matrix to multiply rows with.

    On a CPU in float32 the product is oneDNN's, which is a third faster than the one that
    `torch.matmul` picks (benchmarks/product.py); there is no public way to ask for it.
    """

    def __init__(self, matrix: Float[Tensor, "into out"]) -> None:
        fast = matrix.device.type == "cpu" and matrix.dtype == torch.float32
        self._transposed = matrix.T.contiguous() if fast and _ONEDNN is not None else None
        self.matrix = matrix if self._transposed is None else self._transposed.T

    def columns(self, n: int) -> list[Weight]:
        """The matrix cut into `n` blocks of columns."""
        return [Weight(block) for block in self.matrix.chunk(n, -1)]

    def __call__(self, x: Float[Tensor, "*rows into"]) -> Float[Tensor, "*rows out"]:
        if self._transposed is None or torch.is_grad_enabled():
            return torch.matmul(x, self.matrix)
        flat = x.reshape(-1, x.shape[-1])
        assert _ONEDNN is not None
        product: Tensor = _ONEDNN(flat, self._transposed, None, "none", [], "")
        return product.view(*x.shape[:-1], self.matrix.shape[1])


@dataclass(frozen=True)
class Norm:
    """LayerNorm (`centred`) or RMSNorm before its weights: only the scale of a row is left."""

    eps: float
    centred: bool
    weight: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"] | None

    @staticmethod
    def of(module: Any) -> Norm:
        """Raises NotTakenApart for any other norm."""
        kind = type(module).__name__
        weight = module.weight.detach()
        if isinstance(module, torch.nn.LayerNorm):
            bias = None if module.bias is None else module.bias.detach()
            return Norm(module.eps, True, weight, bias)
        if kind.endswith("RMSNorm") and not kind.startswith("Gemma"):
            return Norm(module.variance_epsilon, False, weight, None)
        raise NotTakenApart(f"its norm is a {kind}")

    def inverse_scale(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        if not x.numel():  # a named token that no cut can change; torch warns of it
            return x[..., :1]
        if self.centred:
            return (x.var(-1, correction=0, keepdim=True) + self.eps).rsqrt()
        squares: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()
        return (squares / x.shape[-1] + self.eps).rsqrt()

    def fold(self, weight: Float[Tensor, "d_model out"], bias: Tensor | None) -> Affine:
        """The norm's own weights and centring moved into the affine map that follows it."""
        folded = self.weight[:, None] * weight
        if self.centred:
            folded = folded - folded.mean(0, keepdim=True)
        if self.bias is not None:
            moved = self.bias @ weight
            bias = moved if bias is None else bias + moved
        return Affine(Weight(folded), bias)


@dataclass(frozen=True)
class Affine:
    """x -> x W / scale(x) + b, for a residual stream x."""

    weight: Weight
    bias: Float[Tensor, "out"] | None

    def __call__(self, x: Tensor, inverse_scale: Tensor) -> Tensor:
        y = self.weight(x) * inverse_scale
        return y if self.bias is None else y + self.bias

    def heads(self, n: int) -> list[Affine]:
        """The maps of `n` heads that are computed together."""
        biases = [None] * n if self.bias is None else self.bias.chunk(n)
        return [Affine(weight, bias) for weight, bias in zip(self.weight.columns(n), biases)]

    def scaled(self, x: Tensor) -> Tensor:
        """The same for rows that are divided by their scale already."""
        y = self.weight(x)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Attention:
    """All heads of a layer."""

    norm: Norm
    ports: dict[str, Affine]  # of all heads together
    each: dict[str, list[Affine]]  # of each head
    own_norms: dict[str, Callable[[Tensor], Tensor]]  # Qwen3: a norm on each head's q and k
    output: Float[Tensor, "head*d_head d_model"]
    each_output: list[Weight]
    output_bias: Float[Tensor, "d_model"] | None
    scaling: float
    n_rotated: int  # how many of a head's dimensions carry rotary positions
    window: int | None  # tokens a query sees, where attention is local

    @staticmethod
    def of(block: Any, n_rotated: int, scaling: float, window: int | None) -> Attention:
        attn = block.attn
        norm = Norm.of(block.ln1.original_component)
        weights = {"q": attn.W_Q, "k": attn.W_K, "v": attn.W_V}
        ports, own_norms = {}, {}
        for port, weight in weights.items():
            together = weight.detach().transpose(0, 1).flatten(1)  # [d_model head*d_head]
            bias = _bias(getattr(attn, port))
            ports[port] = norm.fold(together, None if bias is None else bias.flatten())
            own = getattr(attn.original_component, f"{port}_norm", None)
            if own is not None:
                own_norms[port] = getattr(own, "original_component", own)
        each = {port: affine.heads(len(attn.W_Q)) for port, affine in ports.items()}
        output = attn.W_O.detach()
        return Attention(
            norm,
            ports,
            each,
            own_norms,
            output.flatten(0, 1),
            [Weight(matrix) for matrix in output],
            _bias(attn.o),
            scaling,
            n_rotated,
            window,
        )

    def project(
        self, port: str, head: int, x: Tensor, table: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*rows d_head"]:
        """A head's query, key or value of residual-stream rows; `table`: the rows' cos and sin."""
        return self.finish(port, self.each[port][head](x, self.norm.inverse_scale(x)), table)

    def hidden(self, asking: Tensor, keys: Tensor) -> Tensor:
        """Which keys a query does not see, both as places in the prompt."""
        later = keys > asking
        return later if self.window is None else later | (keys <= asking - self.window)

    def finish(
        self, port: str, y: Float[Tensor, "*rows d_head"], table: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*rows d_head"]:
        """What follows the product: the head's own norm and its rotary position."""
        if port in self.own_norms:
            y = self.own_norms[port](y)
        if table is None or port == "v":
            return y
        return rotate(y, *table, self.n_rotated)


def rotate(y: Tensor, cos: Tensor, sin: Tensor, n: int) -> Tensor:
    """Rotary positions of the half-split form on the first `n` dimensions."""
    first, second, rest = y[..., : n // 2], y[..., n // 2 : n], y[..., n:]
    a, b = cos[..., : n // 2], sin[..., : n // 2]
    return torch.cat([first * a - second * b, second * a + first * b, rest], -1)


@dataclass(frozen=True)
class Mlp:
    """One hidden layer, gated or not."""

    norm: Norm
    into: Affine
    gate: Affine | None
    activation: Callable[[Tensor], Tensor]
    out: Weight
    out_bias: Float[Tensor, "d_model"] | None

    @staticmethod
    def of(block: Any) -> Mlp:
        mlp, norm = block.mlp, Norm.of(block.ln2.original_component)
        original = mlp.original_component
        activation = getattr(original, "act", None) or getattr(original, "act_fn", None)
        if activation is None:
            raise NotTakenApart(f"its MLP is a {type(original).__name__}")
        gate = mlp.W_gate
        return Mlp(
            norm,
            norm.fold(mlp.W_in.detach(), _detached(mlp.b_in)),
            None if gate is None else norm.fold(gate.detach(), _bias(mlp.gate)),
            getattr(activation, "original_component", activation),
            Weight(mlp.W_out.detach()),
            _detached(mlp.b_out),
        )

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        x = x * self.norm.inverse_scale(x)
        return self.finish([affine.scaled(x) for affine in self.maps])

    @property
    def maps(self) -> list[Affine]:
        """What the norm is followed by: the map into the hidden layer, and the gate's."""
        return [self.into] if self.gate is None else [self.into, self.gate]

    def neurons(self, into: list[Float[Tensor, "*rows d_mlp"]]) -> Float[Tensor, "*rows d_mlp"]:
        """The hidden layer from what the maps gave."""
        hidden = self.activation(into[-1])
        return hidden if self.gate is None else hidden * into[0]

    def finish(self, into: list[Float[Tensor, "*rows d_mlp"]]) -> Float[Tensor, "*rows d_model"]:
        """From what the maps gave to the output."""
        output = self.out(self.neurons(into))
        return output if self.out_bias is None else output + self.out_bias


class FromHeads:
    """An MLP that reads a fixed stream plus what some heads write.

    Heads write in few dimensions, so their output and the MLP's maps become one product from
    d_head: for one head, that saves half of the MLP.
    """

    def __init__(
        self,
        mlp: Mlp,
        fixed: Float[Tensor, "row d_model"],
        outputs: list[Float[Tensor, "d_head d_model"]],
    ) -> None:
        self.mlp = mlp
        together = torch.cat(outputs)
        self._fixed = [affine.weight(fixed) for affine in mlp.maps]
        self._weights = [Weight(together @ affine.weight.matrix) for affine in mlp.maps]

    def __call__(
        self,
        mixed: Float[Tensor, "candidate row heads*d_head"],
        x: Float[Tensor, "candidate row d_model"],
    ) -> Float[Tensor, "candidate row d_model"]:
        """`mixed`: what the heads mixed, before their outputs; `x`: what the MLP reads."""
        scale = self.mlp.norm.inverse_scale(x)
        into = []
        for affine, weight, fixed in zip(self.mlp.maps, self._weights, self._fixed):
            y = weight(mixed).add_(fixed).mul_(scale)
            into.append(y if affine.bias is None else y.add_(affine.bias))
        return self.mlp.finish(into)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _bias(module: Any) -> Tensor | None:
    return _detached(getattr(module, "bias", None))


@dataclass(frozen=True)
class Layers:
    """A whole transformer, layer by layer."""

    attention: tuple[Attention, ...]
    mlp: tuple[Mlp | None, ...]
    norm: Norm  # before the unembedding
    unembedding: Affine
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None

    @staticmethod
    def of(model: Model) -> Layers:
        """Taken apart once a model. Raises NotTakenApart where there is something else in it."""
        try:
            if model not in _TAKEN_APART:
                _TAKEN_APART[model] = _take_apart(model)
            return _TAKEN_APART[model]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise NotTakenApart(f"{model.cfg.architecture} is built otherwise ({error})") from error

    def streams(
        self, graph: Graph, writers: Float[Tensor, "writer *row d_model"]
    ) -> list[Float[Tensor, "*row d_model"]]:
        """What each layer's heads read and what its MLP reads, in turn, and the last stream."""
        width = graph.n_heads + graph.has_mlps
        streams, total = [], writers[0].clone()
        for layer, attention in enumerate(self.attention):
            streams.append(total.clone())
            start = 1 + layer * width
            total += writers[start : start + graph.n_heads].sum(0)
            if attention.output_bias is not None:
                total += attention.output_bias
            streams.append(streams[-1] if graph.parallel else total.clone())
            if graph.has_mlps:
                total += writers[start + graph.n_heads]
        return [*streams, total]

    def tables(self, positions: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [pos n_rotated] of the rotary positions, if there are any."""
        if self.rotary is None:
            return None
        cos, sin = self.rotary(like, torch.arange(positions, device=like.device)[None])
        return cos[0].to(like.dtype), sin[0].to(like.dtype)


_TAKEN_APART: WeakKeyDictionary[Model, Layers] = WeakKeyDictionary()


def _take_apart(model: Model) -> Layers:
    bridge, blocks = model.bridge, list(model.bridge.blocks)
    rotary = _rotary(bridge.original_model)
    n_rotated = 0
    if rotary is not None:
        probe = rotary(model.unembedding[:1, :1], torch.zeros(1, 1, dtype=torch.long))
        n_rotated = probe[0].shape[-1]
    attention = []
    for layer, block in enumerate(blocks):
        original = block.attn.original_component
        d_head = block.attn.W_Q.shape[2]
        scaling = getattr(original, "scaling", None)
        attention.append(
            Attention.of(
                block,
                n_rotated,
                float(scaling) if scaling is not None else d_head**-0.5,
                _window(original, layer),
            )
        )
    norm = Norm.of(bridge.ln_final.original_component)
    return Layers(
        tuple(attention),
        tuple(Mlp.of(block) if model.graph.has_mlps else None for block in blocks),
        norm,
        norm.fold(model.unembedding, _bias(bridge.unembed)),
        rotary,
    )


def _window(attention: Any, layer: int) -> int | None:
    """How many tokens a query of a layer sees, where the model says that not all."""
    config = getattr(attention, "config", None)
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    local = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(attention, "sliding_window", window) if local else None


def _rotary(original_model: Any) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The model's own module of rotary tables, frequencies and all."""
    found = [
        module
        for name, module in original_model.named_modules()
        if name.split(".")[-1] == "rotary_emb" or name.endswith("rotary_emb._original_component")
    ]
    for module in found:
        inner = getattr(module, "original_component", module)
        if hasattr(inner, "inv_freq"):
            return inner  # type: ignore[no-any-return]
    return None
