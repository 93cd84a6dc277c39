"""Claims `backs_up` and `opposes`: what a component does when others are ablated together."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ClaimKind
from acdc_explain.records.role import STANDS_IN

if TYPE_CHECKING:
    from acdc_explain.claims.checks import Check
    from acdc_explain.evidence.measurement import Measurement
    from acdc_explain.evidence.patching.direct import What
    from acdc_explain.models.contrast import Contrast
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import Claim

SHRINKS = 0.25  # of its direct effect: what an opponent loses without those that it opposes
RANDOM_SETS = 3  # of as many other components, ablated for comparison
DRAWS = 20  # sets, of which the first that fit are used
NEAR = 3  # times as many components are those that the random sets are drawn from


class Together(BaseModel):
    """Other components, whose ablation changes what this one does."""

    model_config = ConfigDict(extra="forbid")
    components: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)] = Field(
        description="the others, ablated together; at least one comes before this component"
    )
    what: Literal["answers", "foils"] = Field(description="on whose logits its direct effect is")


def backs_up(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """By how much its direct effect rises when the others are ablated together.

    Chance is the rise when as many random components are ablated instead. The null is the rise of
    the others of its kind.
    """
    return [_checks_of(contrast, claim, _rise) for claim in claims]


def opposes(
    contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool
) -> Sequence[Sequence[Check] | str]:
    """Its direct effect has the other sign, and by how much it shrinks when they are ablated.

    Chance is how much it shrinks when as many random components are ablated instead. The null is
    what the others of its kind lose.
    """
    return [_checks_of(contrast, claim, _shrinking) for claim in claims]


def _checks_of(
    contrast: Contrast,
    claim: Claim,
    checks: Callable[[Contrast, Node, tuple[Node, ...], What], Sequence[Check]],
) -> Sequence[Check] | str:
    """The checks of one claim, or why it cannot be tested."""
    from acdc_explain.evidence.measurement import NotMeasurable

    arguments = Together.model_validate(claim.arguments)
    try:
        ablated = _nodes(contrast, claim.node, arguments.components)
        return checks(contrast, claim.node, ablated, arguments.what)
    except NotMeasurable as reason:
        return str(reason)


def _nodes(contrast: Contrast, node: Node, names: Sequence[str]) -> tuple[Node, ...]:
    """The components of these names. Raises NotMeasurable if ablating them says nothing of it."""
    from acdc_explain.errors import UserError
    from acdc_explain.evidence.measurement import NotMeasurable
    from acdc_explain.records.circuit import Node

    order, found = contrast.model.graph.writer_index, []
    for name in names:
        try:
            found.append(Node.parse(name))
        except (UserError, ValueError) as reason:
            raise NotMeasurable(f"{name!r} is no component") from reason
        if found[-1] not in order or found[-1].kind == "input":
            raise NotMeasurable(f"the model has no component {name}")
    if node in found:
        raise NotMeasurable(f"{node} cannot be ablated to see what it does then")
    if not any(contrast.model.graph.reads(node, other) for other in found):
        raise NotMeasurable(f"none of {', '.join(names)} comes before {node}")
    return tuple(found)


def _rise(contrast: Contrast, node: Node, ablated: tuple[Node, ...], what: What) -> Sequence[Check]:
    from acdc_explain.claims.checks import Check

    return [Check(_change(contrast, node, ablated, what, 1), "logits", STANDS_IN)]


def _shrinking(
    contrast: Contrast, node: Node, ablated: tuple[Node, ...], what: What
) -> Sequence[Check]:
    from acdc_explain.claims.checks import Check
    from acdc_explain.claims.sources import direct_from

    theirs = sum(direct_from(contrast, x.kind, what, None, 1).value(x) for x in ablated)
    sign = -1 if theirs > 0 else 1  # of an effect that opposes theirs
    own = direct_from(contrast, node.kind, what, None, sign)
    lost = _change(contrast, node, ablated, what, -sign)
    return [Check(own, "logits"), Check(lost, "logits", SHRINKS * max(0.0, own.value(node)))]


def _change(
    contrast: Contrast, node: Node, ablated: tuple[Node, ...], what: What, sign: int
) -> Measurement:
    """What ablating components adds to the direct effect of those of the kind, times a sign.

    The control is the mean over random sets of as many components of nearby layers.
    """
    import torch

    from acdc_explain.claims.checks import measured
    from acdc_explain.evidence.composition import direct_without

    graph = contrast.model.graph
    nodes = [
        x for x in graph.writers
        if x == node or (x.kind == node.kind and x not in ablated)
        if any(graph.reads(x, one) for one in ablated)
    ]  # fmt: skip
    rows = [graph.writer_index[x] for x in nodes]
    sets = (ablated, *_random_sets(contrast, node, ablated))
    change, *chance = (sign * direct_without(contrast, some, what)[rows] for some in sets)
    return measured("change", nodes, list(change), list(torch.stack(chance).mean(0)))


def _random_sets(
    contrast: Contrast, node: Node, ablated: tuple[Node, ...]
) -> list[tuple[Node, ...]]:
    """As many random components of the same kinds and of nearby layers; this one in none of them.

    All claims of a run draw from the same sets, so that each is ablated once.
    """
    from acdc_explain.evidence.measurement import NotMeasurable

    graph = contrast.model.graph
    kinds, layers = {x.kind for x in ablated}, [x.layer or 0 for x in ablated]
    others = [x for x in graph.writers if x.kind in kinds and x not in ablated]
    others.sort(key=lambda x: min(abs((x.layer or 0) - layer) for layer in layers))
    n, rng = min(len(ablated), len(others)), random.Random(" ".join(map(str, ablated)))
    draws = [tuple(rng.sample(others[: NEAR * n], n)) for _ in range(DRAWS)]
    fitting = [x for x in draws if node not in x and any(graph.reads(node, one) for one in x)]
    if not fitting:
        raise NotMeasurable(f"there are no other components before {node} to compare with")
    return fitting[:RANDOM_SETS]


OTHERS = "{{ components | join(', ') }}"


@hookimpl
def register_claims() -> dict[str, ClaimKind]:
    return {
        "backs_up": ClaimKind(
            "does",
            Together,
            f"raises the {{{{ what }}}} more when {OTHERS} "
            "{{ 'is' if components | length == 1 else 'are' }} ablated",
            backs_up,
            meaning="its direct effect on these logits rises when the others are ablated together",
        ),
        "opposes": ClaimKind(
            "does",
            Together,
            f"takes back what {OTHERS} "
            "{{ 'does' if components | length == 1 else 'do' }} to the {{ what }}",
            opposes,
            meaning="its direct effect has the other sign, and shrinks when they are ablated",
        ),
    }
