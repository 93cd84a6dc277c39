"""The rows of the residual stream that a cut can change, and what is written there.

A row is a token of a prompt. Tokens before the first that differs between the clean and the
corrupted prompt never change, because attention is causal; nor does padding. They are not rows.
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
    """The rows at which a head writes. `single`: they are one token of every prompt."""

    rows: Int[Tensor, "row"]
    tokens: Int[Tensor, "row"]  # the same rows among all tokens of the padded batch
    single: bool
    hidden: Bool[Tensor, "batch query key"]  # keys that a query does not see


class StreamRows:
    """Everything about the rows that stays the same during a search.

    Nodes go by numbers: that of a writer in the graph, and `logits` for the logits.

    Attributes:
        flat: The rows among all tokens of the padded batch.
        prompt, token: The prompt of each row, and its token within the prompt.
        end_mask, end_rows: The last token of each prompt, as a mask and by number.
        places: By named position, its rows; one mask of all rows where nodes are not split.
        ablated: What each writer writes when ablated.
        change: What cutting an edge from each writer adds: the ablated output minus the clean one.
        clean_streams, cut_streams: What the heads and the MLP of each layer read, in turn, and
            the final stream; of the clean run at all tokens, and at the rows with everything cut.
    """

    def __init__(self, contrast: Contrast, search_graph: SearchGraph, layers: Layers) -> None:
        self.graph, self.layers = search_graph.graph, layers
        batch, device = contrast.clean, contrast.clean.tokens.device
        self.n_prompts, self.length = batch.tokens.shape
        self.end = batch.end
        tokens = torch.arange(self.length, device=device)
        can_change = (tokens >= contrast.first_change[:, None]) & contrast.within
        self.flat: Int[Tensor, "row"] = can_change.flatten().nonzero().flatten()
        self.prompt, self.token = self.flat // self.length, self.flat % self.length
        self.end_mask: Mask = self.token == batch.end[self.prompt]
        self.end_rows: Int[Tensor, "batch"] = self.end_mask.nonzero().flatten()
        place_masks = contrast.place_masks(search_graph.places)
        self.places: Bool[Tensor, "place row"] = place_masks.flatten(1)[:, self.flat]
        self._set_streams(contrast)
        self.logits = len(self.graph.writers)  # the number after the last writer's
        self.table = layers.tables(self.length, self.change)

    def _set_streams(self, contrast: Contrast) -> None:
        clean = contrast.clean_run.writers.flatten(1, 2)
        self.ablated: Float[Tensor, "writer row d_model"]
        self.ablated = contrast.ablated.flatten(1, 2)[:, self.flat]
        self.change = self.ablated - clean[:, self.flat]
        self.clean_streams = self.layers.streams(self.graph, clean)
        self.cut_streams = self.layers.streams(self.graph, self.ablated)

    def number(self, node: Node) -> int:
        """The number of a node, at whatever place."""
        return self.logits if node.kind == "logits" else self.graph.writer_index[node.base]

    def node(self, number: int) -> Node:
        """The writer of a number. The logits are no writer."""
        return self.graph.writers[number]

    def stream(self, number: int) -> int:
        """The index, in `clean_streams` and `cut_streams`, of the stream that a node reads."""
        if number == self.logits:
            return -1
        node = self.node(number)
        assert node.layer is not None
        return 2 * node.layer + (node.kind == "mlp")

    def visible_from(self, queries: Mask) -> Mask:
        """The rows at or before one of the queries in the same prompt."""
        last = torch.full((self.n_prompts,), -1, device=queries.device)
        last.scatter_reduce_(0, self.prompt[queries], self.token[queries], "amax")
        return self.token <= last[self.prompt]

    def attending_to(self, keys: Mask) -> Mask:
        """The rows at or after one of the keys in the same prompt."""
        first = torch.full((self.n_prompts,), self.length, device=keys.device)
        first.scatter_reduce_(0, self.prompt[keys], self.token[keys], "amin")
        return self.token >= first[self.prompt]

    def needed(self, port: str | None, alive: Mask) -> Mask:
        """The rows a port must read for its node to write the rows `alive`."""
        return self.visible_from(alive) if port in ("k", "v") else alive

    def queries(self, node: int, mask: Mask) -> Queries:
        """The rows of a mask as queries of a head, for `scores` and `mix`."""
        rows = mask.nonzero().flatten()
        prompts = torch.arange(self.n_prompts, device=mask.device)
        single = len(rows) == self.n_prompts and bool((self.prompt[rows] == prompts).all())
        keys = torch.arange(self.length, device=mask.device)
        tokens = self.token[rows][:, None, None] if single else keys[None, :, None]
        return Queries(rows, self.flat[rows], single, self.attention(node).hidden(tokens, keys))

    def attention(self, node: int) -> Attention:
        """The attention of a head's layer."""
        layer = self.node(node).layer
        assert layer is not None
        return self.layers.attention[layer]

    def project(
        self, node: int, port: str, x: Float[Tensor, "*batch row d_model"], tokens: Tensor
    ) -> Float[Tensor, "*batch row d_head"]:
        """A head's queries, keys or values of some rows; `tokens`: theirs within their prompts."""
        head = self.node(node).head
        assert head is not None
        rows = None if self.table is None else (self.table[0][tokens], self.table[1][tokens])
        return self.attention(node).project(port, head, x, rows)

    def scores(
        self, node: int, q: Float[Tensor, "*b token d_head"], k: Tensor, queries: Queries
    ) -> Float[Tensor, "*b batch query key"]:
        """The attention of a head, after the softmax. `q` is at all tokens, or at the queries."""
        if queries.single:
            chosen = q if q.shape[-2] == self.n_prompts else q[..., queries.tokens, :]
            query = chosen.unsqueeze(-2)
        else:
            query = self._by_prompt(q)
        scores = query @ self._by_prompt(k).transpose(-1, -2) * self.attention(node).scaling
        return scores.masked_fill(queries.hidden, -torch.inf).softmax(-1)

    def mix(
        self, node: int, pattern: Tensor, v: Float[Tensor, "*b token d_head"], queries: Queries
    ) -> Float[Tensor, "*b row d_head"]:
        """A head's z at the queries: its values, weighted by its attention."""
        z = pattern @ self._by_prompt(v)
        if queries.single:
            return z.squeeze(-2)
        return z.flatten(-3, -2)[..., queries.tokens, :]

    def output(self, node: int) -> Weight:
        """The map from a head's z to what it writes."""
        head = self.node(node).head
        assert head is not None
        return self.attention(node).each_output[head]

    def _by_prompt(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-2], self.n_prompts, self.length, x.shape[-1])

    def mlp(self, node: int) -> Mlp:
        """The MLP of a node's layer."""
        layer = self.node(node).layer
        assert layer is not None
        mlp = self.layers.mlp[layer]
        assert mlp is not None
        return mlp

    @property
    def bytes(self) -> int:
        """The memory of these tensors and of the two runs from which they come."""
        tensors = [self.ablated, self.change, *self.clean_streams, *self.cut_streams]
        runs = 2 * self.change.shape[0] * self.n_prompts * self.length * self.change.shape[2]
        return sum(x.nbytes for x in tensors) + runs * self.change.element_size()
