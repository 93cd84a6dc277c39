"""The rows of the residual stream that a cut can change, and what is written there.

A row is a token of a prompt. Tokens before the first that differs between the clean and the
corrupted prompt never change (attention is causal), nor does padding: they are not among the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.affine import Weight
from ...models.contrast import Contrast
from ...models.layers import Attention, Layers, Mlp
from ...records.circuit import Node
from ...records.graph import SearchGraph

Mask = Bool[Tensor, "row"]


@dataclass(frozen=True)
class Queries:
    """Where a head writes: one token of every prompt (`single`), or rows of all kinds."""

    rows: Int[Tensor, "row"]
    tokens: Int[Tensor, "row"]  # the same rows among all tokens of the padded batch
    single: bool
    hidden: Bool[Tensor, "batch query key"]  # keys that a query does not see


class StreamRows:
    """What stays the same during a search."""

    def __init__(self, contrast: Contrast, search_graph: SearchGraph, layers: Layers) -> None:
        self.graph, self.layers = search_graph.graph, layers
        batch, device = contrast.clean, contrast.clean.tokens.device
        self.n_prompts, self.length = batch.tokens.shape
        self.end = batch.end
        place = torch.arange(self.length, device=device)
        inside = (place >= contrast.first_change[:, None]) & contrast.within
        self.flat: Int[Tensor, "row"] = inside.flatten().nonzero().flatten()
        self.prompt, self.token = self.flat // self.length, self.flat % self.length
        self.n = len(self.flat)
        at_end = self.token == batch.end[self.prompt]
        self.end_mask: Mask = at_end
        self.end_rows: Int[Tensor, "batch"] = at_end.nonzero().flatten()
        self.places: Bool[Tensor, "place row"] = contrast.place_masks(search_graph.places).flatten(
            1
        )[:, self.flat]
        self._lay_out_writers(contrast)
        self.logits = len(self.graph.writers)  # the number of the node after the last writer
        self.table = layers.tables(self.length, self.change)

    def _lay_out_writers(self, contrast: Contrast) -> None:
        clean = contrast.clean_run.writers.flatten(1, 2)
        self.ablated: Float[Tensor, "writer row d_model"]
        self.ablated = contrast.ablated.flatten(1, 2)[:, self.flat]
        self.change = self.ablated - clean[:, self.flat]  # what cutting an edge adds
        self.clean_streams = self.layers.streams(self.graph, clean)
        self.cut_streams = self.layers.streams(self.graph, self.ablated)

    def number(self, node: Node) -> int:
        return self.logits if node.kind == "logits" else self.graph.writer_index[node.base]

    def node(self, number: int) -> Node:
        return self.graph.writers[number]

    def stream(self, number: int) -> int:
        """Which stream a node reads."""
        if number == self.logits:
            return -1
        node = self.node(number)
        assert node.layer is not None
        return 2 * node.layer + (node.kind == "mlp")

    def seen_from(self, queries: Mask) -> Mask:
        """The rows at or before one of these in the same prompt."""
        last = torch.full((self.n_prompts,), -1, device=queries.device)
        last.scatter_reduce_(0, self.prompt[queries], self.token[queries], "amax")
        return self.token <= last[self.prompt]

    def seeing(self, keys: Mask) -> Mask:
        """The rows at or after one of these in the same prompt."""
        first = torch.full((self.n_prompts,), self.length, device=keys.device)
        first.scatter_reduce_(0, self.prompt[keys], self.token[keys], "amin")
        return self.token >= first[self.prompt]

    def needed(self, port: str | None, alive: Mask) -> Mask:
        """The rows a port must read for its node to write the rows `alive`."""
        return self.seen_from(alive) if port in ("k", "v") else alive

    def queries(self, node: int, rows: Mask) -> Queries:
        """The rows at which a head writes, for `attend`."""
        found = rows.nonzero().flatten()
        prompts = torch.arange(self.n_prompts, device=rows.device)
        single = len(found) == self.n_prompts and bool((self.prompt[found] == prompts).all())
        keys = torch.arange(self.length, device=rows.device)
        asking = self.token[found][:, None, None] if single else keys[None, :, None]
        hidden = self.attention(node).hidden(asking, keys)
        return Queries(found, self.flat[found], single, hidden)

    def attention(self, node: int) -> Attention:
        layer = self.node(node).layer
        assert layer is not None
        return self.layers.attention[layer]

    def project(
        self, node: int, port: str, x: Float[Tensor, "*batch row d_model"], places: Tensor
    ) -> Float[Tensor, "*batch row d_head"]:
        """A head's query, key or value of rows at these places in their prompts."""
        head = self.node(node).head
        assert head is not None
        rows = None if self.table is None else (self.table[0][places], self.table[1][places])
        return self.attention(node).project(port, head, x, rows)

    def scores(
        self, node: int, q: Float[Tensor, "*b token d_head"], k: Tensor, queries: Queries
    ) -> Float[Tensor, "*b batch query key"]:
        """Attention of a head, from its queries at all tokens or at those that ask."""
        if queries.single:
            chosen = q if q.shape[-2] == self.n_prompts else q[..., queries.tokens, :]
            asking = chosen.unsqueeze(-2)
        else:
            asking = self._by_prompt(q)
        scores = asking @ self._by_prompt(k).transpose(-1, -2) * self.attention(node).scaling
        return scores.masked_fill(queries.hidden, -torch.inf).softmax(-1)

    def mix(
        self, node: int, pattern: Tensor, v: Float[Tensor, "*b token d_head"], queries: Queries
    ) -> Float[Tensor, "*b row d_head"]:
        """What a head mixes from its values for the rows that ask."""
        z = pattern @ self._by_prompt(v)
        if queries.single:
            return z.squeeze(-2)
        return z.flatten(-3, -2)[..., queries.tokens, :]

    def output(self, node: int) -> Weight:
        """What turns a head's mixed values into what it writes."""
        head = self.node(node).head
        assert head is not None
        return self.attention(node).each_output[head]

    def _by_prompt(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-2], self.n_prompts, self.length, x.shape[-1])

    def mlp(self, node: int) -> Mlp:
        layer = self.node(node).layer
        assert layer is not None
        mlp = self.layers.mlp[layer]
        assert mlp is not None
        return mlp

    @property
    def bytes(self) -> int:
        """Of the tensors kept here, and of the two runs they were made of."""
        held = [self.ablated, self.change, *self.clean_streams, *self.cut_streams]
        runs = 2 * self.change.shape[0] * self.n_prompts * self.length * self.change.shape[2]
        return sum(x.nbytes for x in held) + runs * self.change.element_size()
