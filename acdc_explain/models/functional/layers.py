"""A whole transformer, layer by layer, as plain functions of what its ports read."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from ...records.circuit import Port
from ...records.graph import Graph
from ..model import Model
from ..network.norm import Norm, UnsupportedModel
from ..network.parts import Block, Network, capped
from ..network.precision import precise
from ..network.watch import watch
from .affine import Affine
from .attention import Attention
from .mlp import Mlp, MlpModule, read_mlp
from .places import Places, places_of


@dataclass(frozen=True)
class Layers:
    """A whole transformer, layer by layer."""

    attention: tuple[Attention, ...]
    mlp: tuple[Mlp | MlpModule | None, ...]
    norm: Norm  # before the unembedding
    unembedding: Affine
    soft_cap: float | None  # of logits
    network: Network
    _places: dict[int, list[Places]] = field(default_factory=dict)  # of the last length

    @staticmethod
    def of(model: Model) -> Layers:
        """The layers of a model, read once and kept while the model is.

        Raises:
            UnsupportedModel: The model has a part that this module cannot compute.
        """
        if model not in _LAYERS:
            try:
                _LAYERS[model] = _read_layers(model.network)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise UnsupportedModel(f"its layers are built otherwise ({error})") from error
        return _LAYERS[model]

    @property
    def plain_mlps(self) -> bool:
        """Whether every MLP has one hidden layer."""
        return all(isinstance(mlp, Mlp) for mlp in self.mlp)

    @property
    def separate_ports(self) -> bool:
        """Whether no norm joins the queries or keys of several heads."""
        return not any(attention.joint_norms for attention in self.attention)

    def logits(self, final: Float[Tensor, "*b d_model"]) -> Float[Tensor, "*b vocab"]:
        """The logits of residual streams."""
        logits = precise(self.unembedding(final, self.norm.inverse_scale(final)))
        return logits if self.soft_cap is None else capped(logits, self.soft_cap)

    def streams(
        self, graph: Graph, writers: Float[Tensor, "writer *row d_model"]
    ) -> list[Float[Tensor, "*row d_model"]]:
        """The stream that each layer's heads and then its MLP read, and at last the final one.

        On the model's device wherever the writers are, in float32 if they have 16 bits.
        """
        width, device = graph.n_heads + graph.has_mlps, self.attention[0].output.matrix.device
        streams, total = [], precise(writers[0]).to(device, copy=True)
        for layer, attention in enumerate(self.attention):
            streams.append(total.clone())
            start = 1 + layer * width
            total += writers[start : start + graph.n_heads].sum(0, dtype=total.dtype).to(device)
            if attention.output_bias is not None:
                total += attention.output_bias
            streams.append(streams[-1] if graph.parallel else total.clone())
            if graph.has_mlps:
                total += writers[start + graph.n_heads].to(device)
        return [*streams, total]

    def places(self, length: int) -> list[Places]:
        """Masks and rotary tables of each layer, for prompts of a number of tokens."""
        if length not in self._places:
            self._places.clear()
            self._places[length] = places_of(self.network, length)
        return self._places[length]


_LAYERS: WeakKeyDictionary[Model, Layers] = WeakKeyDictionary()


@torch.no_grad()
def _read_layers(network: Network) -> Layers:
    blocks, form, attention = network.blocks, None, []
    calls = watch(network.hf_model, [block.module for block in blocks])
    for block, seen in zip(blocks, calls):
        attention.append(Attention.of(block, seen, form))
        form = attention[-1].form
    bias = network.unembedding_bias
    return Layers(
        tuple(attention),
        tuple(read_mlp(block, seen) for block, seen in zip(blocks, calls)),
        network.norm,
        Affine.of(network.norm, network.unembedding, bias),
        network.soft_cap,
        network,
    )


@torch.no_grad()
def ov_outputs(
    model: Model, layer: int, stream: Float[Tensor, "row d_model"]
) -> Float[Tensor, "head row d_model"]:
    """What each head of a layer writes when it attends to nothing but this residual stream.

    Where a norm follows the attention layer, its scale is not known from one head and left out.
    """
    block = model.network.blocks[layer]
    values = torch.einsum("wd,dhe->hwe", _normed(model, layer, stream), _weight(block, "v"))
    bias = block.attention.projections["v"].bias
    if bias is not None:
        values = values + bias[:, None]
    outputs: Tensor = torch.einsum("hwe,hed->hwd", values, block.attention.out_weight)
    return outputs * block.multiplier * block.attention_post.weight


@torch.no_grad()
def unrotated_scores(
    model: Model,
    layer: int,
    head: int,
    queries: Float[Tensor, "query d_model"],
    keys: Float[Tensor, "key d_model"],
) -> Float[Tensor, "query key"]:
    """A head's scores of residual streams, as they would be without any positions.

    With the norms of queries and keys and the scale of the model, where `Layers` supports it; else
    the product divided by the square root of d_head.
    """
    try:
        attention = Layers.of(model).attention[layer]
    except UnsupportedModel:
        q = _projected(model, "q", layer, head, queries)
        k = _projected(model, "k", layer, head, keys)
        scores: Tensor = q @ k.T / q.shape[-1] ** 0.5
        return scores
    q = attention.project("q", head, queries, None)
    k = attention.project("k", head, keys, None)
    scores = q @ k.T * attention.form.scaling
    return scores


def _projected(model: Model, port: Port, layer: int, head: int, stream: Tensor) -> Tensor:
    block = model.network.blocks[layer]
    rows = _normed(model, layer, stream) @ _weight(block, port)[:, head]
    bias = block.attention.projections[port].bias
    return rows if bias is None else rows + bias[head]


def _normed(model: Model, layer: int, stream: Tensor) -> Tensor:
    norm = model.network.blocks[layer].attention.norm
    return stream if norm is None else norm(stream[:, None])[:, 0]


def _weight(block: Block, port: Port) -> Float[Tensor, "d_model head d_head"]:
    return block.attention.projections[port].weight
