"""Path patching: from what some writer changes, through one port of a head, as the head sees it.

The receiver-side signal is where the head then looks, and what it then writes. Everything else
stays as in the clean run, so a path costs one head and not the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.contrast import Contrast
from ..models.layers import Attention, Layers, NotTakenApart
from ..models.model import Activations, head_index
from ..records.circuit import Node
from .measurement import NotMeasurable

Change = Float[Tensor, "variant batch pos d_model"]  # what is added to the stream a port reads


@dataclass(frozen=True)
class Received:
    """What a head does with changed streams, at the queries asked for."""

    pattern: Float[Tensor, "variant batch query key"]
    written: Float[Tensor, "variant batch query d_model"]


class PathPatching:
    """The heads of a model on the prompts of a run, each to be run alone on changed streams."""

    def __init__(self, contrast: Contrast, run: Activations | None = None) -> None:
        """`run`: the clean one if none. Raises NotMeasurable where heads cannot be run alone."""
        try:
            self.layers = Layers.of(contrast.model)
        except NotTakenApart as reason:
            raise NotMeasurable(f"no head can be run alone: {reason}") from reason
        self.graph = contrast.model.graph
        self.run = run or contrast.clean_run
        self.writers = self.run.writers
        self.change = contrast.ablated - self.writers  # [writer batch pos d_model]
        streams = self.layers.streams(self.graph, self.writers)
        self.streams, self.mlp_streams = streams[:-1:2], streams[1::2]
        length = contrast.clean.tokens.shape[1]
        self.table = self.layers.tables(length, self.streams[0])
        places = torch.arange(length, device=self.writers.device)
        self.hidden = [a.hidden(places[:, None], places) for a in self.layers.attention]

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        return self.graph.writers[: self.graph.n_senders(receiver)]

    def cut(self, senders: Sequence[Node]) -> Change:
        """What cutting each sender's edge adds: what it writes when ablated, not when clean."""
        return self.change[[self.graph.writer_index[sender] for sender in senders]]

    @torch.no_grad()
    def receive(
        self, receiver: Node, changes: Mapping[str, Change], at: Int[Tensor, "batch"] | None = None
    ) -> Received:
        """A head with its ports (q, k or v) reading the clean stream plus a change each.

        `at`: one query of each prompt instead of all; a change of q is then of that query alone.
        """
        layer, head = head_index(receiver)
        attention, clean = self.layers.attention[layer], self.streams[layer]
        asking, table, hidden = clean, self.table, self.hidden[layer].expand(len(clean), -1, -1)
        if at is not None:
            rows = torch.arange(len(at), device=at.device)
            asking, hidden = clean[rows, at][:, None], hidden[rows, at][:, None]
            table = None if table is None else (table[0][at][:, None], table[1][at][:, None])

        def project(port: str, x: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
            x = x[None] + changes[port] if port in changes else x[None]
            return attention.project(port, head, x, cos_sin)

        q = project("q", asking, table)
        k, v = (project(port, clean, self.table) for port in ("k", "v"))
        scores = q @ k.transpose(-1, -2) * attention.scaling
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        written = self._write(attention, head, pattern, v)
        return Received(pattern.expand(len(written), -1, -1, -1), written)

    def _write(self, attention: Attention, head: int, pattern: Tensor, v: Tensor) -> Tensor:
        return attention.each_output[head](pattern @ v)

    @torch.no_grad()
    def attending(
        self, head: Node, pattern: Float[Tensor, "batch query key"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What a head would write if it attended like this, with the values it has."""
        layer, index = head_index(head)
        attention = self.layers.attention[layer]
        v = attention.project("v", index, self.streams[layer], self.table)
        return self._write(attention, index, pattern.to(v.dtype), v)
