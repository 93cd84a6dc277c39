"""What reaches whom: a head's effect on the heads that read it, seen at the receiver.

A previous-token head writes nothing into the logits, and its ablation may change nothing where
later heads make up for it; that it turns the eyes of an induction head is seen there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.contrast import Contrast
from ..models.model import head_index
from ..records.circuit import Node
from .attention import answer_attention, foil_attention, induction_attention, occurrences
from .effects import ablated_output, clean_output, direct_effect, rewritten, straight
from .measurement import Measurement, NotMeasurable
from .ov import copying
from .path_patching import Change, PathPatching

MOST_RECEIVERS = 6  # the clearest ones; more would cost and change little
CHUNK = 48  # senders at a time, to bound memory
INHIBITS = 0.05  # of the movers' attention
_Effect = Callable[[Change], Float[Tensor, "sender batch"]]


# --- receivers, found by what they do ----------------------------------------------------------


def _strongest(measurement: Measurement, bound: float, others: Sequence[Node] | None) -> list[Node]:
    """The nodes above a bound, of `others` if given, largest first."""
    values = dict(zip(measurement.nodes, measurement.samples.mean(1).tolist()))
    nodes = [n for n in measurement.nodes if values[n] >= bound and (others is None or n in others)]
    return sorted(nodes, key=lambda node: -values[node])


def movers(contrast: Contrast) -> list[Node]:
    """Heads that copy the answer from its place to the logits; the strongest first."""
    copy = _strongest(contrast.once(copying), 0.5, None)
    looking = _strongest(contrast.once(answer_attention), 0.1, copy)
    direct = contrast.once(direct_effect)
    return [n for n in _strongest(direct, 0.0, looking) if direct.value(n) > 0]


def induction_heads(contrast: Contrast) -> list[Node]:
    """Heads that look to what followed the present token, on random tokens."""
    return _strongest(contrast.once(induction_attention), 0.3, None)


# --- routes ------------------------------------------------------------------------------------


def _along(
    measure: str, contrast: Contrast, receivers: Sequence[Node], effect: Callable[[Node], _Effect]
) -> Measurement:
    """Of every head before a receiver, its effect on the receiver it moves most.

    `reached` tells which.
    """
    known, graph = contrast.once(PathPatching), contrast.model.graph
    best: dict[Node, Float[Tensor, "batch"]] = {}
    into: dict[Node, Node] = {}
    for receiver in receivers[:MOST_RECEIVERS]:
        senders = [node for node in known.senders(receiver) if node.kind == "head"]
        for start in range(0, len(senders), CHUNK):
            part = senders[start : start + CHUNK]
            for sender, samples in zip(part, effect(receiver)(known.cut(part))):
                if sender not in best or samples.mean() > best[sender].mean():
                    best[sender], into[sender] = samples, receiver
    if not best:
        raise NotMeasurable("no head of the kind that would read it comes after it")
    nodes = tuple(node for node in graph.heads if node in best)
    contrast.remember(f"{measure} into", lambda: into)
    return Measurement(measure, nodes, torch.stack([best[node] for node in nodes]))


def reached(contrast: Contrast, route: Callable[[Contrast], Measurement]) -> dict[Node, Node]:
    """The receiver that each sender moves most along a route."""
    contrast.once(route)
    nobody: dict[Node, Node] = {}
    return contrast.remember(f"{route.__name__} into", lambda: nobody)


def repeated(contrast: Contrast) -> Float[Tensor, "batch query key"]:
    """From each token that the corruption makes a first occurrence to the one after its earlier
    occurrence; a prompt's weights add up to 1. Raises NotMeasurable if a prompt has none."""
    batch, other = contrast.clean.tokens, contrast.corrupt.tokens
    length = batch.shape[1]
    same = (batch[:, :, None] == batch[:, None]) & ~(other[:, :, None] == other[:, None])
    same = same.tril(-2)  # the token after must lie before the query
    same &= contrast.within[:, :, None]
    weights = torch.zeros(
        len(batch), length, length, dtype=contrast.model.dtype, device=same.device
    )
    weights[:, :, 1:] = same[:, :, :-1].to(weights.dtype)
    total = weights.sum((1, 2), keepdim=True)
    if not bool((total > 0).all()):
        raise NotMeasurable("not every prompt repeats a token that its corruption does not")
    return weights / total


