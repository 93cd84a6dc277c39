"""K-, Q- and V-composition (Elhage et al. 2021): what a head changes in the heads that read it.

A previous-token head adds nothing to the logits directly, and ablating it may change nothing if
later heads compensate. Its effect on the keys of an induction head is seen only at that head, so
it is measured there: as the attention or output of the receiver, by path patching.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.activations import head_index, writer_hooks
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.role import ATTENTION_AT_END, COPYING, STEERING
from .attention import answer_attention, foil_attention, induction_attention, occurrences
from .effects import ablated_output, clean_output, direct_effect, logits_with
from .measurement import Measurement, NotMeasurable
from .ov.copying import copying
from .patching.direct import WHATS, What, logit_directions
from .patching.paths import Change, PathPatching

MOST_RECEIVERS = 6  # the strongest of their kind; more would cost time and change little
CHUNK = 48  # senders at a time, to bound memory
# Least `induction_attention` of a receiver. The card asks for 0.4; a head too weak for the role can
# still be one that previous-token heads write for.
INDUCTION_RECEIVER = 0.3
Effect = Callable[[Change], Float[Tensor, "sender batch"]]
"""From what senders add to a port of a receiver to how much the receiver changes."""


@dataclass(frozen=True)
class Composition:
    """How strongly heads compose with later heads of one kind."""

    strength: Measurement  # of each head, on the receiver it changes most
    receivers: Mapping[Node, Node]  # that receiver, by sender


# --- receivers, found by what they do ----------------------------------------------------------


def _strongest(measurement: Measurement, bound: float, among: Sequence[Node] | None) -> list[Node]:
    """The nodes (of `among`, if given) that reach a bound, largest value first."""
    values = dict(zip(measurement.nodes, measurement.samples.mean(1).tolist()))
    nodes = [n for n in measurement.nodes if values[n] >= bound and (among is None or n in among)]
    return sorted(nodes, key=lambda node: -values[node])


def movers(contrast: Contrast) -> list[Node]:
    """Heads that copy the answer from its position to the logits; the strongest first."""
    copiers = _strongest(contrast.once(copying), COPYING, None)
    on_answer = _strongest(contrast.once(answer_attention), ATTENTION_AT_END, copiers)
    direct = contrast.once(direct_effect)
    return [n for n in _strongest(direct, 0.0, on_answer) if direct.value(n) > 0]


def induction_heads(contrast: Contrast) -> list[Node]:
    """Heads that attend to what followed the present token before, on random tokens."""
    return _strongest(contrast.once(induction_attention), INDUCTION_RECEIVER, None)


def inhibitors(contrast: Contrast) -> list[Node]:
    """Heads that attend from the last token to the foil and steer a mover away from it."""
    on_foil = _strongest(contrast.once(foil_attention), ATTENTION_AT_END, None)
    return _strongest(contrast.once(steers_movers), STEERING, on_foil)


# --- composition -------------------------------------------------------------------------------


def k_composition(contrast: Contrast) -> Composition:
    """With the keys of induction heads."""
    return _composition("feeds_induction", contrast, induction_heads(contrast), k_effect)


def q_composition(contrast: Contrast) -> Composition:
    """With the queries of movers."""
    return _composition("steers_movers", contrast, movers(contrast), q_effect)


def kv_composition(contrast: Contrast) -> Composition:
    """With the keys and values of S-inhibition heads."""
    return _composition("feeds_inhibition", contrast, inhibitors(contrast), kv_effect)


COMPOSITIONS: Mapping[str, Callable[[Contrast], Composition]] = {
    "feeds_induction": k_composition,
    "steers_movers": q_composition,
    "feeds_inhibition": kv_composition,
}
"""By the name of the measure that has their strength."""


def feeds_induction(contrast: Contrast) -> Measurement:
    """Cut from the keys of an induction head: how much attention to the continuation is lost."""
    return contrast.once(k_composition).strength


def steers_movers(contrast: Contrast) -> Measurement:
    """Cut from the query of a mover: how much attention moves from the answer to the foils."""
    return contrast.once(q_composition).strength


def feeds_inhibition(contrast: Contrast) -> Measurement:
    """Cut from the keys and values of an S-inhibition head: the change of the mover it steers."""
    return contrast.once(kv_composition).strength


def receivers_by_sender(contrast: Contrast, measure: str) -> Mapping[Node, Node]:
    """The receiver that each head changes most.

    Args:
        contrast: The prompts.
        measure: A key of COMPOSITIONS.

    Raises:
        NotMeasurable: The measure has no meaning for the task.
    """
    return contrast.once(COMPOSITIONS[measure]).receivers


def _composition(
    measure: str,
    contrast: Contrast,
    receivers: Sequence[Node],
    effect_on: Callable[[Contrast, Node], Effect],
) -> Composition:
    """The effect of every head before a receiver on the receiver that it changes most."""
    paths, graph = contrast.once(PathPatching), contrast.model.graph
    best: dict[Node, Float[Tensor, "batch"]] = {}
    receiver_of: dict[Node, Node] = {}
    for receiver in receivers[:MOST_RECEIVERS]:
        senders = [node for node in paths.senders(receiver) if node.kind == "head"]
        for start in range(0, len(senders), CHUNK):
            part = senders[start : start + CHUNK]
            effects = effect_on(contrast, receiver)(paths.cut(part)).cpu()
            for sender, samples in zip(part, effects):
                if sender not in best or samples.mean() > best[sender].mean():
                    best[sender], receiver_of[sender] = samples, receiver
    if not best:
        raise NotMeasurable("no head of the kind that would read it comes after it")
    nodes = tuple(node for node in graph.heads if node in best)
    strength = Measurement(measure, nodes, torch.stack([best[node] for node in nodes]))
    return Composition(strength, receiver_of)


# --- effects on one receiver -------------------------------------------------------------------


def repeated(contrast: Contrast) -> Float[Tensor, "batch query key"]:
    """Weights on the keys that induction attends to and that the corruption removes.

    From each repeated token that is not repeated in the corrupted prompt to the token after its
    earlier occurrence. The weights of a prompt add up to 1. Raises NotMeasurable if a prompt has
    no such token.
    """
    clean, corrupt = contrast.clean.tokens, contrast.corrupt.tokens
    length = clean.shape[1]
    same = (clean[:, :, None] == clean[:, None]) & ~(corrupt[:, :, None] == corrupt[:, None])
    same = same.tril(-2)  # the token after must lie before the query
    same &= contrast.clean.within[:, :, None]
    weights = torch.zeros(
        len(clean), length, length, dtype=contrast.model.dtype, device=same.device
    )
    weights[:, :, 1:] = same[:, :, :-1].to(weights.dtype)
    total = weights.sum((1, 2), keepdim=True)
    if not bool((total > 0).all()):
        raise NotMeasurable("not every prompt repeats a token that its corruption does not")
    return weights / total


def k_effect(contrast: Contrast, receiver: Node) -> Effect:
    """How much attention a head loses on the continuation when its keys change.

    The continuation is what followed the present token at its earlier occurrence (`repeated`).
    """
    paths, weights = contrast.once(PathPatching), contrast.once(repeated)
    layer, head = head_index(receiver)
    clean = (contrast.clean_run.patterns[layer, :, head] * weights).sum((1, 2))

    def effect(change: Change) -> Float[Tensor, "sender batch"]:
        pattern = paths.receive(receiver, {"k": change}).pattern
        return clean - (pattern * weights).sum((2, 3))

    return effect


def q_effect(contrast: Contrast, receiver: Node) -> Effect:
    """How much attention a head moves from answer to foils when its last query changes.

    The change may be given at all tokens or at the last token of each prompt alone.
    """
    paths, batch = contrast.once(PathPatching), contrast.clean
    keys = occurrences(batch, contrast.answers) - occurrences(batch, contrast.foils)
    layer, head = head_index(receiver)
    clean = (contrast.clean_run.patterns[layer, batch.rows, head, batch.end] * keys).sum(1)

    def effect(change: Change) -> Float[Tensor, "sender batch"]:
        at_end = change[:, batch.rows, batch.end] if change.shape[2] > 1 else change[:, :, 0]
        pattern = paths.receive(receiver, {"q": at_end[:, :, None]}, batch.end).pattern
        return clean - (pattern[:, :, 0] * keys).sum(2)

    return effect


def kv_effect(contrast: Contrast, inhibitor: Node) -> Effect:
    """The `q_effect` on the mover that `inhibitor` steers, when keys and values of it change."""
    paths, batch = contrast.once(PathPatching), contrast.clean
    on_mover = q_effect(contrast, receivers_by_sender(contrast, "steers_movers")[inhibitor])
    clean = batch.at_end(clean_output(contrast, inhibitor))

    def effect(change: Change) -> Float[Tensor, "sender batch"]:
        changed = paths.receive(inhibitor, {"k": change, "v": change}, batch.end)
        return on_mover(changed.written - clean[:, None])

    return effect


# --- backups -----------------------------------------------------------------------------------


def written_without(
    contrast: Contrast, ablated: Sequence[Node]
) -> dict[Node, Float[Tensor, "batch d_model"]]:
    """What every head and MLP writes at the last token when some are ablated together.

    Earlier components write what they always write.
    """
    graph, clean = contrast.model.graph, contrast.clean
    written = dict(zip(graph.writers[1:], contrast.clean_run.at_end[1:]))

    def record(writers: slice, value: Tensor) -> None:
        at_end = value[:, clean.rows, clean.end]
        written.update(zip(graph.writers[writers], at_end))

    replaced = {node: ablated_output(contrast, node) for node in ablated}
    logits_with(contrast, replaced, writer_hooks(graph, record, embedding=False))
    return written


def direct_without(
    contrast: Contrast, ablated: tuple[Node, ...], what: What
) -> Float[Tensor, "writer batch"]:
    """What ablating some components together adds to every writer's direct effect on some logits.

    The final norm is that of the clean run. Raises NotMeasurable if there are no such tokens.
    """
    by_what = contrast.once(_changes_without, ablated)
    if what not in by_what:
        logit_directions(contrast, what)  # raises the reason
    return by_what[what]


@torch.no_grad()
def _changes_without(
    contrast: Contrast, ablated: tuple[Node, ...]
) -> dict[What, Float[Tensor, "writer batch"]]:
    """What `direct_without` returns, of all the logits that the prompts have, by one run."""
    written, at_end = written_without(contrast, ablated), contrast.clean_run.at_end
    changes = torch.zeros_like(at_end)  # the embedding never changes
    for row, node in enumerate(contrast.model.graph.writers[1:], 1):
        changes[row] = written[node] - at_end[row]
    found: dict[What, Tensor] = {}
    for what in WHATS:
        with contextlib.suppress(NotMeasurable):
            direction, _ = logit_directions(contrast, what)
            found[what] = (changes * direction).sum(-1).double().cpu()
    return found


def stands_in(contrast: Contrast) -> Measurement:
    """How much a head's direct effect on the answers rises when the movers are ablated together.

    Of heads after the first mover, other than the movers themselves. The foils are left out: a head
    that moves the wrong name less does not stand in for those that move the right one.
    """
    ablated = movers(contrast)
    if not ablated:
        raise NotMeasurable("the task has no movers to ablate")
    graph, first = contrast.model.graph, min(head_index(node)[0] for node in ablated)
    nodes = [x for x in graph.heads if head_index(x)[0] > first and x not in ablated]
    if not nodes:
        raise NotMeasurable("no head comes after the movers")
    rises = direct_without(contrast, tuple(ablated), "answers")
    return Measurement("stands_in", tuple(nodes), rises[[graph.writer_index[x] for x in nodes]])
