"""One run of a model's layers as functions, which keeps what is asked of single nodes later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.activations import Batch, give_back_memory, head_index, layer_of
from ...models.contrast import Contrast
from ...models.functional.attention import Attention
from ...models.functional.layers import Layers
from ...models.model import Model
from ...models.network.precision import precise
from ...records.circuit import PORTS, Node, Port

Instead = Mapping[Node, Sequence[tuple[int, Tensor, Tensor]]]
"""By node: the numbers of the variants in which it writes something else, what, and where."""


@dataclass(frozen=True)
class Window:
    """The last tokens of every prompt, the end last; all of a shorter prompt, and padding."""

    tokens: Int[Tensor, "batch window"]
    rows: Int[Tensor, "batch 1"]

    @staticmethod
    def of(batch: Batch, length: int) -> Window:
        back = torch.arange(length - 1, -1, -1, device=batch.end.device)
        tokens = batch.end[:, None] - back
        # A short prompt's window goes on after its end, so that no token is there twice.
        return Window(torch.where(tokens < 0, tokens + length, tokens), batch.rows[:, None])

    @staticmethod
    def everything(batch: Batch) -> Window:
        tokens = torch.arange(batch.tokens.shape[1], device=batch.end.device)
        return Window(tokens.expand_as(batch.tokens), batch.rows[:, None])

    def of_all(self, value: Float[Tensor, "batch pos *d"]) -> Float[Tensor, "batch window *d"]:
        """The window of values at all tokens."""
        return value[self.rows, self.tokens]


@dataclass(frozen=True)
class Attended:
    """What the heads of a layer compute: keys and values of all tokens, and attention."""

    k: Float[Tensor, "variant batch head pos d_head"]  # empty in runs that keep none
    v: Float[Tensor, "variant batch head pos d_head"]
    pattern: Float[Tensor, "variant batch head window pos"]

    @property
    def z(self) -> Float[Tensor, "variant batch window head d_head"]:
        """The mixed values: cheap to compute, and larger than the attention."""
        return (self.pattern @ self.v).transpose(2, 3)


@dataclass(frozen=True)
class LayerRun:
    """What one layer computes: its attention, what its MLP writes, and the stream after it."""

    attended: Attended
    scale: Tensor | None  # one over that of a norm after the heads
    output: Float[Tensor, "variant batch pos d_model"] | None
    after: Float[Tensor, "variant batch pos d_model"]


class LayerRunner:
    """Runs single layers of a model on a window of the stream, in several variants at once."""

    def __init__(self, model: Model, length: int) -> None:
        """`length`: of the padded prompts. Raises UnsupportedModel: layers are no functions."""
        self.layers, self.graph = Layers.of(model), model.graph
        self.places = self.layers.places(length)

    def attend(
        self,
        number: int,
        x: Float[Tensor, "variant batch window d_model"],
        window: Window,
        clean: Attended | None = None,
    ) -> Attended:
        """Run the heads of a layer.

        Args:
            number: The layer.
            x: The stream that they read.
            window: Its tokens.
            clean: Where keys and values before the window come from; None if it is everything.
        """
        attention, places, n = (
            self.layers.attention[number],
            self.places[number],
            self.graph.n_heads,
        )
        scale, tables = attention.norm.inverse_scale(x), places.tables
        if tables is not None:
            tables = tables[0][window.tokens][:, :, None], tables[1][window.tokens][:, :, None]
        ports: dict[Port, Tensor] = {}
        for port in PORTS:
            y = attention.together(port, x, scale)
            y = attention.finish(port, y.view(*y.shape[:-1], n, -1), tables)
            ports[port] = y.transpose(2, 3)  # [variant batch head window d_head]
        k, v = ports["k"], ports["v"]
        if clean is not None:
            k, v = _with(clean.k, k, window), _with(clean.v, v, window)
        bias = places.bias(attention.form.distance_scaling)[:, window.tokens].transpose(0, 1)
        pattern = attention.pattern(ports["q"] @ k.transpose(-1, -2), bias)
        return Attended(k, v, pattern)

    def added(
        self, number: int, z: Float[Tensor, "variant batch window head d_head"], instead: Instead
    ) -> tuple[Float[Tensor, "variant batch window d_model"], Tensor | None]:
        """What the heads of a layer add to the stream, and one over the scale of a norm after."""
        attention = self.layers.attention[number]
        total, scale = attention.output(z.flatten(-2)), None
        if attention.post.scaled:
            if attention.head_bias is not None:
                total = total + self.graph.n_heads * attention.head_bias
            scale = attention.post.inverse_scale(total)
            total = attention.post(total)
        elif attention.output_bias is not None:
            total = total + attention.output_bias
        for node, variants in instead.items():
            if node.kind == "head":
                for variant, new, at in variants:
                    one_scale = None if scale is None else scale[variant]
                    old = written_by(attention, node, z[variant, :, :, node.head], one_scale)
                    total[variant] += at * (new.to(old.dtype) - old)
        return total, scale

    def mlp(
        self,
        number: int,
        x: Float[Tensor, "variant batch window d_model"],
        after_heads: Float[Tensor, "variant batch window d_model"],
        instead: Instead,
    ) -> Float[Tensor, "variant batch window d_model"] | None:
        """What the MLP of a layer writes; None in a model without MLPs."""
        mlp = self.layers.mlp[number]
        if mlp is None:
            return None
        output = mlp(x if self.graph.parallel else after_heads)
        for variant, new, at in instead.get(Node("mlp", number), ()):
            output[variant] = torch.where(at, new.to(output.dtype), output[variant])
        return output

    def run(
        self, x: Float[Tensor, "variant batch pos d_model"], window: Window
    ) -> Iterator[LayerRun]:
        """Run all layers, one after the other, on all tokens."""
        for number in range(self.graph.n_layers):
            attended = self.attend(number, x, window)
            total, scale = self.added(number, attended.z, {})
            after = x + total
            output = self.mlp(number, x, after, {})
            after = after if output is None else after + output
            yield LayerRun(attended, scale, output, after)
            x = after


def written_by(
    attention: Attention, head: Node, z: Float[Tensor, "*rows d_head"], scale: Tensor | None
) -> Float[Tensor, "*rows d_model"]:
    """What a head adds to the stream. `scale`: one over that of a norm after the heads, if any."""
    assert head.head is not None
    written = attention.write(head.head, z)
    return written if scale is None else attention.post.share(written, scale)


def _with(
    clean: Float[Tensor, "1 batch head pos d_head"],
    new: Float[Tensor, "variant batch head window d_head"],
    window: Window,
) -> Float[Tensor, "variant batch head pos d_head"]:
    """Keys or values at all tokens: the clean ones, and the new ones of the window."""
    together = clean.expand(len(new), *clean.shape[1:]).clone()
    index = window.tokens[None, :, None, :, None].expand_as(new)
    return together.scatter_(3, index, new)


class Pass:
    """A run on some prompts. It keeps the stream of every layer, attention and MLP outputs.

    Attributes:
        streams: What the heads of each layer read, and at last the final stream.
        attended: Keys, values and attention of each layer.
        mlps: What each MLP writes.
        scales: One over the scale of the norm after the heads of each layer; None without one.
    """

    @torch.no_grad()
    def __init__(self, model: Model, batch: Batch, *, keys: bool = True) -> None:
        """Run the prompts. Raises UnsupportedModel where the layers are no functions.

        Args:
            model: The model.
            batch: The prompts.
            keys: Whether to keep keys: only what runs a part of the model again needs them.
        """
        self.runner, self.batch = LayerRunner(model, batch.tokens.shape[1]), batch
        self.streams: list[Float[Tensor, "batch pos d_model"]] = []
        self.attended: list[Attended] = []
        self.mlps: list[Float[Tensor, "batch pos d_model"]] = []
        self.scales: list[Tensor | None] = []
        x = precise(model.embed(batch))[None]
        self.streams.append(x[0])
        for run in self.runner.run(x, Window.everything(batch)):
            self.attended.append(run.attended if keys else replace(run.attended, k=x.new_empty(0)))
            self.scales.append(None if run.scale is None else run.scale[0])
            if run.output is not None:
                self.mlps.append(run.output[0])
            self.streams.append(run.after[0])

    def written(self, node: Node) -> Float[Tensor, "batch pos d_model"]:
        """What a node writes at all tokens."""
        if node.kind == "input":
            return self.streams[0]
        layer = layer_of(node)
        if node.kind == "mlp":
            return self.mlps[layer]
        attended, attention = self.attended[layer], self.runner.layers.attention[layer]
        z = self.pattern(node) @ attended.v[0, :, node.head]
        return written_by(attention, node, z, self.scales[layer])

    def written_at(
        self, node: Node, tokens: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token d_model"]:
        """What a head or an MLP writes at some tokens of each prompt."""
        layer, rows = layer_of(node), self.batch.rows[:, None]
        if node.kind == "mlp":
            return self.mlps[layer][rows, tokens]
        attention, scale = self.runner.layers.attention[layer], self.scales[layer]
        z = self.pattern(node)[rows, tokens] @ self.attended[layer].v[0, :, node.head]
        return written_by(attention, node, z, None if scale is None else scale[rows, tokens])

    def pattern(self, head: Node) -> Float[Tensor, "batch query key"]:
        """The attention of a head."""
        layer, number = head_index(head)
        return self.attended[layer].pattern[0, :, number]

    def mlp_stream(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP of a layer reads."""
        if self.runner.graph.parallel:
            return self.streams[layer]
        return self.streams[layer + 1] - self.mlps[layer]


def clean_pass(contrast: Contrast) -> Pass:
    """The run of the clean prompts; `contrast.once_for_clean(clean_pass)` keeps it."""
    return Pass(contrast.model, contrast.clean)


def pass_of(contrast: Contrast, batch: Batch) -> Pass:
    """The run of other prompts, such as `contrast.corrupt`; the latest ones are kept."""
    if batch is contrast.clean:
        return contrast.once_for_clean(clean_pass)
    return contrast.once_for_clean(LatestPasses).of(contrast.model, batch)


class LatestPasses:
    """Keeps the runs of the latest corruptions: tests often ask for the same ones again."""

    KEPT = 2  # to bound memory: they are large

    def __init__(self, contrast: Contrast) -> None:
        self._runs: list[Pass] = []

    def of(self, model: Model, batch: Batch) -> Pass:
        """The run on these prompts."""
        found = next((run for run in self._runs if run.batch is batch), None)
        self._runs = [run for run in self._runs if run is not found]
        if found is None:
            del self._runs[: len(self._runs) - self.KEPT + 1]  # before there is another one
            give_back_memory()
            found = Pass(model, batch, keys=False)
        self._runs.append(found)
        return found
