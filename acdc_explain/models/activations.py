"""What a forward pass reads and leaves behind, and the hooks that watch or change it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..records.circuit import Node, Port
from ..records.graph import Graph
from .network.hooks import Function, Hook, Point


@dataclass(frozen=True)
class Batch:
    """Prompts of several lengths, padded on the right (causal attention never sees the padding)."""

    tokens: Int[Tensor, "batch pos"]
    end: Int[Tensor, "batch"]  # index of each prompt's last token

    @property
    def rows(self) -> Int[Tensor, "batch"]:
        return torch.arange(len(self.end), device=self.end.device)

    @property
    def within(self) -> Bool[Tensor, "batch pos"]:
        """True at all tokens, prefix included, and False at padding."""
        places = torch.arange(self.tokens.shape[1], device=self.end.device)
        return places <= self.end[:, None]

    @cached_property
    def within_indices(self) -> tuple[Int[Tensor, "token"], Int[Tensor, "token"]]:
        """Row and place of every token that is no padding: an index that a GPU need not count."""
        rows, places = self.within.nonzero(as_tuple=True)
        return rows, places

    def at_end(self, values: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "batch *rest"]:
        """`values` at each prompt's last token."""
        return values[self.rows, self.end]


@dataclass(frozen=True)
class Activations:
    """What one forward pass computed."""

    at_end: Float[Tensor, "writer batch d_model"]  # what every node writes at the last token
    patterns: Float[Tensor, "layer batch head query key"]
    final: Float[Tensor, "batch d_model"]  # residual stream at the last token, before the norm
    logits: Float[Tensor, "batch vocab"]  # at the last token
    run_again: Callable[[], Float[Tensor, "writer batch pos d_model"]]

    @cached_property
    def writers(self) -> Float[Tensor, "writer batch pos d_model"]:
        """What every node writes; in the host's memory if it takes too much.

        By a forward pass of its own: most of what a circuit is asked needs less, and this is by far
        the largest.
        """
        return self.run_again()

    def written(self, writers: int | slice | list[int]) -> Float[Tensor, "*some batch pos d_model"]:
        """What some nodes write, on the model's device wherever it is kept."""
        return self.writers[writers].to(self.final.device)

    def mean(self, batch: Batch) -> Float[Tensor, "writer d_model"]:
        """The mean of what every node writes over all tokens, where `writers` are kept."""
        rows, places = (index.to(self.writers.device) for index in batch.within_indices)
        return self.writers[:, rows, places].mean(1)


@dataclass(frozen=True)
class LayerInputs:
    """The inputs of every layer in one forward pass, so that the later layers can be run alone."""

    batch: Batch
    streams: list[Float[Tensor, "batch pos d_model"]]
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]
    """What a layer takes beside the stream, by place and by name: rotary tables, masks."""


# --- memory ------------------------------------------------------------------------------------


def search_bytes(graph: Graph, stream: int, itemsize: int, post_norms: bool = False) -> int:
    """The most memory that prompts take in a search, besides the model's weights.

    What every node writes, clean and corrupted, in the model's type; what it writes now; what every
    layer reads, clean and with everything cut; and what heads mix before a norm after them. All but
    the first are in float32 if the model has 16 bits.

    Args:
        graph: The nodes.
        stream: The numbers of the stream: tokens of all prompts, with padding, times d_model.
        itemsize: Bytes of a number of the model.
        post_norms: Whether norms follow the heads.
    """
    writers = len(graph.writers)
    mixed = graph.n_layers * graph.n_heads if post_norms else 0
    in_search = writers + 2 * (2 * graph.n_layers + 1) + mixed
    return (2 * writers * itemsize + in_search * max(itemsize, 4)) * stream


@torch.no_grad()
def written_everywhere(
    forward: Callable[[Batch, list[Hook]], object],
    graph: Graph,
    batch: Batch,
    like: Float[Tensor, "0 d_model"],
) -> Float[Tensor, "writer batch pos d_model"]:
    """What every node writes at all tokens, by one forward pass; kept as, and where, `like` is."""
    writers = like.new_zeros(len(graph.writers), *batch.tokens.shape, like.shape[1])

    def record(indices: slice, value: Tensor) -> None:
        writers[indices] = value

    forward(batch, writer_hooks(graph, record))
    return writers


