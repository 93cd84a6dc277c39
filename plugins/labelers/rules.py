"""Labeler `rules`: the role cards decide, without an LLM and always the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Labeler
from acdc_explain.ids import canonical_json
from acdc_explain.records.claim import EXPLAINING
from acdc_explain.records.label import LabelerReply, Proposal
from acdc_explain.records.run.summary import Sentence

if TYPE_CHECKING:
    from acdc_explain.llm.exchange import Ask, Exchange
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.claim import Statement
    from acdc_explain.records.question import Question
    from acdc_explain.records.role import RoleCard
    from acdc_explain.records.run.summary import SummaryQuestion

MOST_SAID = 4  # claims in a description
FALLBACK_ROLES = ("attention_sink", "other")  # in this order, where no other role fits


class Rules:
    """Proposes every role that evidence and claims support; `other` if there is none."""

    def prompt(self, question: Question, ask: Ask | None) -> str:
        """All that the rules use, so that other evidence or other cards make a new question."""
        inputs = {
            "measured": question.measured,
            "cards": question.possible_roles,
            "claims": question.claims,
        }
        return canonical_json(inputs)

    async def __call__(
        self, question: Question, prompt: str, ask: Ask | None, **settings: Any
    ) -> LabelerReply:
        cards = question.possible_roles
        passed = [name for name, card in cards.items() if _passes(question, card)]
        roles = [name for name in passed if name not in FALLBACK_ROLES]
        if not roles:
            roles = ["attention_sink" if "attention_sink" in passed else "other"]
        return LabelerReply(tuple(self._proposal(question, cards[name]) for name in roles))

    async def summarise(
        self, question: SummaryQuestion, ask: Ask | None
    ) -> tuple[Sequence[Sentence], Exchange | None]:
        """One sentence for each supported role, and up to two for components without one."""
        sentences = [
            Sentence(f"{_listed(nodes)}: {question.claims[role]} ({role}).", tuple(nodes))
            for role, nodes in question.by_role.items()
            if role in question.claims
        ]
        without_role = [node for node in question.circuit.components if not question.granted(node)]
        unnamed = [
            node
            for node in without_role
            if {("other", "matters"), ("other", "supported")} & {*question.outcomes(node)}
        ]
        failed = [node for node in without_role if node not in unnamed]
        if unnamed:
            text = f"{_listed(unnamed)}: matter here, in a way that no role names (other)."
            sentences.append(Sentence(text, tuple(unnamed)))
        if failed:
            text = f"No role of {_listed(failed)} passed its tests."
            sentences.append(Sentence(text, tuple(failed)))
        return sentences, None

    def _proposal(self, question: Question, card: RoleCard) -> Proposal:
        required = {requirement.measure for requirement in card.requirements}
        cited = [e for e in question.evidence if required & set(e.measures)]
        fitting = question.claims if card.name == "other" else _fitting(question, card)
        of_topic = [x for topic in ("reads", "does") for x in fitting if x.topic == topic]
        said = of_topic[:MOST_SAID]
        return Proposal(
            role=card.name,
            description=_sentence([x.text for x in said]) if said else card.sentence,
            confidence=_confidence(question, card),
            evidence_ids=tuple(evidence.id for evidence in cited or question.evidence),
            positions=tuple(dict.fromkeys(x.at for x in fitting if x.topic in EXPLAINING)),
            claims=[x.claim for x in said],
        )


def _passes(question: Question, card: RoleCard) -> bool:
    """Whether evidence meets the card's requirements, and claims at one position its claims.

    A claim that says the opposite is enough to leave the role out.
    """
    if card.missing(question.measured) or card.against(question.claims):
        return False
    return not card.claims or bool(card.complete_bundles(question.claims))


def _fitting(question: Question, card: RoleCard) -> list[Statement]:
    """The claims by which a component has a role, each once."""
    return list({x.claim: x for x in card.grounds(question.claims)}.values())


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _listed(nodes: Sequence[Node]) -> str:
    return ", ".join(map(str, nodes))


def _confidence(question: Question, card: RoleCard) -> float:
    """How far from the median the least outstanding of the role's pattern measures is, 0 to 1."""
    if card.name == "other":
        return 0.0  # no role is claimed
    ranks = [abs(2 * question.measured[r.measure][1] - 1) for r in card.tests("pattern")]
    return round(min(ranks, default=0.5), 3)


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"rules": Labeler.of(Rules())}
