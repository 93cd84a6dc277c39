"""The experiments that a labeler may request: each measures one component on the discovery prompts.

Every result comes with what to compare it with: other components, other places, or the component
alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

import torch

from ..claims.paths import Path, Source, path_effects, prompts_of, require_place
from ..claims.readers import turn_of
from ..claims.reading import attention_to, checked, of_others
from ..claims.testing import check_claims
from ..evidence.composition import written_without
from ..evidence.effects import clean_output, standing_in
from ..evidence.measurement import Measurement, NotMeasurable
from ..evidence.measures import measure
from ..evidence.patching.direct import WHATS, logit_directions
from ..evidence.patching.edges import unit
from ..evidence.patching.rerun import Patch, metric_lost, outputs_of
from ..hookspecs import ClaimKind
from ..models.activations import head_index
from ..models.contrast import Contrast
from ..models.model import Model
from ..records.circuit import Node
from ..records.claim import Claim

Facts = dict[str, Any]
OTHERS = 6  # components of the kind that are ablated for comparison; each costs a run
MOST_TOKENS = 128  # of a text whose attention is measured
TOP = 5  # keys that are reported


def with_interval(samples: torch.Tensor, node: Node) -> Facts:
    """The mean of `samples` [sample] with its bootstrap interval."""
    measurement = Measurement("", (node,), samples[None].float())
    low, high = measurement.interval(node)
    return {
        "value": rounded(measurement.value(node)),
        "interval": [rounded(low), rounded(high)],
        "n": measurement.n,
    }


def own(measurement: Measurement, node: Node) -> Facts:
    """A component's part of a measurement, with its interval."""
    return with_interval(measurement.samples[measurement.nodes.index(node)], node)


def rounded(value: float) -> float:
    return round(float(value), 4)


def measured(contrast: Contrast, node: Node, name: str) -> Facts:
    """A measure of all components of the kind. Raises NotMeasurable."""
    measurement = measure(name, contrast)
    if node not in measurement.nodes:
        raise NotMeasurable(f"{name} is not defined for this kind of component")
    return {
        **own(measurement, node),
        "percentile": rounded(measurement.percentile(node)),
        "chance": rounded(measurement.chance(node)),
    }


def tested(contrast: Contrast, claim: Claim, kinds: Mapping[str, ClaimKind]) -> Facts:
    """A claim, tested as it would be on held-out prompts."""
    (result,) = check_claims(contrast, [claim], kinds, other_corruptions=False)
    if result.value is None:
        return {"outcome": result.outcome, "reason": result.reason}
    return {
        "outcome": result.outcome,
        "value": rounded(result.value),
        "interval": [rounded(result.low or 0.0), rounded(result.high or 0.0)],
        "chance": rounded(result.chance or 0.0),
        "percentile": result.percentile,
        "unit": result.unit,
        "n": result.n,
    }


# --- ablations ---------------------------------------------------------------------------------


def ablated(
    contrast: Contrast,
    node: Node,
    positions: Sequence[str],
    how: Literal["resample", "mean"],
    prompts: str,
    others: Sequence[Node],
) -> Facts:
    """The share of the gap that is lost, and what to compare it with.

    Alone, it is compared with components of the kind ablated alike; together, with what is lost
    without the component itself, and with the component alone.

    Args:
        contrast: The prompts.
        node: The component.
        positions: Where it is ablated; empty: everywhere.
        how: "resample": it writes what it writes on other prompts; "mean": the mean of that.
        prompts: These others: `corrupt`, a scheme, or a variable.
        others: Components ablated with it.
    """
    for position in positions:
        require_place(contrast, position)
    same_kind = [x for x in contrast.model.graph.writers if x.kind == node.kind and x != node]
    drawn = random.Random(str(node)).sample(same_kind, min(OTHERS, len(same_kind)))
    sets = [[node], [node, *others], [*others]] if others else [[node], *([x] for x in drawn)]
    batch = prompts_of(contrast, prompts)
    outputs = outputs_of(contrast, batch, list({x: None for some in sets for x in some}))
    if how == "mean":
        weights = batch.within[..., None] / batch.within.sum()
        outputs = {x: (y * weights).sum((0, 1)).expand_as(y) for x, y in outputs.items()}
    at = contrast.clean.within
    if positions:
        at = at & contrast.place_masks(contrast.place_names)[_numbers(contrast, positions)].any(0)
    patches = [Patch({x: outputs[x] for x in some}, at) for some in sets]
    alone, *rest = metric_lost(contrast, patches).cpu() / unit(contrast)
    if others:
        together, without_it = (with_interval(lost, node) for lost in rest)
        return {"together": together, "without_it": without_it, "alone": with_interval(alone, node)}
    chance = median(float(lost.mean()) for lost in rest) if rest else 0.0
    return {**with_interval(alone, node), "median_of_others": rounded(chance)}


