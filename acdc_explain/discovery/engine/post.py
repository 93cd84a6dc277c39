"""Norms after attention layers (Gemma 2, OLMo 2): heads that scale each other's output.

Such a norm reads the sum of what the heads of a layer mix. Each head's share of the result is
linear in what it mixed, once the norm's scale is known. The scale is that of the present run, cuts
included, so a head that changes changes the shares of all heads of its layer. This is what the
model itself does when its heads read something else (docs/models.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .rows import Mask, StreamRows

Row = Float[Tensor, "row d_model"]


class PostNorms:
    """What the heads before such norms mix now; empty for other models.

    Attributes:
        mixed: By layer, what each of its heads mixes, times W_O, before the norm.
    """

    def __init__(self, stream_rows: StreamRows) -> None:
        self.stream_rows = stream_rows
        self.mixed: dict[int, Float[Tensor, "head row d_model"]] = {}

    def siblings(self, node: int) -> Sequence[int]:
        """All heads of a head's layer if a norm follows them; else the node alone."""
        stream_rows = self.stream_rows
        if node == stream_rows.logits or stream_rows.node(node).kind != "head":
            return [node]
        if not stream_rows.attention(node).post.scaled:
            return [node]
        writer = stream_rows.node(node)
        assert writer.head is not None
        first = node - writer.head
        return range(first, first + stream_rows.graph.n_heads)

    def has(self, node: int) -> bool:
        """Whether a node is a head before such a norm."""
        return len(self.siblings(node)) > 1

    def of_layer(self, node: int) -> Float[Tensor, "head row d_model"]:
        """What each head of a head's layer mixes now: in the clean run, until `set` says more."""
        layer = self._layer(node)
        if layer not in self.mixed:
            everywhere = torch.ones_like(self.stream_rows.end_mask)
            heads = [self._clean(head, everywhere) for head in self.siblings(node)]
            self.mixed[layer] = torch.stack(heads)
        return self.mixed[layer]

    def _clean(self, head: int, everywhere: Mask) -> Row:
        stream_rows = self.stream_rows
        values = stream_rows.clean_values(head)
        queries = stream_rows.queries(head, everywhere)
        pattern = stream_rows.scores(head, values["q"], values["k"], queries)
        z = stream_rows.mix(head, pattern, values["v"], queries)
        return stream_rows.write(head, z)

    def set(self, node: int, mask: Mask, mixed: Float[Tensor, "some d_model"]) -> None:
        """Note what a head mixes now, at some rows."""
        rows = self.stream_rows.on_device(mask.nonzero().flatten())
        self.of_layer(node)[node - self.siblings(node)[0]].index_copy_(0, rows, mixed)

    def shares(
        self, node: int, mask: Mask, heads: Iterable[int]
    ) -> dict[int, Float[Tensor, "some d_model"]]:
        """What some heads of a layer write now, at some rows."""
        mixed = self.of_layer(node)[:, self.stream_rows.on_device(mask.nonzero().flatten())]
        post, first = self.stream_rows.attention(node).post, self.siblings(node)[0]
        scale = post.inverse_scale(mixed.sum(0))
        return {head: post.share(mixed[head - first], scale) for head in heads}

    def _layer(self, node: int) -> int:
        layer = self.stream_rows.node(node).layer
        assert layer is not None
        return layer


@dataclass(frozen=True)
class Rescale:
    """What the heads of a layer write, from what some of them mix for each candidate.

    `mask`: the rows at which any of them changes; `written`: the heads that something reads.
    """

    post: PostNorms
    changing: Mapping[int, Mask]
    mask: Mask
    written: Sequence[int]

    def run(self, outputs: dict[int, Float[Tensor, "candidate row d_model"]]) -> None:
        """Replace what heads mix, in `outputs`, by what they write, for all that are read."""
        one = next(iter(self.changing))
        first = self.post.siblings(one)[0]
        on_device = self.post.stream_rows.on_device
        now = self.post.of_layer(one)[:, on_device(self.mask.nonzero().flatten())]
        total, mixed = now.sum(0), {}
        for head, mask in self.changing.items():
            new = outputs.pop(head)
            if not torch.equal(mask, self.mask):
                whole = now[head - first].repeat(len(new), 1, 1)
                whole.index_copy_(1, on_device(mask[self.mask].nonzero().flatten()), new)
                new = whole
            mixed[head] = new
            total = total + (new - now[head - first])
        norm = self.post.stream_rows.attention(one).post
        scale = norm.inverse_scale(total)
        for head in self.written:
            outputs[head] = norm.share(mixed.get(head, now[head - first]), scale)
