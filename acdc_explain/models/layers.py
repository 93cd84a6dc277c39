"""What the layers of a transformer compute, as plain functions of what their ports read.

The weights are those that the bridge exposes, with norms folded in (`affine`).
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
from .affine import Affine, Norm, UnsupportedModel, Weight, bias_of, detached, rotate
from .model import Model


@dataclass(frozen=True)
class Attention:
    """All heads of a layer."""

    norm: Norm
    ports: dict[str, Affine]  # of all heads together
    each: dict[str, list[Affine]]  # of each head
    head_norms: dict[str, Callable[[Tensor], Tensor]]  # on each head's q and k (Qwen3)
    output: Float[Tensor, "head*d_head d_model"]
    each_output: list[Weight]
    output_bias: Float[Tensor, "d_model"] | None
    scaling: float
    n_rotated: int  # how many of a head's dimensions carry rotary positions
    window: int | None  # tokens a query sees, where attention is local

    @staticmethod
    def of(block: Any, n_rotated: int, window: int | None) -> Attention:
        """Read the heads of one of the bridge's blocks. Raises UnsupportedModel."""
        attn = block.attn
        norm = Norm.of(block.ln1.original_component)
        weights = {"q": attn.W_Q, "k": attn.W_K, "v": attn.W_V}
        ports, head_norms = {}, {}
        for port, weight in weights.items():
            together = weight.detach().transpose(0, 1).flatten(1)  # [d_model head*d_head]
            bias = bias_of(getattr(attn, port))
            ports[port] = norm.fold(together, None if bias is None else bias.flatten())
            head_norm = getattr(attn.original_component, f"{port}_norm", None)
            if head_norm is not None:
                head_norms[port] = getattr(head_norm, "original_component", head_norm)
        each = {port: affine.heads(len(attn.W_Q)) for port, affine in ports.items()}
        output, scaling = attn.W_O.detach(), getattr(attn.original_component, "scaling", None)
        return Attention(
            norm,
            ports,
            each,
            head_norms,
            output.flatten(0, 1),
            [Weight(matrix) for matrix in output],
            bias_of(attn.o),
            attn.W_Q.shape[2] ** -0.5 if scaling is None else float(scaling),
            n_rotated,
            window,
        )

    def project(
        self, port: str, head: int, x: Tensor, table: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*rows d_head"]:
        """A head's query, key or value of residual-stream rows.

        `table`: cosines and sines of the rows' rotary positions, if the model has them.
        """
        return self.finish(port, self.each[port][head](x, self.norm.inverse_scale(x)), table)

    def hidden(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Which keys a query does not see; both are token numbers and broadcast."""
        later = keys > queries
        return later if self.window is None else later | (keys <= queries - self.window)

    def finish(
        self, port: str, y: Float[Tensor, "*rows d_head"], table: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*rows d_head"]:
        """From the product with the weights to the query, key or value: norm, rotary position."""
        if port in self.head_norms:
            y = self.head_norms[port](y)
        if table is None or port == "v":
            return y
        return rotate(y, *table, self.n_rotated)


@dataclass(frozen=True)
class Mlp:
    """An MLP with one hidden layer, gated or not."""

    norm: Norm
    up: Affine  # into the hidden layer
    gate: Affine | None
    activation: Callable[[Tensor], Tensor]
    out: Weight
    out_bias: Float[Tensor, "d_model"] | None

    @staticmethod
    def of(block: Any) -> Mlp:
        """Read the MLP of one of the bridge's blocks. Raises UnsupportedModel."""
        mlp, norm = block.mlp, Norm.of(block.ln2.original_component)
        original = mlp.original_component
        activation = getattr(original, "act", None) or getattr(original, "act_fn", None)
        if activation is None:
            raise UnsupportedModel(f"its MLP is a {type(original).__name__}")
        gate = mlp.W_gate
        return Mlp(
            norm,
            norm.fold(mlp.W_in.detach(), detached(mlp.b_in)),
            None if gate is None else norm.fold(gate.detach(), bias_of(mlp.gate)),
            getattr(activation, "original_component", activation),
            Weight(mlp.W_out.detach()),
            detached(mlp.b_out),
        )

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        x = x * self.norm.inverse_scale(x)
        return self.finish([affine.scaled(x) for affine in self.maps])

    @property
    def maps(self) -> list[Affine]:
        """The maps that read the normed stream: into the hidden layer, and the gate's if any."""
        return [self.up] if self.gate is None else [self.up, self.gate]

    def neurons(self, mapped: list[Float[Tensor, "*rows d_mlp"]]) -> Float[Tensor, "*rows d_mlp"]:
        """The hidden layer, from the outputs of `maps`."""
        hidden = self.activation(mapped[-1])
        return hidden if self.gate is None else hidden * mapped[0]

    def finish(self, mapped: list[Float[Tensor, "*rows d_mlp"]]) -> Float[Tensor, "*rows d_model"]:
        """The output, from the outputs of `maps`."""
        output = self.out(self.neurons(mapped))
        return output if self.out_bias is None else output + self.out_bias


class FromHeads:
    """An MLP that reads a fixed stream plus what some heads write.

    Heads write in few dimensions, so W_O and the MLP's maps are multiplied beforehand into one
    product from d_head. For one head, that saves half of the MLP's work.
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
        z: Float[Tensor, "candidate row heads*d_head"],
        x: Float[Tensor, "candidate row d_model"],
    ) -> Float[Tensor, "candidate row d_model"]:
        """`z`: what the heads mix from their values, before W_O; `x`: what the MLP reads."""
        scale = self.mlp.norm.inverse_scale(x)
        mapped = []
        for affine, weight, fixed in zip(self.mlp.maps, self._weights, self._fixed):
            y = weight(z).add_(fixed).mul_(scale)
            mapped.append(y if affine.bias is None else y.add_(affine.bias))
        return self.mlp.finish(mapped)


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
        """The layers of a model, read once and kept while the model is.

        Raises:
            UnsupportedModel: The model has a part that this module cannot compute.
        """
        try:
            if model not in _LAYERS:
                _LAYERS[model] = _read_layers(model)
            return _LAYERS[model]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"{model.cfg.architecture} is built otherwise ({error})"
            raise UnsupportedModel(reason) from error

    def streams(
        self, graph: Graph, writers: Float[Tensor, "writer *row d_model"]
    ) -> list[Float[Tensor, "*row d_model"]]:
        """The stream that each layer's heads and then its MLP read, and at last the final one."""
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


_LAYERS: WeakKeyDictionary[Model, Layers] = WeakKeyDictionary()


def _read_layers(model: Model) -> Layers:
    bridge, blocks = model.bridge, list(model.bridge.blocks)
    rotary = _rotary(bridge.original_model)
    n_rotated = 0
    if rotary is not None:
        probe = rotary(model.unembedding[:1, :1], torch.zeros(1, 1, dtype=torch.long))
        n_rotated = probe[0].shape[-1]
    attention = tuple(
        Attention.of(block, n_rotated, _window(block.attn.original_component, layer))
        for layer, block in enumerate(blocks)
    )
    norm = Norm.of(bridge.ln_final.original_component)
    return Layers(
        attention,
        tuple(Mlp.of(block) if model.graph.has_mlps else None for block in blocks),
        norm,
        norm.fold(model.unembedding, bias_of(bridge.unembed)),
        rotary,
    )


def _window(attention: Any, layer: int) -> int | None:
    """How many tokens a query of a layer sees; None: all before it."""
    config = getattr(attention, "config", None)
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    local = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(attention, "sliding_window", window) if local else None


def _rotary(original_model: Any) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The model's own module of rotary tables, with its frequencies; None without them."""
    modules = [
        module
        for name, module in original_model.named_modules()
        if name.split(".")[-1] == "rotary_emb" or name.endswith("rotary_emb._original_component")
    ]
    for module in modules:
        inner = getattr(module, "original_component", module)
        if hasattr(inner, "inv_freq"):
            return inner  # type: ignore[no-any-return]
    return None


@torch.no_grad()
def ov_outputs(
    model: Model, layer: int, stream: Float[Tensor, "row d_model"]
) -> Float[Tensor, "head row d_model"]:
    """What each head of a layer writes when it attends to nothing but this residual stream.

    Computed by the bridge's modules, so for models that `Layers` does not support as well.
    """
    block = model.bridge.blocks[layer]
    normed = block.ln1(stream[:, None])[:, 0]
    values = torch.einsum("wd,hde->hwe", normed, model.bridge.W_V[layer].detach())
    bias = getattr(block.attn, "b_V", None)
    if bias is not None:
        values = values + bias.detach()[:, None]
    outputs: Tensor = torch.einsum("hwe,hed->hwd", values, model.bridge.W_O[layer].detach())
    return outputs


@torch.no_grad()
def projected(
    model: Model, port: str, layer: int, head: int, stream: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_head"]:
    """A head's query (`port` "q") or key ("k") of residual streams, without rotary position."""
    block = model.bridge.blocks[layer]
    weight: Tensor = getattr(block.attn, f"W_{port.upper()}")
    bias: Tensor | None = getattr(block.attn, f"b_{port.upper()}", None)
    rows: Tensor = block.ln1(stream[:, None])[:, 0] @ weight[head].detach()
    if bias is None:
        return rows
    return rows + bias.detach().view(model.graph.n_heads, -1)[head]
