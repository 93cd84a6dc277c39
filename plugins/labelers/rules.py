"""Labeler `rules`: the role cards decide, offline and always the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Labeler
from acdc_explain.ids import canonical_json
from acdc_explain.records.label import LabelerReply, Proposal
from acdc_explain.records.run.summary import Sentence

if TYPE_CHECKING:
    from acdc_explain.llm.exchange import Ask, Exchange
    from acdc_explain.records.circuit import Node
    from acdc_explain.records.question import Question
    from acdc_explain.records.role import RoleCard
    from acdc_explain.records.run.summary import SummaryQuestion

RARE = 0.9  # the share of others that do less
TRIFLE = 0.05
MOST_NUMBERS = 4
NO_ROLE = ("attention_sink", "other")  # said only where nothing else can be said


class Rules:
    """Proposes every role whose card's tests the evidence passes, or else `other`."""

    def prompt(self, question: Question, ask: Ask | None) -> str:
        """What the rules look at, so that other evidence or other cards are a new question."""
        looked_at = {"measured": question.measured, "cards": question.possible_roles}
        return canonical_json(looked_at)

    async def __call__(
        self, question: Question, prompt: str, ask: Ask | None, **settings: Any
    ) -> LabelerReply:
        cards = question.possible_roles
        passed = [name for name, card in cards.items() if not card.missing(question.measured)]
        telling = [name for name in passed if name not in NO_ROLE]
        chosen = telling or [name for name in passed if name == "attention_sink"] or ["other"]
        return LabelerReply(tuple(self._proposal(question, cards[name]) for name in chosen))

    async def summarise(
        self, story: SummaryQuestion, ask: Ask | None
    ) -> tuple[Sequence[Sentence], Exchange | None]:
        """One sentence a role that was granted, and one for what has none."""
        told = [
            Sentence(f"{_listed(nodes)}: {story.claims[role]} ({role}).", tuple(nodes))
            for role, nodes in story.by_role.items()
            if role in story.claims
        ]
        rest = [node for node in story.circuit.components if not story.granted(node)]
        unnamed = [node for node in rest if ("other", "supported") in story.outcomes(node)]
        failed = [node for node in rest if node not in unnamed]
        if unnamed:
            words = f"{_listed(unnamed)}: matter here, in a way that no role names (other)."
            told.append(Sentence(words, tuple(unnamed)))
        if failed:
            told.append(Sentence(f"No role of {_listed(failed)} passed its tests.", tuple(failed)))
        return told, None

    def _proposal(self, question: Question, card: RoleCard) -> Proposal:
        relevant = {requirement.measure for requirement in card.requirements}
        shown = relevant if card.name != "other" else set(question.measured)
        cited = [e for e in question.evidence if shown & set(e.measures)]
        return Proposal(
            role=card.name,
            description=self._description(question, card),
            confidence=_confidence(question, card),
            evidence_ids=tuple(evidence.id for evidence in cited),
            positions=("END",) if "answer_attention" in relevant else (),
        )

    def _description(self, question: Question, card: RoleCard) -> str:
        """The claim with the numbers behind it."""
        if card.name == "other":
            return self._unnamed(question)
        measured, claim = question.measured, card.claim[0].upper() + card.claim[1:]
        names = [requirement.measure for requirement in card.requirements]
        numbers = ", ".join(
            _number(name, *measured[name]) for name in dict.fromkeys(names) if name in measured
        )
        return f"{claim}: {numbers}."

    def _unnamed(self, question: Question) -> str:
        """What a component without a role does more than others: never what it does not do."""
        measured = question.measured
        kind = "Head" if question.node.kind == "head" else "MLP"
        effect, _ = measured.get("ablation_effect", (None, 0.5))
        words = f"{kind} without a known role"
        if effect is not None:
            words += f"; without it {effect:.0%} of the gap is lost"
        names = sorted(
            (name for name, found in measured.items() if _stands_out(name, *found)),
            key=lambda name: -abs(measured[name][1] - 0.5),
        )
        if not names:
            return f"{words}."
        numbers = ", ".join(_number(name, *measured[name]) for name in names[:MOST_NUMBERS])
        return f"{words}; more than most: {numbers}."


def _stands_out(name: str, value: float, percentile: float) -> bool:
    """Whether a component does more of something than nine in ten of its kind, or, where the
    measure has two directions, more of the opposite."""
    if name == "ablation_effect" or abs(value) < TRIFLE:
        return False
    return percentile >= RARE if value > 0 else percentile <= 1 - RARE


def _listed(nodes: Sequence[Node]) -> str:
    return ", ".join(map(str, nodes))


def _number(name: str, value: float, percentile: float) -> str:
    rank = "" if name == "ablation_effect" else f" (above {percentile:.0%})"
    return f"{name.replace('_', ' ')} {value:.2f}{rank}"


def _confidence(question: Question, card: RoleCard) -> float:
    """How far the least outstanding of the card's pattern statistics ranks from the middle."""
    if card.name == "other":
        return 0.0  # nothing is claimed
    ranks = [abs(2 * question.measured[r.measure][1] - 1) for r in card.tests("pattern")]
    return round(min(ranks, default=0.5), 3)


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"rules": Labeler.of(Rules())}
