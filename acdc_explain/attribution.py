"""First-order estimates of what cutting each edge does (Syed et al. 2023; Hanna et al. 2024).

One backward pass through the layers gives the gradient at every query, key, value and MLP input.
What a port reads reaches these through a norm and a linear map, so the gradient at each port of
each head follows without a pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .circuit import INPUT, PORTS, Edge, Node
from .engine import fast_trouble
from .layers import Attention, Layers, Norm
from .model import Hook
from .progress import Progress
from .reference import readers
from .subject import Subject

Gradients = Float[Tensor, "receiver batch pos d_model"]


def scored(subject: Subject, progress: Progress, steps: int = 1) -> list[Edge]:
    """Every edge with an estimate of how much worse the metric becomes without it.

    `steps` > 1 averages the gradient over inputs between the ablated and the clean one (EAP-IG).
    """
    graph = subject.model.graph
    fast = fast_trouble(subject) is None
    total: Tensor | None = None
    for step in range(1, steps + 1):
        progress("discover", step - 1, steps, f"gradient {step} of {steps}")
        share = step / steps
        found = Backward(subject, share).gradients() if fast else port_gradients(subject, share)
        total = found if total is None else total.add_(found)
    assert total is not None
    difference = subject.ablated - subject.clean_run.writers
    change = (total.flatten(1) @ difference.flatten(1).T).double()
    rows = (change * (-subject.sign / (steps * len(subject)))).cpu().numpy()
    edges = []
    for row, (node, port) in enumerate(graph.receivers):
        for column in reversed(range(graph.n_senders(node))):
            edges.append(Edge(graph.writers[column], node, port, float(rows[row, column])))
    progress("discover", steps, steps, f"{len(edges)} edges scored")
    return edges


@dataclass
class _Passed:
    """What a layer's ports read and what they made of it."""

    attention_stream: Tensor
    mlp_stream: Tensor
    ports: dict[str, Float[Tensor, "batch pos head d_head"]]


class Backward:
    """One forward and one backward pass, with the gradients at all ports."""

    def __init__(self, subject: Subject, share: float = 1.0) -> None:
        """The input is the clean one times `share` plus the ablated one times the rest."""
        self.subject, self.share = subject, share
        self.graph = subject.model.graph
        self.layers = Layers.of(subject.model)
        self.table = self.layers.tables(subject.clean.tokens.shape[1], subject.clean_run.final)
        self.places = torch.arange(subject.clean.tokens.shape[1], device=subject.clean.end.device)

    def gradients(self) -> Gradients:
        """Of the summed metric with respect to what every receiver reads."""
        clean = self.subject.clean_run.writers
        found = clean.new_zeros(len(self.graph.receivers), *clean.shape[1:])
        start = torch.lerp(self.subject.ablated[0], clean[0], self.share)
        with torch.enable_grad():
            passed, last = self._forward(start.requires_grad_(True))
            final = self.subject.clean.at_end(last)
            logits = self.layers.unembedding(final, self.layers.norm.inverse_scale(final))
            self.subject.metric(logits).sum().backward()  # type: ignore[no-untyped-call]
        found[0] = _gradient(last)
        rows = self.graph.receiver_index
        with torch.no_grad():
            for layer, one in enumerate(passed):
                for row, gradient in self._ports(layer, one):
                    found[row] = gradient
                if self.graph.has_mlps:
                    found[rows[Node("mlp", layer), None]] = _gradient(one.mlp_stream)
        return found

    def _forward(self, x: Tensor) -> tuple[list[_Passed], Tensor]:
        passed = []
        for attention, mlp in zip(self.layers.attention, self.layers.mlp):
            ports: dict[str, Tensor] = {p: self._project(attention, p, x) for p in PORTS}
            after = x + self._attend(attention, ports)
            read = _kept(x if self.graph.parallel else after)
            passed.append(_Passed(x, read, ports))
            x = after if mlp is None else after + mlp(read)
        return passed, _kept(x)

    def _project(self, attention: Attention, port: str, x: Tensor) -> Tensor:
        y = attention.ports[port](x, attention.norm.inverse_scale(x))
        return _kept(y.view(*y.shape[:-1], self.graph.n_heads, -1))

    def _attend(self, attention: Attention, ports: dict[str, Tensor]) -> Tensor:
        table = None if self.table is None else tuple(x[:, None] for x in self.table)
        q, k, v = (
            attention.finish(port, ports[port], table).transpose(1, 2)  # type: ignore[arg-type]
            for port in PORTS
        )
        hidden = attention.hidden(self.places[:, None], self.places)
        scores = (q @ k.transpose(-1, -2) * attention.scaling).masked_fill(hidden, -torch.inf)
        z = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        written = z @ attention.output
        return written if attention.output_bias is None else written + attention.output_bias

    def _ports(self, layer: int, passed: _Passed) -> Iterator[tuple[list[int], Tensor]]:
        """The rows of a layer's q, k and v ports, and the gradients there."""
        attention, rows = self.layers.attention[layer], self.graph.receiver_index
        for port in PORTS:
            gradient = _gradient(passed.ports[port])
            matrix = attention.ports[port].weight.matrix
            weight = matrix.reshape(len(matrix), self.graph.n_heads, -1)
            back = torch.einsum("bphe,dhe->hbpd", gradient, weight)
            yield (
                [rows[head, port] for head in self.graph.heads_of(layer)],
                through_norm(attention.norm, passed.attention_stream.detach(), back),
            )


def _kept(value: Tensor) -> Tensor:
    """A copy whose gradient stays when the stream itself flows on."""
    copy = value.clone()
    copy.retain_grad()
    return copy


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def through_norm(
    norm: Norm, x: Float[Tensor, "batch pos d_model"], back: Float[Tensor, "*b batch pos d_model"]
) -> Tensor:
    """The gradient at x of <back, x / scale(x)>."""
    inverse = norm.inverse_scale(x)
    direction = x - x.mean(-1, keepdim=True) if norm.centred else x
    along = (back * direction).sum(-1, keepdim=True) * inverse.pow(3) / x.shape[-1]
    return back * inverse - along * direction


def port_gradients(subject: Subject, share: float = 1.0) -> Gradients:
    """The same with hooks, for whatever the bridge can hook."""
    model, graph = subject.model, subject.model.graph
    clean = subject.clean_run.writers
    gradients = clean.new_zeros(len(graph.receivers), *clean.shape[1:])
    start = graph.writer_index[INPUT]
    offset = (subject.ablated[start] - clean[start]) * (1 - share)

    def begin(value: Tensor, hook: object) -> Tensor:
        return (value + offset).requires_grad_(True)

    def keeping(rows: list[int], stacked: bool) -> Callable[..., Tensor]:
        def store(gradient: Tensor) -> None:
            gradients[rows] = gradient.permute(2, 0, 1, 3) if stacked else gradient[None]

        def hook(value: Tensor, hook: object) -> Tensor:
            read = value.clone()  # the stream itself flows on past the reader
            read.register_hook(store)  # type: ignore[no-untyped-call]
            return read

        return hook

    hooks: list[Hook] = [("hook_embed", begin)]
    for rows, hook_name, stacked in readers(model):
        hooks.append((hook_name, keeping(rows, stacked)))
    with torch.enable_grad():
        subject.metric(model.forward(subject.clean, hooks)).sum().backward()  # type: ignore[no-untyped-call]
    return gradients
