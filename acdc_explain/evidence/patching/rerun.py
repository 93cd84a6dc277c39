"""Run prompts again where nodes write something else: many interventions in one batch.

An intervention changes nothing before its first layer, nor at tokens before its first token, as
attention is causal. So each is run from that layer on and from that token on, beside all others
with a window of the same length; keys and values before the window are those of the clean run.
Where the layers cannot be computed as functions, the model's own modules are run, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...discovery.engine.proof import fast_trouble
from ...models.activations import Batch, layer_of, writer_hooks
from ...models.contrast import Contrast
from ...models.model import Model
from ...models.network.hooks import Hook, Point
from ...models.network.precision import precise
from ...records.circuit import Node
from .passes import Instead, Window, clean_pass, pass_of

ROW_NUMBERS = 24_000_000  # numbers that the interventions of one batch hold at a time, about


@dataclass(frozen=True)
class Patch:
    """Nodes that write something else, and the tokens at which they do."""

    outputs: Mapping[Node, Float[Tensor, "batch pos d_model"]]
    at: Bool[Tensor, "batch pos"]

    @property
    def first_layer(self) -> int:
        """The layer of the first of the nodes."""
        return min(map(layer_of, self.outputs))


def metric_with(contrast: Contrast, patches: Sequence[Patch]) -> Float[Tensor, "patch batch"]:
    """The metric on the clean prompts under each of several interventions.

    Args:
        contrast: The prompts.
        patches: What is written instead; each by itself.

    Returns:
        One number for each patch and prompt, on the model's device.
    """
    metrics = {number: contrast.metric(x) for number, x in _logits_with(contrast, patches)}
    if not metrics:
        return torch.empty(0, len(contrast), device=contrast.clean.end.device)
    return torch.stack([metrics[number] for number in range(len(patches))])


def metric_lost(contrast: Contrast, patches: Sequence[Patch]) -> Float[Tensor, "patch batch"]:
    """How much of the clean metric is lost under each of several interventions, by prompt."""
    return contrast.metric(contrast.clean_logits) - metric_with(contrast, patches)


def _logits_with(
    contrast: Contrast, patches: Sequence[Patch]
) -> Iterator[tuple[int, Float[Tensor, "batch vocab"]]]:
    """The number of each patch with its logits, in no particular order."""
    if fast_trouble(contrast) is None:
        yield from contrast.once_for_clean(Rerun).logits(patches)
        return
    for number, patch in enumerate(patches):
        hooks = [_replacing(node, new, patch.at) for node, new in patch.outputs.items()]
        inputs = contrast.clean_inputs
        yield number, contrast.model.run_from(patch.first_layer, inputs, hooks)


def _replacing(node: Node, new: Tensor, at: Bool[Tensor, "batch pos"]) -> Hook:
    """A hook that makes a node write something else at some tokens."""
    if node.kind == "mlp":
        return Point("mlp", layer_of(node)), lambda value: torch.where(at[..., None], new, value)

    def hook(value: Tensor) -> Tensor:
        changed = value.clone()
        changed[:, :, node.head] = torch.where(at[..., None], new, value[:, :, node.head])
        return changed

    return Point("heads", layer_of(node)), hook


@torch.no_grad()
def outputs_of(
    contrast: Contrast, batch: Batch, nodes: Sequence[Node]
) -> dict[Node, Float[Tensor, "batch pos d_model"]]:
    """What some nodes write on prompts: `contrast.clean`, `contrast.corrupt` or others like them.

    Where the layers cannot be computed as functions, the model's own modules are run: once for
    the prompts of the contrast, again for others.
    """
    if fast_trouble(contrast) is None:
        run = pass_of(contrast, batch)
        return {node: run.written(node) for node in nodes}
    if batch is not contrast.clean and batch is not contrast.corrupt:
        return outputs_by_hooks(contrast.model, batch, nodes)
    activations = contrast.clean_run if batch is contrast.clean else contrast.corrupt_run
    index = contrast.model.graph.writer_index
    return {node: activations.written(index[node]) for node in nodes}


def outputs_by_hooks(
    model: Model, batch: Batch, nodes: Sequence[Node]
) -> dict[Node, Float[Tensor, "batch pos d_model"]]:
    wanted = {model.graph.writer_index[node]: node for node in nodes}
    kept: dict[Node, Tensor] = {}

    def record(writers: slice, value: Tensor) -> None:
        for index in range(writers.start, writers.stop):
            if index in wanted:
                kept[wanted[index]] = precise(value[index - writers.start]).clone()

    if wanted:
        model.forward(batch, writer_hooks(model.graph, record))
    return {node: kept[node] for node in nodes}


class Rerun:
    """Runs of the later part of a model, beside its clean run."""

    def __init__(self, contrast: Contrast) -> None:
        """Run the clean prompts. Raises UnsupportedModel where the layers are no functions."""
        self.clean, self.batch = contrast.once_for_clean(clean_pass), contrast.clean
        self.runner = self.clean.runner

    @torch.no_grad()
    def logits(
        self, patches: Sequence[Patch]
    ) -> Iterator[tuple[int, Float[Tensor, "batch vocab"]]]:
        """The number of each patch with its logits at the last tokens."""
        order = sorted(range(len(patches)), key=lambda i: patches[i].first_layer)
        lengths = self._lengths(patches)
        for length in sorted(set(lengths)):
            numbers = [i for i in order if lengths[i] == length]
            most = max(1, ROW_NUMBERS // (len(self.batch.end) * length * self._width))
            for start in range(0, len(numbers), most):
                part = numbers[start : start + most]
                final = self._run([patches[i] for i in part], Window.of(self.batch, length))
                for number, stream in zip(part, final):
                    yield number, self.runner.layers.logits(stream)

    @property
    def _width(self) -> int:
        """The numbers that one token takes while a layer is run, about."""
        outs = [getattr(mlp, "out", None) for mlp in self.runner.layers.mlp[:1]]
        hidden = [0 if out is None else 3 * out.matrix.shape[0] for out in outs]
        n_tokens, d_model = self.clean.streams[0].shape[1:]
        return 8 * d_model + sum(hidden) + 2 * n_tokens

    def _lengths(self, patches: Sequence[Patch]) -> list[int]:
        """How long a window each patch needs: to the end from its first token in any prompt."""
        at = torch.stack([patch.at for patch in patches]) & self.batch.within
        places = torch.arange(at.shape[2], device=at.device)
        first = torch.where(at, places, at.shape[2]).amin(2)  # [patch batch]
        lengths: list[int] = (self.batch.end - first + 1).amax(1).clamp_min(1).tolist()
        return lengths

    def _run(
        self, patches: Sequence[Patch], window: Window
    ) -> Float[Tensor, "patch batch d_model"]:
        """The final streams at the last tokens; `patches` are in the order of first layers."""
        x, joined, clean = None, 0, self.clean
        for layer in range(patches[0].first_layer, self.runner.graph.n_layers):
            new = sum(patch.first_layer == layer for patch in patches[joined:])
            if new:
                stream = window.of_all(clean.streams[layer]).expand(new, -1, -1, -1)
                x = stream if x is None else torch.cat([x, stream])
                joined += new
            assert x is not None
            here = _instead(patches[:joined], layer, window)
            z = self.runner.attend(layer, x, window, clean.attended[layer]).z
            after = x + self.runner.added(layer, z, here)[0]
            output = self.runner.mlp(layer, x, after, here)
            x = after if output is None else after + output
        assert x is not None
        return x[:, :, -1]


def _instead(patches: Sequence[Patch], layer: int, window: Window) -> Instead:
    """What nodes of a layer write instead, within a window."""
    here: dict[Node, list[tuple[int, Tensor, Tensor]]] = {}
    for number, patch in enumerate(patches):
        at = window.of_all(patch.at)[..., None]
        for node, output in patch.outputs.items():
            if layer_of(node) == layer:
                here.setdefault(node, []).append((number, window.of_all(output), at))
    return here
