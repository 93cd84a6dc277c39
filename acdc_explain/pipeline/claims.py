"""Circuit -> claims: composed on the discovery prompts, and tested on those held out.

What is composed is evidence, which labelers see. What is tested are these claims and those that
labels make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..ids import content_id
from ..labeling.checked import can_be_made, facts_as_stored
from ..records.circuit import Circuit, Node
from ..records.claim import Claim, ClaimResult, ComponentResult, Coverage, Step
from ..records.evidence import CLAIMS, Evidence
from ..records.label import Label
from ..records.run.header import RESULTS
from .context import RunContext

FEWEST = 4  # prompts of a split: fewer have no interval worth the name


@dataclass(frozen=True)
class Explanation:
    """What was claimed and what came of it. All is empty where nothing could be measured."""

    claims: Sequence[ClaimResult] = ()
    components: Sequence[ComponentResult] = ()
    algorithm: Sequence[Step] = ()


# --- composed on the discovery prompts ----------------------------------------------------------


def compose_claims(run: RunContext, circuit: Circuit) -> list[Evidence]:
    """What the discovery prompts suggest about every component; from the store if it has it."""
    settings = {"results": RESULTS, **_codes(run)}
    stored = run.store.find_evidence(circuit.id, CLAIMS, settings)
    found = stored or [
        Evidence(circuit.id, node, CLAIMS, settings, facts_as_stored(facts))
        for node, facts in _composed(run, circuit).items()
    ]
    run.writer.add_evidence(found)
    return found


def has_claims(evidence: Mapping[Node, Sequence[Evidence]]) -> bool:
    """Whether claims were composed: a run of an earlier version has none."""
    return any(item.collector == CLAIMS for items in evidence.values() for item in items)


def _codes(run: RunContext) -> dict[str, Any]:
    """The code of kinds of claims from other packages."""
    codes = {name: run.plugins.code("register_claims", name) for name in run.plugins.claims()}
    foreign = {name: code for name, code in codes.items() if code}
    return {"code": foreign} if foreign else {}


def _composed(run: RunContext, circuit: Circuit) -> dict[Node, dict[str, Any]]:
    from ..claims.compose import compose, facts_of
    from ..claims.paths import release
    from ..evidence.measurement import NotMeasurable

    if (reason := _obstacle(run)) is not None:
        run.progress("compose claims", 1, 1, f"none, as {reason}")
        return {}
    run.progress("compose claims", 0, 1)
    try:
        claims = compose(run.contrast, circuit, circuit.components, run.plugins.claims())
        facts = {node: facts_of(run.contrast, node, claims) for node in circuit.components}
    except NotMeasurable as reason:
        run.progress("compose claims", 1, 1, f"none, as {reason}")
        return {}
    release(run.contrast)
    run.progress("compose claims", 1, 1, f"{len(claims)} hold on the discovery prompts")
    return facts


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


# --- tested on held-out prompts -----------------------------------------------------------------


def explain_components(
    run: RunContext,
    circuit: Circuit,
    evidence: Mapping[Node, Sequence[Evidence]],
    labels: Sequence[Label],
) -> Explanation:
    """The composed claims and those of the labels, all tested at once; from the store if it can be.

    Args:
        run: The run.
        circuit: Its circuit.
        evidence: Where the composed claims are; empty where none could be composed.
        labels: The labels of the components.
    """
    kinds = run.plugins.claims()
    made = _authors(evidence, labels)
    # An imported run, or one whose plugin is gone, may hold claims that nothing can test.
    authors = [[claim for claim in some if can_be_made(claim, kinds)] for some in made]
    claims = list(dict.fromkeys(claim for some in authors for claim in some))
    if not has_claims(evidence):
        return Explanation()
    question = content_id(
        "claims", [circuit.id, RESULTS, _codes(run), [[c.id for c in some] for some in authors]]
    )
    tested = run.writer.find_claims(question)
    if tested is None:
        found = _tested(run, circuit, claims, authors)
        tested = {
            "claims": list(found.claims),
            "components": list(found.components),
            "algorithm": list(found.algorithm),
        }
    run.writer.add_claims(question, tested)
    return Explanation(**tested)


def _authors(
    evidence: Mapping[Node, Sequence[Evidence]], labels: Sequence[Label]
) -> list[list[Claim]]:
    """The claims of each author: those composed, and those of labelers that make some of their own.

    A labeler that repeats composed claims is no author: the whole of them decides.
    """
    composed = [
        result.claim for items in evidence.values() for item in items for result in item.suggested
    ]
    by_labeler: dict[str, list[Claim]] = {}
    for label in labels:
        by_labeler.setdefault(label.labeler, []).extend(label.claims)
    own = [some for some in by_labeler.values() if not {*some} <= {*composed}]
    return [composed, *map(_sorted, own)]


def _sorted(claims: Iterable[Claim]) -> list[Claim]:
    """In an order that does not depend on that of the answers."""
    return sorted(dict.fromkeys(claims), key=lambda claim: (str(claim.node), claim.id))


def _tested(
    run: RunContext,
    circuit: Circuit,
    claims: Sequence[Claim],
    authors: Sequence[Sequence[Claim]],
) -> Explanation:
    from ..claims.effects import component_results
    from ..claims.paths import release
    from ..claims.steps import steps
    from ..claims.testing import check_claims
    from ..evidence.measurement import NotMeasurable

    run.forget_discovery()
    held_out = run.held_out
    run.progress("test claims", 0, 2, f"{len(claims)} on held-out prompts")
    try:
        results = check_claims(held_out, claims, run.plugins.claims())
        run.progress("test claims", 1, 2, "effects of components")
        by_claim = {result.claim: result for result in results}
        explanations = [[by_claim[claim] for claim in some] for some in authors]
        components = component_results(held_out, circuit.components, explanations)
        algorithm = steps(held_out, components, results)
    except NotMeasurable as reason:
        run.progress("test claims", 2, 2, f"none, as {reason}")
        return Explanation()
    release(held_out)
    run.progress("test claims", 2, 2, Coverage.of(components).in_words)
    return Explanation(results, components, algorithm)
