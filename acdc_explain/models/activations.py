"""What a forward pass reads and leaves behind, and the hooks that watch or change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..records.circuit import Node
from ..records.graph import Graph

Hook = tuple[str, Callable[..., Any]]
"""A hook point of the bridge and a function of `(value, hook)`: a new value, or None to look on."""

TOLERANCE = 1e-4  # relative error at which the split into components counts as exact (float32)
EMBEDDING, POSITIONS = "hook_embed", "hook_pos_embed"


@dataclass(frozen=True)
class Batch:
    """Prompts of several lengths, padded on the right (causal attention never sees the padding)."""

    tokens: Int[Tensor, "batch pos"]
    end: Int[Tensor, "batch"]  # index of each prompt's last token

    @property
    def rows(self) -> Int[Tensor, "batch"]:
        return torch.arange(len(self.end), device=self.end.device)

    def at_end(self, values: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """`values` at each prompt's last token."""
        return values[self.rows, self.end]


@dataclass(frozen=True)
class Activations:
    """What one forward pass computed."""

    writers: Float[Tensor, "writer batch pos d_model"]
    patterns: Float[Tensor, "layer batch head query key"]
    final: Float[Tensor, "batch d_model"]  # residual stream at the last token, before the norm
    logits: Float[Tensor, "batch vocab"]  # at the last token


@dataclass(frozen=True)
class LayerInputs:
    """The inputs of every layer in one forward pass, so that the later layers can be run alone."""

    batch: Batch
    streams: list[Float[Tensor, "batch pos d_model"]]
    arguments: list[dict[str, Any]]  # what a layer takes beside the stream: rotary tables, masks


# --- hooks -------------------------------------------------------------------------------------


def port_point(layer: int, port: str | None) -> str:
    """Where a head's port (q, k or v) or the MLP (None) of a layer reads the stream."""
    return f"blocks.{layer}.attn.hook_{port}_input" if port else f"blocks.{layer}.hook_mlp_in"


def final_point(graph: Graph) -> str:
    """Where the final norm reads the stream."""
    return f"blocks.{graph.n_layers - 1}.hook_resid_post"


def final_hook(graph: Graph, batch: Batch, record: Callable[[Tensor], Any]) -> Hook:
    """A hook that calls `record(last token's stream before the final norm [batch d_model])`."""
    return final_point(graph), lambda value, hook: record(batch.at_end(value))


def pattern_hooks(graph: Graph, record: Callable[[Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(attention [batch head query key])`, layer by layer."""
    return _watch(graph, "attn.hook_pattern", record)


def value_hooks(graph: Graph, record: Callable[[Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(value vectors [batch pos head d_head])`, layer by layer."""
    return _watch(graph, "attn.hook_v", record)


def mlp_hooks(graph: Graph, record: Callable[[Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(MLP output [batch pos d_model])`, layer by layer."""
    return _watch(graph, "hook_mlp_out", record)


def _watch(graph: Graph, point: str, record: Callable[[Tensor], Any]) -> list[Hook]:

    def hook(value: Tensor, hook: Any) -> None:
        record(value)

    return [(f"blocks.{layer}.{point}", hook) for layer in range(graph.n_layers)]


def embedding_hooks(record: Callable[[slice, Tensor], Any], *, positions: bool) -> list[Hook]:
    """As `layer_hooks`, for the input, which token and position embedding write one after other."""
    points = (EMBEDDING, POSITIONS) if positions else (EMBEDDING,)
    return [(point, _single_writer(0, record)) for point in points]


def layer_hooks(graph: Graph, record: Callable[[slice, Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(indices of writers, output [writer batch pos d_model])`.

    All heads of a layer come in one call. `record` may return a replacement of the same shape.
    """
    width = graph.n_heads + graph.has_mlps
    hooks: list[Hook] = []
    for layer in range(graph.n_layers):
        heads = slice(1 + layer * width, 1 + layer * width + graph.n_heads)
        hooks.append((f"blocks.{layer}.attn.hook_result", _head_writers(heads, record)))
        if graph.has_mlps:
            mlp = _single_writer((layer + 1) * width, record)
            hooks.append((f"blocks.{layer}.hook_mlp_out", mlp))
    return hooks


def _head_writers(
    indices: slice, record: Callable[[slice, Tensor], Any]
) -> Callable[..., Tensor | None]:
    def hook(value: Tensor, hook: Any) -> Tensor | None:
        new = record(indices, value.permute(2, 0, 1, 3))
        return None if new is None else new.permute(1, 2, 0, 3)

    return hook


def _single_writer(
    index: int, record: Callable[[slice, Tensor], Any]
) -> Callable[..., Tensor | None]:
    def hook(value: Tensor, hook: Any) -> Tensor | None:
        new = record(slice(index, index + 1), value[None])
        return None if new is None else new[0]

    return hook


def replacement(node: Node, output: Float[Tensor, "batch pos d_model"]) -> Hook:
    """A hook that makes a head or an MLP write `output`; one layer may have several."""
    if node.kind == "mlp":
        return f"blocks.{node.layer}.hook_mlp_out", lambda value, hook: output
    layer, head = head_index(node)

    def hook(value: Tensor, hook: object) -> Tensor:
        value[:, :, head] = output  # in place: other heads of the layer may be replaced as well
        return value

    return f"blocks.{layer}.attn.hook_result", hook


# --- helpers -----------------------------------------------------------------------------------


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference, in units of the reference's largest entry."""
    scale = reference.abs().max().clamp_min(1e-30)
    return float((value - reference).abs().max() / scale)


def layer_of(node: Node) -> int:
    """The layer of a head or MLP."""
    assert node.layer is not None
    return node.layer


def head_index(node: Node) -> tuple[int, int]:
    """Layer and head of a head node."""
    assert node.head is not None
    return layer_of(node), node.head
