"""Claims composed from the discovery prompts: suggested by measurements there, and true there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..hookspecs import ClaimKind
from ..models.contrast import Contrast
from ..records.circuit import Circuit, Node
from ..records.claim import Claim
from .candidates import candidates
from .testing import check_claims


def compose(
    contrast: Contrast, circuit: Circuit, nodes: Sequence[Node], kinds: Mapping[str, ClaimKind]
) -> list[Claim]:
    """The claims about components that hold on some prompts, and that few components could make.

    Of where a component acts it is enough that it holds: many act at one place.

    Args:
        contrast: The discovery prompts.
        circuit: Its edges say whom a component may feed.
        nodes: Components of the circuit.
        kinds: The kinds of claims that may be made.

    Returns:
        For each component in turn, what it reads before what it does, the strongest first.

    Raises:
        NotMeasurable: The layers of the model cannot be computed as functions.
    """
    suggested = candidates(contrast, circuit, nodes, kinds)
    tested = check_claims(contrast, suggested, kinds, other_corruptions=False)
    where = (x for x in tested if x.topic == "where" and x.outcome == "holds")
    chosen = [result.claim for result in (*where, *(x for x in tested if x.explains))]
    order = {node: place for place, node in enumerate(nodes)}
    return sorted(chosen, key=lambda claim: order[claim.node])
