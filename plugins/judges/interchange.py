"""Judge `interchange`: can components with one label write each other's output?"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Judge
from acdc_explain.records.verdict import Verdict

if TYPE_CHECKING:
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.label import Label
    from acdc_explain.records.role import RoleCard

PARTNERS, STRANGERS = 3, 8
LARGEST = math.log(2)  # Jensen-Shannon distance there can be, in nats
BETTER = 0.25  # the share of strangers that may do as well


def interchange(
    contrast: Contrast, labels: Iterable[Label], roles: Mapping[str, RoleCard], *, seed: int = 0
) -> Iterator[Verdict]:
    """For roles that several components have. On request only (`--judge`): two runs a pair.

    `supported` if writing the output of others of the role moves the final distribution
    (Jensen-Shannon, nats) less than writing that of strangers of the kind, else `inconclusive`:
    heads of one role in different layers need not be exchangeable.
    """
    labels = list(labels)
    for label in labels:
        same = {x.node for x in labels if x.role == label.role} - {label.node}
        same_kind = sorted((node for node in same if node.kind == label.node.kind), key=str)
        if label.role == "other" or not same_kind:
            continue
        strangers = [
            node
            for node in contrast.model.graph.writers
            if node.kind == label.node.kind and node not in same and node != label.node
        ]
        rng = random.Random(f"{seed} {label.id}")
        partners = rng.sample(same_kind, min(PARTNERS, len(same_kind)))
        others = rng.sample(strangers, min(STRANGERS, len(strangers)))
        if others:
            yield _verdict(contrast, label, partners, others)


def _verdict(
    contrast: Contrast, label: Label, partners: Sequence[Node], strangers: Sequence[Node]
) -> Verdict:
    from acdc_explain.evidence.effects import standing_in

    def distance(other: Node) -> float:
        pair = label.node, other
        return sum(float(standing_in(contrast, *x).mean()) for x in (pair, pair[::-1])) / 2

    mine = sum(map(distance, partners)) / len(partners)
    theirs = sorted(map(distance, strangers))
    lower = sum(value < mine for value in theirs) / len(theirs)
    return Verdict(
        label_id=label.id,
        judge="interchange",
        outcome="supported"
        if lower <= BETTER and mine < theirs[len(theirs) // 2]
        else "inconclusive",
        score=round(1 - mine / LARGEST, 5),
        chance=round(1 - theirs[len(theirs) // 2] / LARGEST, 5),
        percentile=round(1 - lower, 4),
        n=len(contrast),
        reason=(
            f"writing the output of {', '.join(map(str, partners))}, and they its, moves the "
            f"distribution by {mine:.4f} nats; with strangers by {theirs[len(theirs) // 2]:.4f} "
            f"({lower:.0%} of them less)"
        ),
        measure="interchangeability",
        unit="1 - distance / ln 2",
    )


@hookimpl
def register_judges() -> dict[str, Judge]:
    return {"interchange": Judge(interchange, on_request=True)}
