"""Circuit -> claims: what each component does, composed on some prompts and tested on others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..ids import content_id
from ..records.circuit import Circuit, Node
from ..records.claim import Claim, ClaimResult, ComponentResult, Coverage, Step
from ..records.run.header import RESULTS
from .context import RunContext

FEWEST = 4  # prompts of a split: fewer have no interval worth the name


@dataclass(frozen=True)
class Explanation:
    """What was claimed and what came of it. All is empty where nothing could be measured."""

    claims: Sequence[ClaimResult] = ()
    components: Sequence[ComponentResult] = ()
    algorithm: Sequence[Step] = ()


def explain_components(run: RunContext, circuit: Circuit) -> Explanation:
    """Claims about every component, tested on held-out prompts; from the store if it has them."""
    kinds = run.plugins.claims()
    codes = {name: run.plugins.code("register_claims", name) for name in kinds}
    question = content_id("claims", [circuit.id, RESULTS, codes])
    tested = run.writer.find_claims(question)
    if tested is None:
        found = _measured(run, circuit)
        tested = {
            "claims": list(found.claims),
            "components": list(found.components),
            "algorithm": list(found.algorithm),
        }
    run.writer.add_claims(question, tested)
    return Explanation(**tested)


def _measured(run: RunContext, circuit: Circuit) -> Explanation:
    from ..claims.compose import compose
    from ..claims.effects import component_results
    from ..claims.paths import release
    from ..claims.steps import steps
    from ..evidence.measurement import NotMeasurable

    if (reason := _obstacle(run)) is not None:
        run.progress("claims", 3, 3, f"none, as {reason}")
        return Explanation()
    run.progress("claims", 0, 3, "composed on the discovery prompts")
    try:
        claims = compose(run.contrast, circuit, circuit.components, run.plugins.claims())
        run.progress("claims", 1, 3, f"{len(claims)} tested on held-out prompts")
        results = _tested(run, claims)
        run.progress("claims", 2, 3, "effects of components")
        by_node: dict[Node, list[ClaimResult]] = defaultdict(list)
        for result in results:
            by_node[result.node].append(result)
        components = component_results(run.held_out, circuit.components, by_node)
        algorithm = steps(run.held_out, components, results)
    except NotMeasurable as reason:
        run.progress("claims", 3, 3, f"none, as {reason}")
        return Explanation()
    for contrast in (run.contrast, run.held_out):
        release(contrast)
    coverage = Coverage.of(components)
    run.progress("claims", 3, 3, coverage.in_words)
    return Explanation(results, components, algorithm)


def _obstacle(run: RunContext) -> str | None:
    """Why no claim can be tested on this model and these prompts; None if nothing is in the way."""
    from ..discovery.engine.proof import fast_trouble

    try:
        _ = run.held_out.place_names  # which cannot be made of every name
    except UserError as error:
        return str(error)
    if len(run.contrast) < FEWEST or len(run.held_out) < FEWEST:
        return f"it takes at least {FEWEST} prompts in each split"
    trouble = fast_trouble(run.held_out)
    return None if trouble is None else f"its layers cannot be run alone: {trouble}"


def _tested(run: RunContext, claims: Sequence[Claim]) -> list[ClaimResult]:
    from ..claims.testing import check_claims

    return check_claims(run.held_out, claims, run.plugins.claims())