def _numbers(contrast: Contrast, places: Sequence[str]) -> list[int]:
    return [contrast.place_names.index(place) for place in places]


def without(contrast: Contrast, node: Node, others: Sequence[Node]) -> Facts:
    """The direct effects on answers and foils, before and after ablating other components."""
    written = written_without(contrast, others)[node]
    before = contrast.clean.at_end(clean_output(contrast, node))
    facts: Facts = {}
    for what in WHATS:
        try:
            direction, _ = logit_directions(contrast, what)
        except NotMeasurable as reason:
            facts[what] = f"could not be measured: {reason}"
            continue
        facts[what] = {
            "before": with_interval((before * direction).sum(-1), node),
            "after": with_interval((written * direction).sum(-1), node),
            "unit": "logits",
        }
    return facts


def stand_in(contrast: Contrast, node: Node, other: Node) -> Facts:
    """How the model's output changes when the component writes what another one writes."""
    return with_interval(standing_in(contrast, node, other), node)


# --- what it reads -----------------------------------------------------------------------------


def input_cut(
    contrast: Contrast, node: Node, sender: Node, port: str | None, at: str
) -> tuple[Facts, tuple[str, str, float] | None]:
    """What the component does differently when a sender's output at a place is cut from it.

    Returns:
        The share of the gap that is lost by this, beside that of other senders; and, for a head,
        how its attention turns by what the sender writes: from which place, to which, how much.
    """
    require_place(contrast, at)
    path = checked(contrast, Path(sender, at, node, port))
    null = of_others(contrast, path, Source(), lambda response: response.share.sum(1))
    rank = {"percentile": rounded(null.percentile(sender)), "unit": "share of the gap lost"}
    facts = {**own(null, sender), **rank}
    response = path_effects(contrast, [(path, Source())])[path, Source()]
    size, query, key, by = turn_of(response)
    places = contrast.place_names
    return facts, (places[query], places[key], rounded(by)) if size > 0 else None


def attention_from(contrast: Contrast, node: Node, at: str) -> dict[str, Facts]:
    """Where a head attends from a place of the prompts, beside the mean of other heads."""
    require_place(contrast, at)
    found: dict[str, Facts] = {}
    for to in contrast.place_names:
        try:
            attention = attention_to(contrast, at, to)
        except NotMeasurable:
            continue
        others = [attention.value(other) for other in attention.nodes if other != node]
        found[to] = {
            **own(attention, node),
            "mean_of_others": rounded(sum(others) / max(len(others), 1)),
        }
    return found


def attention_in(model: Model, node: Node, text: str, query: int) -> Facts:
    """Where a head attends from one token of a text. Raises NotMeasurable for too long a text."""
    pieces = model.pieces(text)
    if not 0 < len(pieces) <= min(MOST_TOKENS, model.context_length - len(model.prefix)):
        raise NotMeasurable(f"the text has {len(pieces)} tokens; at most {MOST_TOKENS} are read")
    query = len(pieces) - 1 if query == -1 else query
    if query >= len(pieces):
        raise NotMeasurable(f"the text has {len(pieces)} tokens and no token {query}")
    layer, head = head_index(node)
    batch, prefix = model.batch([text]), len(model.prefix)
    rows = model.patterns(batch)[layer, 0, :, query + prefix, : query + prefix + 1].cpu()
    keys = [*(["(start)"] * prefix), *pieces]
    best = rows[head].topk(min(TOP, rows.shape[1])).indices.tolist()
    return {
        "query": {"token": pieces[query], "number": query},
        "attends_to": [
            {
                "token": keys[k],
                "number": k - prefix,
                "attention": rounded(float(rows[head, k])),
                "mean_of_the_layer": rounded(float(rows[:, k].mean())),
            }
            for k in best
        ],
    }
