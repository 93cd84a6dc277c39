"""What an LLM is shown of one component: the variables of the templates.

Unless the question reveals the model, names say nothing: neither of the layer and number of a
component, nor of what a paper calls a position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acdc_explain.labeling.language import Language
from acdc_explain.records.evidence import CLAIMS
from acdc_explain.records.role import NO_ROLE

if TYPE_CHECKING:
    from acdc_explain.records.circuit import Edge, Node
    from acdc_explain.records.claim import ClaimResult
    from acdc_explain.records.evidence import Evidence
    from acdc_explain.records.question import Question
    from acdc_explain.records.role import RoleCard
    from acdc_explain.records.run.pair import Pair

MOST_NEIGHBORS = 4  # inputs that are shown, and outputs
MOST_WORDS = 6  # answers or foils that are shown
LEAST_ATTENTION = 0.1  # between two positions; less is not shown
LEAST_SHARE = 0.005  # of the gap, by ablating it at one position
LEAST_LOGITS = 0.05  # directly, from one position
MOST_LISTED = {"where": 1, "reads": 4, "does": 4, "weights": 1}  # claims of each topic


def template_variables(question: Question) -> dict[str, Any]:
    """The variables of the templates about one component."""
    language, behavior = Language(question), question.behavior
    pair = None if behavior is None else behavior.pair
    return {
        "kind": kind_of(question.node),
        "name": question.shown.get(question.node),
        "blind": question.model is None,
        "model": question.model,
        "task": question.task_description,
        "behavior": None
        if behavior is None
        else {x: getattr(behavior, x) for x in ("n", "metric", "clean", "ablated", "gap")},
        "pair": None if pair is None else _pair(pair, language),
        "claims": _kinds(language),
        "roles": [{"name": c.name, "claim": c.claim} for c in roles_of(question)],
        "inputs": _neighbors(question, question.inputs),
        "outputs": _neighbors(question, question.outputs),
        "evidence": [
            {"alias": alias, "collector": e.collector, "facts": _facts(e, question, language)}
            for alias, e in aliases(question).items()
        ],
    }


def kind_of(node: Node) -> str:
    """The kind of a component, in words."""
    return "attention head" if node.kind == "head" else "MLP layer"


def roles_of(question: Question) -> list[RoleCard]:
    """The roles that may be named: those whose measures have a meaning here. `other` names none."""
    return [
        card
        for name, card in question.possible_roles.items()
        if name != NO_ROLE and not _undefined(card, question)
    ]


def _undefined(card: RoleCard, question: Question) -> bool:
    """Whether a measure that the role requires could not be measured, by what the evidence says."""
    undefined = {name for item in question.evidence for name in item.facts.get("not_measured", ())}
    return any({o.measure for o in r.options} <= undefined for r in card.requirements)


def aliases(question: Question) -> Mapping[str, Evidence]:
    """Short names (E1, E2 ...) of the evidence that has any facts."""
    with_facts = [evidence for evidence in question.evidence if evidence.facts]
    return {f"E{number}": evidence for number, evidence in enumerate(with_facts, start=1)}


def claim_aliases(question: Question) -> Mapping[str, ClaimResult]:
    """Short names (C1, C2 ...) of the strongest claims, those that hold first."""
    by_outcome = sorted(question.suggested, key=lambda result: result.outcome != "holds")
    listed = first_of_each(by_outcome, MOST_LISTED)
    return {f"C{number}": result for number, result in enumerate(listed, start=1)}


def first_of_each(results: Iterable[ClaimResult], most: Mapping[str, int]) -> list[ClaimResult]:
    """The first claims about each component, which are the strongest: so many of each topic."""
    seen: Counter[tuple[Node, str]] = Counter()
    chosen = []
    for result in results:
        seen[result.node, result.topic] += 1
        if seen[result.node, result.topic] <= most[result.topic]:
            chosen.append(result)
    return chosen


# --- the prompts -------------------------------------------------------------------------------


def _pair(pair: Pair, language: Language) -> dict[str, Any]:
    """One pair of prompts with its positions marked, and what the positions have in common."""
    shown = language.places
    marks = {numbers[0]: shown[name] for name, numbers in pair.places.items() if len(numbers) == 1}
    return {
        "clean": _marked(pair.clean, marks),
        "corrupt": _marked(pair.corrupt, marks),
        "answers": list(pair.answers[:MOST_WORDS]),
        "foils": list(pair.foils[:MOST_WORDS]),
        "relations": {
            shown[place]: words
            for place in pair.place_names
            if (words := _related(pair.relations.get(place, ()), shown))
        },
        "variables": {
            variable: [shown[place] for place in pair.place_names if place in pair.variables[name]]
            for name, variable in language.variables.items()
        },
    }


def _marked(tokens: Sequence[str], marks: Mapping[int, str]) -> str:
    """A prompt with the name of its position after each named token."""
    return "".join(t + (f"[{marks[i]}]" if i in marks else "") for i, t in enumerate(tokens))


RELATED = {
    "answer": "the answer",
    "foil": "the wrong answer",
    "same": "the token of {}",
    "after": "after {}",
}


def _related(relations: Iterable[Sequence[Any]], shown: Mapping[str, str]) -> str:
    texts = [
        RELATED[what].format(shown.get(other, other))
        for what, other in relations
        if what in RELATED
    ]
    return ", ".join(texts)


# --- the component -----------------------------------------------------------------------------


def _kinds(language: Language) -> list[dict[str, Any]]:
    """The kinds of claims that may be made, with the names of their arguments."""
    return [
        {
            "name": name,
            "meaning": kind.meaning,
            "arguments": list(kind.arguments.model_fields),
        }
        for name, kind in language.kinds.items()
    ]


def _neighbors(question: Question, edges: Sequence[Edge]) -> list[str]:
    """The components at the other ends of a component's strongest edges, by their shown names."""
    neighbors: dict[str, float] = {}
    for edge in sorted(edges, key=lambda edge: -abs(edge.effect)):
        other = edge.src.base if edge.dst.base == question.node else edge.dst.base
        name = {"input": "the token embeddings", "logits": "the logits"}.get(other.kind)
        port = f"<{edge.port}>" if edge.port else ""
        at_own = edge.dst.base == question.node and edge.port
        shown = name or question.shown.get(other, "another component")
        text = f"{shown} by its {edge.port}" if at_own else f"{shown}{port}"
        neighbors.setdefault(text, edge.effect)
    return [f"{text} ({effect:+.2f})" for text, effect in [*neighbors.items()][:MOST_NEIGHBORS]]