def give_back_memory() -> None:
    """Return memory that is no longer used to the system.

    The C library keeps freed blocks of less than 32 MB for itself: after a search of a small model
    these were 2 GB of 3.3.
    """
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


# --- hooks -------------------------------------------------------------------------------------


def port_point(layer: int, port: Port | None) -> Point:
    """Where a head's port (q, k or v) or the MLP (None) of a layer reads the stream."""
    return Point("mlp_in" if port is None else port, layer)


def final_hook(batch: Batch, record: Callable[[Tensor], Any]) -> Hook:
    """A hook that calls `record(last token's stream before the final norm [batch d_model])`."""
    return _watch(Point("final"), lambda value: record(batch.at_end(value)))


def pattern_hooks(graph: Graph, record: Callable[[Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(attention [batch head query key])`, layer by layer."""
    return [_watch(Point("pattern", layer), record) for layer in range(graph.n_layers)]


def value_hooks(graph: Graph, record: Callable[[Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(value vectors [batch pos head d_head])`, layer by layer."""
    return [_watch(Point("value", layer), record) for layer in range(graph.n_layers)]


def mlp_hooks(graph: Graph, record: Callable[[Tensor], Any]) -> list[Hook]:
    """Hooks that call `record(MLP output [batch pos d_model])`, layer by layer."""
    return [_watch(Point("mlp", layer), record) for layer in range(graph.n_layers)]


def _watch(point: Point, record: Callable[[Tensor], Any]) -> Hook:
    def look(value: Tensor) -> None:
        record(value)

    return point, look


def writer_hooks(
    graph: Graph, record: Callable[[slice, Tensor], Any], *, embedding: bool = True
) -> list[Hook]:
    """Hooks that see what every node writes. All heads of a layer come in one call.

    Args:
        graph: The nodes of the model.
        record: Called with a slice of `graph.writers` and their output
            [writer batch pos d_model]; may return a replacement of the same shape.
        embedding: Whether the input is among the nodes.
    """
    width = graph.n_heads + graph.has_mlps
    hooks: list[Hook] = [(Point("input"), _single_writer(0, record))] if embedding else []
    for layer in range(graph.n_layers):
        heads = slice(1 + layer * width, 1 + layer * width + graph.n_heads)
        hooks.append((Point("heads", layer), _head_writers(heads, record)))
        if graph.has_mlps:
            hooks.append((Point("mlp", layer), _single_writer((layer + 1) * width, record)))
    return hooks


def _head_writers(indices: slice, record: Callable[[slice, Tensor], Any]) -> Function:
    def hook(value: Tensor) -> Tensor | None:
        new = record(indices, value.permute(2, 0, 1, 3))
        return None if new is None else new.permute(1, 2, 0, 3)

    return hook


def _single_writer(index: int, record: Callable[[slice, Tensor], Any]) -> Function:
    def hook(value: Tensor) -> Tensor | None:
        new = record(slice(index, index + 1), value[None])
        return None if new is None else new[0]

    return hook


def replacement(node: Node, output: Float[Tensor, "batch pos d_model"]) -> Hook:
    """A hook that makes a head or an MLP write `output`; one layer may have several."""
    if node.kind == "mlp":
        return Point("mlp", layer_of(node)), lambda value: output
    layer, head = head_index(node)

    def hook(value: Tensor) -> Tensor:
        changed = value.clone()
        changed[:, :, head] = output
        return changed

    return Point("heads", layer), hook


# --- helpers -----------------------------------------------------------------------------------


def layer_of(node: Node) -> int:
    """The layer of a head or MLP."""
    assert node.layer is not None
    return node.layer


def head_index(node: Node) -> tuple[int, int]:
    """Layer and head of a head node."""
    assert node.head is not None
    return layer_of(node), node.head