def induction_keys(contrast: Contrast, receiver: Node) -> _Effect:
    """How much less a head looks to what followed the present token, by a change of its keys."""
    known, weights = contrast.once(PathPatching), repeated(contrast)
    layer, head = head_index(receiver)
    clean = (contrast.clean_run.patterns[layer, :, head] * weights).sum((1, 2))

    def effect(change: Change) -> Float[Tensor, "sender batch"]:
        pattern = known.receive(receiver, {"k": change}).pattern
        return clean - (pattern * weights).sum((2, 3))

    return effect


def feeds_induction(contrast: Contrast) -> Measurement:
    """Cut from the keys of an induction head: how much attention to the continuation is lost."""
    return _along(
        "feeds_induction", contrast, induction_heads(contrast),
        lambda receiver: induction_keys(contrast, receiver),
    )  # fmt: skip


def mover_queries(contrast: Contrast, receiver: Node) -> _Effect:
    """How much a head's look moves from the answer to the foils, by a change of its query."""
    known, batch = contrast.once(PathPatching), contrast.clean
    keys = occurrences(batch, contrast.answers) - occurrences(batch, contrast.foils)
    layer, head = head_index(receiver)
    clean = (contrast.clean_run.patterns[layer, batch.rows, head, batch.end] * keys).sum(1)

    def effect(change: Change) -> Float[Tensor, "sender batch"]:
        at_end = change[:, batch.rows, batch.end] if change.shape[2] > 1 else change[:, :, 0]
        pattern = known.receive(receiver, {"q": at_end[:, :, None]}, batch.end).pattern
        return clean - (pattern[:, :, 0] * keys).sum(2)

    return effect


def steers_movers(contrast: Contrast) -> Measurement:
    """Cut from the query of a mover: how much attention moves from the answer to the foils."""
    return _along(
        "steers_movers",
        contrast,
        movers(contrast),
        lambda receiver: mover_queries(contrast, receiver),
    )


def inhibitors(contrast: Contrast) -> list[Node]:
    """Heads that look from the end at the foil and steer a mover away from it."""
    looking = _strongest(contrast.once(foil_attention), 0.1, None)
    return _strongest(contrast.once(steers_movers), INHIBITS, looking)


def through_inhibitor(contrast: Contrast, inhibitor: Node) -> _Effect:
    """The same, by a change of the keys and values of a head that steers the mover."""
    known, batch = contrast.once(PathPatching), contrast.clean
    mover = reached(contrast, steers_movers)[inhibitor]
    steer = mover_queries(contrast, mover)
    clean = batch.at_end(clean_output(contrast, inhibitor))

    def effect(change: Change) -> Float[Tensor, "sender batch"]:
        received = known.receive(inhibitor, {"k": change, "v": change}, batch.end)
        return steer(received.written - clean[:, None])

    return effect


def feeds_inhibition(contrast: Contrast) -> Measurement:
    """Cut from the keys and values of an S-inhibition head: the change of the mover it steers."""
    return _along(
        "feeds_inhibition", contrast, inhibitors(contrast),
        lambda receiver: through_inhibitor(contrast, receiver),
    )  # fmt: skip


# --- backups -----------------------------------------------------------------------------------


@torch.no_grad()
def stands_in(contrast: Contrast) -> Measurement:
    """How much a head's direct effect rises when the movers are ablated together.

    The movers themselves are not measured, nor what lies before the first of them.
    """
    out = movers(contrast)
    if not out:
        raise NotMeasurable("the task has no movers to ablate")
    graph = contrast.model.graph
    found: dict[int, Float[Tensor, "writer batch d_model"]] = {}

    def look(here: slice, value: Tensor) -> None:
        found[here.start] = value[:, contrast.clean.rows, contrast.clean.end]

    hooks = contrast.model.writer_hooks(look)
    first = min(head_index(node)[0] for node in out)
    written = {node: ablated_output(contrast, node) for node in out}
    rewritten(contrast, written, [hook for hook in hooks if not hook[0].startswith("hook_")])
    nodes, samples = [], []
    for node in graph.heads:
        layer, head = head_index(node)
        if layer > first and node not in out:
            start = graph.writer_index[node] - head
            before = contrast.clean.at_end(clean_output(contrast, node))
            nodes.append(node)
            samples.append(straight(contrast, found[start][head] - before))
    if not nodes:
        raise NotMeasurable("no head comes after the movers")
    return Measurement("stands_in", tuple(nodes), torch.stack(samples))
