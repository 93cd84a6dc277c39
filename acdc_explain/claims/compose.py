"""Claims composed from the discovery prompts: suggested by measurements there, not refuted there.

Evidence of the collector `claims` holds them, beside the numbers that they were found by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evidence.measurement import NotMeasurable
from ..evidence.patching.direct import WHATS, What
from ..hookspecs import ClaimKind
from ..models.contrast import Contrast
from ..records.circuit import Circuit, Node
from ..records.claim import ClaimResult
from ..records.evidence import suggestion
from .candidates import candidates
from .effects import lost_by_place
from .sources import direct_from
from .testing import check_claims


def compose(
    contrast: Contrast, circuit: Circuit, nodes: Sequence[Node], kinds: Mapping[str, ClaimKind]
) -> list[ClaimResult]:
    """The claims about components that may hold, and that few components could make.

    What is unclear on these few prompts may be clear on those held out. Of where a component acts
    it must hold, but need not be true of few: many act at one place.

    Args:
        contrast: The discovery prompts.
        circuit: Its edges say whom a component may feed.
        nodes: Components of the circuit.
        kinds: The kinds of claims that may be made.

    Returns:
        For each component in turn, what it reads before what it does, the strongest first; with
        what the test on these prompts said.

    Raises:
        NotMeasurable: The layers of the model cannot be computed as functions.
    """
    suggested = candidates(contrast, circuit, nodes, kinds)
    tested = check_claims(contrast, suggested, kinds, other_corruptions=False)
    where = (x for x in tested if x.topic == "where" and x.outcome == "holds")
    open_ones = (x for x in tested if x.specific and x.outcome in ("holds", "unclear"))
    chosen = [*where, *(x for x in open_ones if x.topic != "where")]
    order = {node: place for place, node in enumerate(nodes)}
    return sorted(chosen, key=lambda result: order[result.node])


def facts_of(contrast: Contrast, node: Node, composed: Sequence[ClaimResult]) -> dict[str, Any]:
    """What is known of a component before its claims are tested on other prompts.

    Args:
        contrast: The discovery prompts.
        node: The component.
        composed: The claims about all components.

    Returns:
        `suggested`: the claims about it. `by_position`: the share of the gap that is lost when it
        is ablated at each place, by the gradient. `direct`: what it adds to the logits of answers
        and of foils, of a head by the position it reads this from; or why that has no meaning.
    """
    lost = contrast.once(lost_by_place, node).mean(1).tolist()
    return {
        "suggested": [suggestion(result) for result in composed if result.node == node],
        "by_position": {at: round(x, 4) for at, x in zip(contrast.place_names, lost)},
        "direct": {what: _direct(contrast, node, what) for what in WHATS},
    }


def _direct(contrast: Contrast, node: Node, what: What) -> dict[str, float] | float | str:
    def logits(source: str | None) -> float:
        return round(direct_from(contrast, node.kind, what, source, 1).value(node), 4)

    try:
        if node.kind != "head":
            return logits(None)
        return {at: logits(at) for at in contrast.place_names}
    except NotMeasurable as reason:
        return str(reason)
