"""The rows of the residual stream that a cut can change, and what is written there.

A row is a token of a prompt. Tokens before the first that differs between the clean and the
corrupted prompt never change, because attention is causal; nor does padding. They are not rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.contrast import Contrast
from ...models.functional.attention import Attention
from ...models.functional.layers import Layers
from ...models.functional.mlp import Mlp, MlpModule
from ...models.network.precision import precise
from ...records.circuit import PORTS, Node, Port
from ...records.graph import SearchGraph

Mask = Bool[Tensor, "row"]
Rows = Int[Tensor, "some"]  # numbers of rows
"""Masks and row numbers are on the CPU whatever the model's device is: what is computed depends on
them, and a device would have to be waited for. `StreamRows.on_device` sends indices there."""


def rows_that_change(contrast: Contrast) -> Rows:
    """All tokens at which a cut can change anything, in the padded batch; on the CPU."""
    tokens = torch.arange(contrast.clean.tokens.shape[1])
    can_change = tokens >= contrast.first_change.cpu()[:, None]
    return (can_change & contrast.clean.within.cpu()).flatten().nonzero().flatten()


@dataclass(frozen=True)
class Queries:
    """The rows at which a head writes. `single`: they are one token of every prompt."""

    rows: Rows
    tokens: Rows  # the same rows among all tokens of the padded batch, on the device
    single: bool
    bias: Float[Tensor, "batch query key"]  # added to scores: masks, and biases by distance


class StreamRows:
    """Everything about the rows that stays the same during a search.

    Nodes go by numbers: that of a writer in the graph, and `logits` for the logits.

    Attributes:
        flat: The rows among all tokens of the padded batch.
        prompt, token: The prompt of each row, and its token within the prompt.
        end_mask, end_rows: The last token of each prompt, as a mask and by number.
        places: By named position, its rows; one mask of all rows where nodes are not split.
        clean_streams, cut_streams: What the heads and the MLP of each layer read, in turn, and
            the final stream; of the clean run at all tokens, and at the rows with everything cut.
    """

    def __init__(self, contrast: Contrast, search_graph: SearchGraph, layers: Layers) -> None:
        self.graph, self.layers = search_graph.graph, layers
        self.device = contrast.clean.tokens.device
        self.n_prompts, self.length = contrast.clean.tokens.shape
        self.flat: Rows = rows_that_change(contrast)
        self.prompt, self.token = self.flat // self.length, self.flat % self.length
        self.end_mask: Mask = self.token == contrast.clean.end.cpu()[self.prompt]
        self.end_rows: Rows = self.end_mask.nonzero().flatten()
        self._prompts = torch.arange(self.n_prompts)
        place_masks = contrast.place_masks(search_graph.places).cpu()
        self.places: Bool[Tensor, "place row"] = place_masks.flatten(1)[:, self.flat]
        self._set_streams(contrast)
        self.logits = len(self.graph.writers)  # the number after the last writer's
        self.places_of_layers = layers.places(self.length)
        self._biases: dict[int, Tensor] = {}

    def _set_streams(self, contrast: Contrast) -> None:
        self._clean, self._ablated = contrast.clean_run.writers, contrast.ablated
        runs = [
            self._clean,
            *([] if contrast.ablation == "zero" else [contrast.corrupt_run.writers]),
        ]
        self._run_bytes = sum(run.nbytes for run in runs if run.device == self.device)
        clean_streams = self.layers.streams(self.graph, self._clean)
        self.clean_streams = [stream.flatten(0, 1) for stream in clean_streams]
        cut_streams = self.layers.streams(self.graph, self._ablated)
        flat = self.on_device(self.flat)
        self.cut_streams = [stream.flatten(0, 1)[flat] for stream in cut_streams]

    def ablated(self, node: int, rows: Rows) -> Float[Tensor, "some d_model"]:
        """What a writer writes when ablated, at some rows."""
        return self._stored(self._ablated[node], rows)

    def deviation(self) -> Float[Tensor, "writer row d_model"]:
        """What each writer writes on clean prompts minus what it writes when ablated."""
        everything = torch.arange(len(self.flat))
        size = len(self.graph.writers), *self.cut_streams[0].shape
        deviation = self.cut_streams[0].new_empty(size)
        for writer, clean in enumerate(self._clean):
            deviation[writer] = self._stored(clean, everything)
            deviation[writer] -= self.ablated(writer, everything)
        return deviation

    def _stored(
        self, written: Float[Tensor, "batch pos d_model"], rows: Rows
    ) -> Float[Tensor, "some d_model"]:
        """Rows of what a node writes, on the device, wherever that is kept."""
        prompt, token = self.prompt[rows], self.token[rows]
        if written.device == self.device:
            return precise(written[self.on_device(prompt), self.on_device(token)])
        return precise(self.on_device(written[prompt, token]))

    def on_device(self, index: Tensor) -> Tensor:
        """An index or a mask where the streams are. The device is not waited for."""
        if self.device.type == "cuda":
            return index.pin_memory().to(self.device, non_blocking=True)
        return index.to(self.device)

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
        last = torch.full((self.n_prompts,), -1)
        last.scatter_reduce_(0, self.prompt[queries], self.token[queries], "amax")
        return self.token <= last[self.prompt]

    def attending_to(self, keys: Mask) -> Mask:
        """The rows at or after one of the keys in the same prompt."""
        first = torch.full((self.n_prompts,), self.length)
        first.scatter_reduce_(0, self.prompt[keys], self.token[keys], "amin")
        return self.token >= first[self.prompt]

    def needed(self, port: str | None, alive: Mask) -> Mask:
        """The rows a port must read for its node to write the rows `alive`."""
        return self.visible_from(alive) if port in ("k", "v") else alive

    def clean_values(self, node: int) -> dict[Port, Float[Tensor, "token d_head"]]:
        """Queries, keys and values of a head in the clean run, at all tokens."""
        stream = self.clean_streams[self.stream(node)]
        tokens = torch.arange(self.length).repeat(self.n_prompts)
        return {port: self.project(node, port, stream, tokens) for port in PORTS}

    def queries(self, node: int, mask: Mask) -> Queries:
        """The rows of a mask as queries of a head, for `scores` and `mix`."""
        rows = mask.nonzero().flatten()
        single = len(rows) == self.n_prompts and torch.equal(self.prompt[rows], self._prompts)
        bias = self._bias(node)
        bias = bias[self.on_device(self.token[rows])][:, None] if single else bias[None]
        return Queries(rows, self.on_device(self.flat[rows]), single, bias)

    def _bias(self, node: int) -> Float[Tensor, "query key"]:
        """What is added to the scores of a head."""
        writer = self.node(node)
        assert writer.layer is not None
        assert writer.head is not None
        if node not in self._biases:
            scaling = self.layers.attention[writer.layer].form.distance_scaling
            places = self.places_of_layers[writer.layer]
            self._biases[node] = places.bias_of_head(scaling, writer.head)
        return self._biases[node]

    def attention(self, node: int) -> Attention:
        """The attention of a head's layer."""
        layer = self.node(node).layer
        assert layer is not None
        return self.layers.attention[layer]

    def project(
        self, node: int, port: Port, x: Float[Tensor, "*batch row d_model"], tokens: Rows
    ) -> Float[Tensor, "*batch row d_head"]:
        """A head's queries, keys or values of some rows; `tokens`: theirs within their prompts."""
        writer = self.node(node)
        assert writer.layer is not None
        assert writer.head is not None
        tables = self.places_of_layers[writer.layer].tables
        if tables is not None and port != "v":
            tokens = self.on_device(tokens)
            tables = tables[0][tokens], tables[1][tokens]
        return self.attention(node).project(port, writer.head, x, tables)

    def scores(
        self, node: int, q: Float[Tensor, "*b token d_head"], k: Tensor, queries: Queries
    ) -> Float[Tensor, "*b batch query key"]:
        """The attention of a head, after the softmax. `q` is at all tokens, or at the queries."""
        if queries.single:
            chosen = q if q.shape[-2] == self.n_prompts else q[..., queries.tokens, :]
            query = chosen.unsqueeze(-2)
        else:
            query = self._by_prompt(q)
        products = query @ self._by_prompt(k).transpose(-1, -2)
        return self.attention(node).pattern(products, queries.bias, self.node(node).head)

    def mix(
        self, node: int, pattern: Tensor, v: Float[Tensor, "*b token d_head"], queries: Queries
    ) -> Float[Tensor, "*b row d_head"]:
        """A head's z at the queries: its values, weighted by its attention."""
        z = pattern @ self._by_prompt(v)
        if queries.single:
            return z.squeeze(-2)
        return z.flatten(-3, -2)[..., queries.tokens, :]

    def write(self, node: int, z: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What a head makes of its z: what it writes, unless a norm follows."""
        head = self.node(node).head
        assert head is not None
        return self.attention(node).write(head, z)

    def output_matrix(self, node: int) -> Float[Tensor, "d_head d_model"]:
        """A head's W_O."""
        head = self.node(node).head
        assert head is not None
        return self.attention(node).each_output[head].matrix

    def _by_prompt(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-2], self.n_prompts, self.length, x.shape[-1])

    def mlp(self, node: int) -> Mlp | MlpModule:
        """The MLP of a node's layer."""
        layer = self.node(node).layer
        assert layer is not None
        mlp = self.layers.mlp[layer]
        assert mlp is not None
        return mlp

    @property
    def bytes(self) -> int:
        """The memory of these tensors, of the state of a search, and of the two runs before it.

        Without runs that are kept in the host's memory.
        """
        streams = sum(stream.nbytes for stream in (*self.clean_streams, *self.cut_streams))
        posts = sum(attention.post.scaled for attention in self.layers.attention)
        in_state = len(self.graph.writers) + posts * self.graph.n_heads  # see `PostNorms`
        return self._run_bytes + streams + in_state * self.cut_streams[0].nbytes
