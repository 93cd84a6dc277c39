"""Labeler `llm`: an LLM sees the evidence on one component and says what it does.

It names roles and makes claims, which are tested as those of the rules are. The pydantic models say
what may be replied. Their names and docstrings are part of the JSON schemas that are sent, and so
of the requests' ids: with another name, stored replies are not found again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Labeler
from acdc_explain.labeling.language import Language
from acdc_explain.records.label import LabelerReply, Proposal
from acdc_explain.records.role import NO_ROLE
from acdc_explain.records.run.summary import Sentence

from .shown import aliases, claim_aliases, first_of_each, roles_of, template_variables

if TYPE_CHECKING:
    from acdc_explain.llm.exchange import Ask, Exchange
    from acdc_explain.records.claim import Claim, ClaimResult
    from acdc_explain.records.question import Question
    from acdc_explain.records.run.summary import SummaryQuestion

MOST_CLAIMS = 8
MOST_TOLD = {
    "where": 0,
    "reads": 1,
    "does": 2,
    "weights": 1,
}  # claims about one component in a summary
MOST_CITED = 80  # in all


class Reply(BaseModel):
    """A reply of an LLM, without any other fields."""

    model_config = ConfigDict(extra="forbid")


class Answer(Reply):
    """What one component does."""

    roles: list[str] = Field(max_length=3)
    claims: list[dict[str, Any]] = Field(max_length=MOST_CLAIMS)
    description: str = Field(min_length=1, max_length=600)
    confidence: float = Field(ge=0, le=1)
    evidence: list[str] = Field(min_length=1, max_length=10)


class Told(Reply):
    text: str = Field(min_length=1, max_length=300)
    claims: list[str] = Field(min_length=1, max_length=20)


class Description(Reply):
    """What a circuit does."""

    sentences: list[Told] = Field(min_length=1, max_length=8)


class Describe:
    """One question to an LLM for each component, answered from the component's evidence alone.

    It is blind unless `reveal` is set: the LLM sees neither the model's name nor the components'
    layers and numbers nor what the task calls its positions and variables.
    """

    def prompt(self, question: Question, ask: Ask | None) -> str:
        assert ask is not None
        return ask.render("describe", **template_variables(question))

    async def __call__(
        self,
        question: Question,
        prompt: str,
        ask: Ask | None,
        *,
        llm_model: str = "",
        reveal: bool = False,
    ) -> LabelerReply:
        assert ask is not None
        citable = list(aliases(question))
        answer, exchange = await ask(
            "describe",
            prompt,
            answer_schema(Answer, question, citable),
            lambda reply: check_answer(Answer.model_validate_json(reply), question, citable),
        )
        return LabelerReply(proposals_of(answer, question), exchange)

    async def summarise(
        self, question: SummaryQuestion, ask: Ask | None
    ) -> tuple[Sequence[Sentence], Exchange | None]:
        assert ask is not None
        told = first_of_each(question.results, MOST_TOLD)[:MOST_CITED]
        cited = {f"C{number}": x for number, x in enumerate(told, 1)}
        if not cited:
            return [], None
        prompt = ask.render("summary", **_summary_variables(question, cited))
        schema = Description.model_json_schema()
        schema["$defs"]["Told"]["properties"]["claims"]["items"] = {"enum": list(cited)}

        def read(reply: str) -> Description:
            description = Description.model_validate_json(reply)
            for sentence in description.sentences:
                if unknown := [name for name in sentence.claims if name not in cited]:
                    raise ValueError(f"there is no claim {unknown[0]!r}")
            return description

        description, exchange = await ask("summary", prompt, schema, read)
        distinct = {x.text: x for x in description.sentences}.values()  # small LLMs repeat
        return [_sentence(x, [cited[name] for name in x.claims]) for x in distinct], exchange


def _sentence(told: Told, rests_on: Sequence[ClaimResult]) -> Sentence:
    nodes = dict.fromkeys(result.node for result in rests_on)
    return Sentence(told.text, tuple(nodes), tuple(dict.fromkeys(x.claim.id for x in rests_on)))


def _summary_variables(
    question: SummaryQuestion, cited: Mapping[str, ClaimResult]
) -> dict[str, Any]:
    """The variables of the template about the whole circuit."""
    told = {result.node for result in cited.values()}
    return {
        "task": question.task_description,
        "blind": question.blind,
        "claims": [
            {
                "alias": alias,
                "name": question.shown[result.node],
                "roles": [label.role for label in question.granted(result.node)],
                "says": question.said[result.claim.id],
                "value": result.value or 0.0,
                "unit": result.unit,
            }
            for alias, result in cited.items()
        ],
        "open": [question.shown[x] for x in question.circuit.components if x not in told],
    }


# --- what the LLM may reply --------------------------------------------------------------------


def answer_schema(
    answer: type[BaseModel], question: Question, citable: Sequence[str]
) -> dict[str, Any]:
    """The schema of an answer, limited to the known roles and claims and to `citable` evidence."""
    schema = answer.model_json_schema()
    properties = schema["properties"]
    properties["roles"]["items"] = {"enum": [card.name for card in roles_of(question)]}
    properties["evidence"]["items"] = {"enum": list(citable)}
    properties["claims"]["items"] = claim_schema(question)
    return schema


def claim_schema(question: Question) -> dict[str, Any]:
    """The schema of a claim: one that is listed, or one of the LLM's own."""
    kinds = Language(question).schemas()
    if listed := list(claim_aliases(question)):
        adopted = {"type": "object", "properties": {"claim": {"enum": listed}}}
        kinds.insert(0, {**adopted, "required": ["claim"], "additionalProperties": False})
    return {"anyOf": kinds} if kinds else {}


def check_answer(answer: Answer, question: Question, citable: Collection[str]) -> Answer:
    """The answer. Raises ValueError for a role, a claim or a citation that does not exist."""
    known = {card.name for card in roles_of(question)}
    if unknown := [role for role in answer.roles if role not in known]:
        raise ValueError(f"role {unknown[0]!r} is not in the vocabulary")
    if unknown := [alias for alias in answer.evidence if alias not in citable]:
        raise ValueError(f"cited evidence {unknown[0]!r} does not exist")
    claims_of(answer.claims, question)
    return answer


def claims_of(entries: Sequence[Mapping[str, Any]], question: Question) -> list[Claim]:
    """The claims of an answer. Raises ValueError for one that cannot be made."""
    listed, language = claim_aliases(question), Language(question)
    return [
        listed[name].claim if (name := str(entry.get("claim"))) in listed else language.claim(entry)
        for entry in entries
    ]


def proposals_of(answer: Answer, question: Question) -> tuple[Proposal, ...]:
    """An answer as proposals, one for each role, which cite evidence by id."""
    ids = {alias: evidence.id for alias, evidence in aliases(question).items()}
    cited = [ids[alias] for alias in answer.evidence if alias in ids]
    claims = claims_of(answer.claims, question)
    positions = [claim.arguments["at"] for claim in claims if "at" in claim.arguments]
    return tuple(
        Proposal(
            role=role,
            description=answer.description,
            confidence=answer.confidence,
            evidence_ids=tuple(dict.fromkeys(cited)),
            positions=tuple(dict.fromkeys(positions)),
            claims=claims,
        )
        for role in dict.fromkeys(answer.roles or [NO_ROLE])
    )


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"llm": Labeler.of(Describe(), asks_llm=True)}


@hookimpl
def register_prompts() -> dict[str, Path]:
    from importlib.util import find_spec

    spec = find_spec("acdc_explain_prompts")
    assert spec is not None
    return {"acdc-explain": Path(next(iter(spec.submodule_search_locations or ())))}
