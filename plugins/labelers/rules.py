"""Labeler `rules`: the role cards decide, without an LLM and always the same way."""

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

OUTSTANDING = 0.9  # percentile
NEGLIGIBLE = 0.05  # value of a measure
MOST_NUMBERS = 4  # in a description
FALLBACK_ROLES = ("attention_sink", "other")  # in this order, where no other role fits


class Rules:
    """Proposes every role whose tests the evidence passes; `other` if there is none."""

    def prompt(self, question: Question, ask: Ask | None) -> str:
        """All that the rules use, so that other evidence or other cards make a new question."""
        inputs = {"measured": question.measured, "cards": question.possible_roles}
        return canonical_json(inputs)

    async def __call__(
        self, question: Question, prompt: str, ask: Ask | None, **settings: Any
    ) -> LabelerReply:
        cards = question.possible_roles
        passed = [name for name, card in cards.items() if not card.missing(question.measured)]
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
            node for node in without_role if ("other", "supported") in question.outcomes(node)
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
        measures = required if card.name != "other" else set(question.measured)
        cited = [e for e in question.evidence if measures & set(e.measures)]
        return Proposal(
            role=card.name,
            description=self._description(question, card),
            confidence=_confidence(question, card),
            evidence_ids=tuple(evidence.id for evidence in cited),
            positions=("END",) if "answer_attention" in required else (),
        )

    def _description(self, question: Question, card: RoleCard) -> str:
        """What the role claims, with the measured values."""
        if card.name == "other":
            return self._unnamed(question)
        measured, claim = question.measured, card.claim[0].upper() + card.claim[1:]
        names = [requirement.measure for requirement in card.requirements]
        numbers = ", ".join(
            _number(name, *measured[name]) for name in dict.fromkeys(names) if name in measured
        )
        return f"{claim}: {numbers}."

    def _unnamed(self, question: Question) -> str:
        """The measures in which a component without a role stands out."""
        measured = question.measured
        kind = "Head" if question.node.kind == "head" else "MLP"
        effect, _ = measured.get("ablation_effect", (None, 0.5))
        text = f"{kind} without a known role"
        if effect is not None:
            text += f"; without it {effect:.0%} of the gap is lost"
        names = sorted(
            (name for name in measured if _stands_out(name, *measured[name])),
            key=lambda name: -abs(measured[name][1] - 0.5),
        )
        if not names:
            return f"{text}."
        numbers = ", ".join(_number(name, *measured[name]) for name in names[:MOST_NUMBERS])
        return f"{text}; more than most: {numbers}."


def _stands_out(name: str, value: float, percentile: float) -> bool:
    """Whether a value is among the top tenth of its kind; among the lowest, if it is negative."""
    if name == "ablation_effect" or abs(value) < NEGLIGIBLE:
        return False
    return percentile >= OUTSTANDING if value > 0 else percentile <= 1 - OUTSTANDING


def _listed(nodes: Sequence[Node]) -> str:
    return ", ".join(map(str, nodes))


def _number(name: str, value: float, percentile: float) -> str:
    rank = "" if name == "ablation_effect" else f" (above {percentile:.0%})"
    return f"{name.replace('_', ' ')} {value:.2f}{rank}"


def _confidence(question: Question, card: RoleCard) -> float:
    """How far from the median the least outstanding of the role's pattern measures is, 0 to 1."""
    if card.name == "other":
        return 0.0  # nothing is claimed
    ranks = [abs(2 * question.measured[r.measure][1] - 1) for r in card.tests("pattern")]
    return round(min(ranks, default=0.5), 3)


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"rules": Labeler.of(Rules())}
