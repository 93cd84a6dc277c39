"""The metric with a set of edges cut, exactly, for whatever the bridge can hook.

A receiver reads the residual stream. Cutting the edge from a sender to it replaces the sender's
present contribution to what it reads by the one on the corrupted prompt (Conmy et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .circuit import INPUT, PORTS, Edge, Faithfulness, Node
from .model import TOLERANCE, Hook, Model, relative_error
from .subject import Subject

Cut = Bool[Tensor, "receiver writer"]


class ReferenceEngine:
    """One hooked forward pass per question. Slow, simple, and the oracle for anything faster."""

    name = "reference"

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model: Model = subject.model
        self.graph = subject.model.graph

    def cut_none(self) -> Cut:
        size = (len(self.graph.receivers), len(self.graph.writers))
        return torch.zeros(size, dtype=torch.bool, device=self.model.device)

    def cut_all(self) -> Cut:
        cut = self.cut_none()
        for row, (node, _) in enumerate(self.graph.receivers):
            cut[row, : self.graph.n_senders(node)] = True
        return cut

    def cut_except(self, kept: Iterable[Edge]) -> Cut:
        """Everything cut but these edges."""
        cut = self.cut_all()
        for edge in kept:
            cut[self.index(edge)] = False
        return cut

    def index(self, edge: Edge) -> tuple[int, int]:
        """Where an edge lies in a cut."""
        return self.graph.receiver_index[edge.dst, edge.port], self.graph.writer_index[edge.src]

    @torch.no_grad()
    def logits(self, cut: Cut) -> Float[Tensor, "batch vocab"]:
        """Logits at the last token of the clean prompts, with the edges of `cut` cut."""
        change = -self.subject.corrupt_run.writers  # will be: present minus corrupted output

        def record(writers: slice, value: Tensor) -> None:
            change[writers] += value

        hooks = self.model.writer_hooks(record)
        for rows, hook_name, stacked in self._readers():
            if bool(cut[rows].any()):
                hooks.append((hook_name, self._remove(cut[rows], change, stacked)))
        return self.model.forward(self.subject.clean, hooks)

    def _readers(self) -> Iterable[tuple[list[int], str, bool]]:
        """Rows of a cut, the hook where they read, and whether it has a head dimension."""
        graph, rows = self.graph, self.graph.receiver_index
        for layer in range(graph.n_layers):
            heads = [Node("head", layer, head) for head in range(graph.n_heads)]
            for port in PORTS:
                yield [rows[head, port] for head in heads], self.model.port_hook(layer, port), True
            if graph.has_mlps:
                yield [rows[Node("mlp", layer), None]], self.model.port_hook(layer, None), False
        yield [0], self.model.final_hook, False

    def _remove(self, cut: Cut, change: Tensor, stacked: bool) -> Callable[..., Tensor]:
        """A hook that takes the cut senders' change out of what some receivers read."""
        senders = cut.any(0).nonzero().flatten()
        weights = cut[:, senders].to(change.dtype)

        def hook(value: Tensor, hook: Any) -> Tensor:
            removed = torch.einsum("rw,wbpd->bprd", weights, change[senders])
            return value - (removed if stacked else removed[:, :, 0])

        return hook

    def metric(self, cut: Cut) -> float:
        """The mean of the subject's metric over its examples."""
        return float(self.subject.metric(self.logits(cut)).mean())

    def self_check(self) -> str | None:
        """None if nothing cut gives the clean logits and everything cut the corrupted ones.

        Else what is wrong, in one sentence. The relative error allowed is 1e-4.
        """
        checks = (
            ("nothing cut", self.cut_none(), self.subject.clean_run.logits),
            ("everything cut", self.cut_all(), self.subject.corrupt_run.logits),
        )
        for what, cut, expected in checks:
            error = relative_error(self.logits(cut), expected)
            if error > TOLERANCE:
                return f"with {what} the logits are off by {error:.1g} (relative)"
        return None


def faithfulness(subject: Subject, edges: Iterable[Edge]) -> Faithfulness:
    """The subject's metric for the whole model, for these edges alone, and corrupted."""
    engine = ReferenceEngine(subject)
    circuit = engine.metric(engine.cut_except(edges))
    return Faithfulness(subject.metric_name, subject.clean_metric, circuit, subject.corrupt_metric)


def port_gradients(
    subject: Subject, share: float = 1.0
) -> Float[Tensor, "receiver batch pos d_model"]:
    """Gradient of the summed metric with respect to what every receiver reads.

    The input embedding is the clean one times `share` plus the corrupted one times the rest
    (1: the clean run; EAP-IG averages over shares).
    """
    model, graph = subject.model, subject.model.graph
    clean = subject.clean_run.writers
    shape = (len(graph.receivers), *clean.shape[1:])
    gradients = torch.zeros(shape, dtype=clean.dtype, device=clean.device)
    start = graph.writer_index[INPUT]
    offset = (subject.corrupt_run.writers[start] - clean[start]) * (1 - share)

    def begin(value: Tensor, hook: Any) -> Tensor:
        return (value + offset).requires_grad_(True)

    def keep(rows: list[int], stacked: bool) -> Callable[..., Tensor]:
        def store(gradient: Tensor) -> None:
            gradients[rows] = gradient.permute(2, 0, 1, 3) if stacked else gradient[None]

        def hook(value: Tensor, hook: Any) -> Tensor:
            read = value.clone()  # the stream itself flows on past the reader
            read.register_hook(store)  # type: ignore[no-untyped-call]
            return read

        return hook

    hooks: list[Hook] = [("hook_embed", begin)]
    for rows, hook_name, stacked in ReferenceEngine(subject)._readers():
        hooks.append((hook_name, keep(rows, stacked)))
    with torch.enable_grad():
        subject.metric(model.forward(subject.clean, hooks)).sum().backward()  # type: ignore[no-untyped-call]
    return gradients
