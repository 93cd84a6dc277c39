"""Path patching: what changes at one head when some writers change what one of its ports reads.

The result is the head's attention and output. Everything else stays as in the clean run, so a path
costs one head and not the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.activations import Activations, head_index
from ..models.affine import UnsupportedModel
from ..models.contrast import Contrast
from ..models.layers import Attention, Layers
from ..records.circuit import Node
from .measurement import NotMeasurable

Change = Float[Tensor, "variant batch pos d_model"]  # what is added to the stream a port reads


@dataclass(frozen=True)
class ReceiverOutput:
    """The attention and output of one head whose ports read changed streams."""

    pattern: Float[Tensor, "variant batch query key"]
    written: Float[Tensor, "variant batch query d_model"]


class PathPatching:
    """Runs single heads of a model on changed streams."""

    def __init__(self, contrast: Contrast, run: Activations | None = None) -> None:
        """Read the streams of a run.

        Args:
            contrast: The prompts.
            run: Whose streams are changed; the clean run if None.

        Raises:
            NotMeasurable: The layers of the model cannot be computed from its weights here.
        """
        try:
            self.layers = Layers.of(contrast.model)
        except UnsupportedModel as reason:
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
        """The nodes whose output a receiver reads."""
        return self.graph.writers[: self.graph.n_senders(receiver)]

    def cut(self, senders: Sequence[Node]) -> Change:
        """What cutting each sender's edge adds to the stream: ablated minus clean output."""
        return self.change[[self.graph.writer_index[sender] for sender in senders]]

    @torch.no_grad()
    def receive(
        self,
        receiver: Node,
        changes: Mapping[str, Change],
        query: Int[Tensor, "batch"] | None = None,
    ) -> ReceiverOutput:
        """Run a head whose ports read the run's stream plus a change each.

        Args:
            receiver: A head.
            changes: What is added to what the ports q, k and v read; ports may be left out.
            query: One token of each prompt at which the head is run, instead of all. A change of
                q is then of these tokens alone.

        Returns:
            Attention and output, by variant of the change (senders, if it is from `cut`).
        """
        layer, head = head_index(receiver)
        attention, clean = self.layers.attention[layer], self.streams[layer]
        q_stream, table, hidden = clean, self.table, self.hidden[layer].expand(len(clean), -1, -1)
        if query is not None:
            rows = torch.arange(len(query), device=query.device)
            q_stream, hidden = clean[rows, query][:, None], hidden[rows, query][:, None]
            if table is not None:
                table = table[0][query][:, None], table[1][query][:, None]

        def project(port: str, x: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
            x = x[None] + changes[port] if port in changes else x[None]
            return attention.project(port, head, x, cos_sin)

        q = project("q", q_stream, table)
        k, v = (project(port, clean, self.table) for port in ("k", "v"))
        scores = q @ k.transpose(-1, -2) * attention.scaling
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        written = self._write(attention, head, pattern, v)
        return ReceiverOutput(pattern.expand(len(written), -1, -1, -1), written)

    def _write(self, attention: Attention, head: int, pattern: Tensor, v: Tensor) -> Tensor:
        return attention.each_output[head](pattern @ v)

    @torch.no_grad()
    def output_with(
        self, head: Node, pattern: Float[Tensor, "batch query key"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What a head would write with this attention and the values of the run."""
        layer, index = head_index(head)
        attention = self.layers.attention[layer]
        v = attention.project("v", index, self.streams[layer], self.table)
        return self._write(attention, index, pattern.to(v.dtype), v)
