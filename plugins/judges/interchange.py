"""Judge `interchange`: can components with the same label write each other's output?"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Verdict

from .verdicts import share_below, upper_median

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

PARTNERS, STRANGERS = 3, 8  # most components with the same role, and with another one
LARGEST = math.log(2)  # the largest possible Jensen-Shannon distance, in nats
BETTER = 0.25  # the share of strangers that may do better


def interchange(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """For roles that several components have. On request only (`--judge`): two runs a pair.

    `supported` if exchanging outputs with components of the same role changes the final
    distribution (Jensen-Shannon distance, nats) less than exchanging them with strangers of the
    same kind, else `inconclusive`: heads of one role in different layers need not be exchangeable.
    """
    labels = list(labels)
    for label in labels:
        same = {other.node for other in labels if other.role == label.role} - {label.node}
        candidates = sorted((node for node in same if node.kind == label.node.kind), key=str)
        if label.role == "other" or not candidates:
            continue
        strangers = [
            node
            for node in contrast.model.graph.writers
            if node.kind == label.node.kind and node not in same and node != label.node
        ]
        rng = random.Random(f"{seed} {label.id}")
        partners = rng.sample(candidates, min(PARTNERS, len(candidates)))
        strangers = rng.sample(strangers, min(STRANGERS, len(strangers)))
        if strangers:
            yield _verdict(contrast, label, partners, strangers)


def _verdict(
    contrast: Contrast, label: Label, partners: Sequence[Node], strangers: Sequence[Node]
) -> Verdict:
    all_distances = _distances(contrast, label.node, [*partners, *strangers])
    distances = all_distances[len(partners) :]
    among_partners = sum(all_distances[: len(partners)]) / len(partners)
    among_strangers, lower = upper_median(distances), share_below(among_partners, distances)
    return Verdict(
        label_id=label.id,
        judge="interchange",
        outcome="supported"
        if lower <= BETTER and among_partners < among_strangers
        else "inconclusive",
        score=round(1 - among_partners / LARGEST, 5),
        chance=round(1 - among_strangers / LARGEST, 5),
        percentile=round(1 - lower, 4),
        n=len(contrast),
        reason=(
            f"writing the output of {', '.join(map(str, partners))}, and they its, moves the "
            f"distribution by {among_partners:.4f} nats; with strangers by {among_strangers:.4f} "
            f"({lower:.0%} of them less)"
        ),
        measure="interchangeability",
        unit="1 - distance / ln 2",
    )


def _distances(contrast: Contrast, node: Node, others: Sequence[Node]) -> list[float]:
    """The mean distance that a component and each other one make by standing in for each other."""
    import torch

    from acdc_explain.evidence.effects import standing_in

    both_ways = [pair for other in others for pair in ((node, other), (other, node))]
    means = torch.stack([standing_in(contrast, *pair).mean() for pair in both_ways]).tolist()
    return [(one + other) / 2 for one, other in zip(means[::2], means[1::2])]


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"interchange": Judge(interchange, on_request=True)}
