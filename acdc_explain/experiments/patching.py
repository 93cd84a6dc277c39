"""Interventions on the clean prompts, each with the metric before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..discovery.engine.proof import require_exact_cuts
from ..discovery.engine.reference import ReferenceEngine
from ..errors import UserError, unknown
from ..evidence.effects import ablated_output, clean_output, logits_with
from ..evidence.measurement import Measurement
from ..evidence.patching.paths import PathPatching
from ..models.contrast import Contrast
from ..records.circuit import LOGITS, Edge, Node
from ..records.graph import END, SearchGraph
from .contrasts import node_named


@dataclass(frozen=True)
class Effect:
    """The metric on each clean prompt, untouched and after an intervention; on the CPU.

    Attributes:
        intervention: What was done, in words.
        metric: The metric's name.
        before: On the clean prompts.
        after: With the intervention.
        sign: 1 where a higher metric is better, -1 where a lower one is.
    """

    intervention: str
    metric: str
    before: Float[Tensor, " prompt"]
    after: Float[Tensor, " prompt"]
    sign: int = 1

    @property
    def loss(self) -> float:
        """How much worse the mean metric became."""
        return self.sign * float((self.before - self.after).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The bootstrap 95 % interval of the loss, over prompts."""
        losses = (self.sign * (self.before - self.after)).double()
        return Measurement("loss", (LOGITS,), losses[None]).interval(LOGITS)

    def __repr__(self) -> str:
        loss, low, high = (round(x, 3) + 0.0 for x in (self.loss, *self.interval))  # no -0.000
        return (
            f"{self.intervention}: {self.metric} {float(self.before.mean()):.3f} -> "
            f"{float(self.after.mean()):.3f}, worse by {loss:.3f} "
            f"[{low:.3f}, {high:.3f}] on {len(self.before)} prompts"
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class PathEffect(Effect):
    """The effect of patching a path into a head, with what the head itself does differently.

    Attributes:
        attention_moved: How much of the receiver's attention from the last token goes elsewhere,
            on each prompt: 0 none of it, 1 all.
        output_changed: How far its output at the last token moved, in norms of the clean output.
    """

    attention_moved: Float[Tensor, " prompt"]
    output_changed: Float[Tensor, " prompt"]

    def __repr__(self) -> str:
        return (
            f"{super().__repr__()}; its attention at the last token moved by "
            f"{float(self.attention_moved.mean()):.3f}, its output by "
            f"{float(self.output_changed.mean()):.3f} of its norm"
        )


def cut(contrast: Contrast, edge: str | Edge) -> Effect:
    """Cut one edge: its receiver reads the sender's ablated output, all others its clean one.

    Args:
        contrast: The model on the prompts; its ablation says what the cut edge carries.
        edge: An edge, or its name: `a3.h7->a9.h6<q>`, `m3->logits`, `a3.h7@S2->a9.h6@END<k>`.

    Returns:
        The metric before and after.

    Raises:
        UserError: for an edge that this model does not have, and for a model in which cutting
            edges is not exact.
    """
    edge = _edge(edge) if isinstance(edge, str) else edge
    graph = SearchGraph.of(contrast.model.graph, [edge], contrast.place_names)
    if edge.src not in graph.senders(edge.dst) or (edge.dst, edge.port) not in _receivers(graph):
        raise UserError(f"{contrast.model.name} has no edge {edge}.")
    require_exact_cuts(contrast)
    engine = ReferenceEngine(contrast, graph)
    chosen = engine.cut_none()
    chosen[engine.index(edge)] = True
    return _effect(contrast, f"{edge} cut", engine.logits(chosen))


def ablate(
    contrast: Contrast,
    node: str | Node,
    position: str | Sequence[str] = (),
    how: Literal["corrupt", "mean"] = "corrupt",
) -> Effect:
    """Ablate a head or an MLP; everything after it runs on what it writes then.

    Args:
        contrast: The model on the prompts.
        node: A component, or its name: `a9.h6`, `m3`.
        position: The named position, or several, at which it is ablated; elsewhere it writes
            what it wrote. Empty: everywhere. `END` is the last token.
        how: Whether it writes its output on the corrupted prompt (`corrupt`) or its mean over
            the corrupted prompts (`mean`).

    Returns:
        The metric before and after.

    Raises:
        UserError: for a component or a position that is not there.
    """
    node = _component(contrast, node)
    positions = (position,) if isinstance(position, str) else tuple(position)
    written = ablated_output(contrast, node, "resample" if how == "corrupt" else "mean")
    if positions:
        _check_positions(contrast, positions)
        mask = torch.stack([contrast.position_mask(name) for name in positions]).any(0)
        written = torch.where(mask[..., None], written, clean_output(contrast, node))
    where = f" at {', '.join(positions)}" if positions else ""
    return _effect(contrast, f"{node} ablated{where}", logits_with(contrast, {node: written}))


def path_patch(
    contrast: Contrast, sender: str | Node, receiver: str | Node, port: Literal["q", "k", "v"]
) -> PathEffect:
    """Patch the path from a sender straight into one port of a head (Goldowsky-Dill et al. 2023).

    The head reads the sender's ablated output through this port and the clean stream through the
    others; everything after the head moves.

    Args:
        contrast: The model on the prompts.
        sender: An earlier head, MLP, or `input`.
        receiver: The head that reads.
        port: Its queries (`q`), keys (`k`) or values (`v`).

    Returns:
        The metric before and after, and how the receiver's attention and output changed.

    Raises:
        UserError: if there is no such path.
        NotMeasurable: if heads of this model cannot be run alone.
    """
    sender, receiver = _node(contrast, sender), _component(contrast, receiver)
    paths = contrast.once(PathPatching)
    if receiver.kind != "head" or sender not in paths.senders(receiver):
        raise UserError(f"{sender} is not read by a head {receiver}; name an earlier sender.")
    clean = paths.receive(receiver, {})
    patched = paths.receive(receiver, {port: paths.cut([sender])})
    moved = 0.5 * (patched.pattern - clean.pattern)[0].abs().sum(-1)
    change = (patched.written - clean.written)[0]
    size = change.norm(dim=-1) / clean.written[0].norm(dim=-1).clamp_min(1e-9)
    written = clean_output(contrast, receiver) + change
    logits = logits_with(contrast, {receiver: written})
    effect = _effect(contrast, f"{sender}->{receiver}<{port}> patched", logits)
    return PathEffect(
        **vars(effect),
        attention_moved=contrast.clean.at_end(moved).cpu(),
        output_changed=contrast.clean.at_end(size).cpu(),
    )


def _effect(contrast: Contrast, intervention: str, logits: Tensor) -> Effect:
    before, after = (contrast.metric(x).cpu() for x in (contrast.clean_logits, logits))
    return Effect(intervention, contrast.metric_name, before, after, contrast.sign)


def _check_positions(contrast: Contrast, positions: Sequence[str]) -> None:
    """Raises UserError for a position that the task does not name."""
    for name in positions:
        if name != END and name not in contrast.position_names:
            raise unknown("position", name, {*contrast.position_names, END})


def _receivers(graph: SearchGraph) -> set[object]:
    return {receiver for group in graph.receiver_groups for receiver in group}


def _edge(name: str) -> Edge:
    try:
        return Edge.parse(name)
    except ValueError as error:
        raise UserError(f"{error}.") from None


def _node(contrast: Contrast, node: str | Node) -> Node:
    """A node that writes. Raises UserError."""
    node = node_named(node)
    if node not in contrast.model.graph.writer_index:
        layers, heads = contrast.model.graph.n_layers, contrast.model.graph.n_heads
        raise UserError(
            f"{contrast.model.name} has no node {node}: it has {layers} layers of {heads} heads."
        )
    return node


def _component(contrast: Contrast, node: str | Node) -> Node:
    """A head or an MLP. Raises UserError."""
    node = _node(contrast, node)
    if node.kind not in ("head", "mlp"):
        raise UserError(f"{node} is neither a head nor an MLP.")
    return node