def _facts(evidence: Evidence, question: Question, language: Language) -> dict[str, Any]:
    """The facts of an item of evidence in shown names."""
    facts = dict(evidence.facts)
    if evidence.collector == CLAIMS:
        return _suggested(facts, question, language)
    if isinstance(between := facts.get("between_positions"), Mapping):
        facts["between_positions"] = {
            " to ".join(language.places.get(place, place) for place in pair.split(" to ")): value
            for pair, value in between.items()
            if isinstance(value, int | float) and value >= LEAST_ATTENTION
        }
    return facts


def _suggested(facts: Mapping[str, Any], question: Question, language: Language) -> dict[str, Any]:
    """What the discovery prompts suggest, with the numbers that it was found by."""
    direct = {
        what: _at_places(values, language, LEAST_LOGITS) if isinstance(values, Mapping) else values
        for what, values in facts.get("direct", {}).items()
    }
    return {
        "by_position": _at_places(facts.get("by_position", {}), language, LEAST_SHARE),
        "direct": direct,
        "suggested": [
            {
                "alias": alias,
                "says": language.says(result.claim),
                "value": None if result.claim.arguments.get("by") else result.value,
                **{x: getattr(result, x) for x in ("chance", "percentile", "outcome")},
            }
            for alias, result in claim_aliases(question).items()
        ],
    }


def _at_places(values: Mapping[str, Any], language: Language, least: float) -> dict[str, Any]:
    """The values of at least a size, by the shown names of their places."""
    large = {n: x for n, x in values.items() if isinstance(x, float) and abs(x) >= least}
    return {shown: large[name] for name, shown in language.places.items() if name in large}
