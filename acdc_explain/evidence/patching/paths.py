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

from ...discovery.engine.proof import fast_trouble
from ...models.activations import head_index
from ...models.contrast import Contrast
from ...records.circuit import Node, Port
from ..measurement import NotMeasurable
from .passes import Pass, clean_pass, pass_of

Change = Float[Tensor, "variant batch pos d_model"]  # what is added to the stream a port reads


@dataclass(frozen=True)
class ReceiverOutput:
    """The attention and output of one head whose ports read changed streams."""

    pattern: Float[Tensor, "variant batch query key"]
    written: Float[Tensor, "variant batch query d_model"]


def exact_pass(contrast: Contrast) -> Pass:
    """The run of the clean prompts by layers that are proven to be exact. Raises NotMeasurable."""
    if (trouble := fast_trouble(contrast)) is not None:
        raise NotMeasurable(f"no head can be run alone: {trouble}")
    return contrast.once_for_clean(clean_pass)


class PathPatching:
    """Runs single heads of a model on changed streams."""

    def __init__(self, contrast: Contrast) -> None:
        """Run the clean prompts.

        Raises:
            NotMeasurable: The layers of the model cannot be computed from its weights here.
        """
        self.contrast, self.graph = contrast, contrast.model.graph
        self.clean = contrast.once_for_clean(exact_pass)
        self.layers, self.places = self.clean.runner.layers, self.clean.runner.places

    def senders(self, receiver: Node) -> tuple[Node, ...]:
        """The nodes whose output a receiver reads."""
        return self.graph.writers[: self.graph.n_senders(receiver)]

    def cut(self, senders: Sequence[Node]) -> Change:
        """What cutting each sender's edge adds to the stream: ablated minus clean output."""
        return torch.stack([self._ablated(x) - self.clean.written(x) for x in senders])

    def _ablated(self, node: Node) -> Float[Tensor, "batch pos d_model"]:
        """What a node writes when ablated, as the contrast says."""
        contrast = self.contrast
        if contrast.ablation == "zero":
            return torch.zeros_like(self.clean.streams[0])
        corrupt = pass_of(contrast, contrast.corrupt).written(node)
        if contrast.ablation == "corrupt":
            return corrupt
        return corrupt[contrast.clean.within_indices].mean(0).expand_as(corrupt)

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
        attention, clean = self.layers.attention[layer], self.clean.streams[layer]
        tables = self.places[layer].tables
        q_stream, q_tables = clean, tables
        bias = self.places[layer].bias_of_head(attention.form.distance_scaling, head)
        if query is not None:
            rows = torch.arange(len(query), device=query.device)
            q_stream, bias = clean[rows, query][:, None], bias[query][:, None]
            if tables is not None:
                q_tables = tables[0][query][:, None], tables[1][query][:, None]

        def project(port: Port, x: Tensor, cos_sin: tuple[Tensor, Tensor] | None) -> Tensor:
            x = x[None] + changes[port] if port in changes else x[None]
            return attention.project(port, head, x, cos_sin)

        q = project("q", q_stream, q_tables)
        k, v = (project("k", clean, tables), project("v", clean, tables))
        pattern = attention.pattern(q @ k.transpose(-1, -2), bias, head)
        written = self._write(layer, head, pattern, v, query)
        return ReceiverOutput(pattern.expand(len(written), -1, -1, -1), written)

    def _write(
        self, layer: int, head: int, pattern: Tensor, v: Tensor, query: Tensor | None = None
    ) -> Tensor:
        """What a head adds to the stream. A norm after the layer keeps its scale of the run."""
        attention = self.layers.attention[layer]
        written = attention.write(head, pattern @ v)
        scale = self.clean.scales[layer]
        if scale is None:
            return written
        if query is not None:
            rows = torch.arange(len(query), device=query.device)
            scale = scale[rows, query][:, None]
        return attention.post.share(written, scale)

    @torch.no_grad()
    def output_with(
        self, head: Node, pattern: Float[Tensor, "batch query key"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What a head would write with this attention and the values of the run."""
        layer, index = head_index(head)
        attention = self.layers.attention[layer]
        v = attention.project("v", index, self.clean.streams[layer], self.places[layer].tables)
        return self._write(layer, index, pattern.to(v.dtype), v)
