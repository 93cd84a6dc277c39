"""Labeler `llm`: one structured answer per component from an LLM that sees the evidence alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acdc_explain import hookimpl
from acdc_explain.exchange import UnusableReply
from acdc_explain.hookspecs import Labeler
from acdc_explain.label import Proposal

if TYPE_CHECKING:
    from acdc_explain.exchange import Ask, Exchange
    from acdc_explain.question import Question

TEMPLATE = "describe"


class Answer(BaseModel):
    """What the LLM must reply. The schema goes with the question."""

    model_config = ConfigDict(extra="forbid")

    role: str = Field(max_length=100)
    description: str = Field(min_length=1, max_length=1000)
    positions: list[str] = Field(max_length=10)
    confidence: float = Field(ge=0, le=1)
    evidence: list[str] = Field(min_length=1, max_length=20)


class Describe:
    """Blind: neither the model's name nor the component's layer and number are shown."""

    def prompt(self, question: Question, ask: Ask | None) -> str:
        assert ask is not None
        return ask.render(
            TEMPLATE,
            kind="attention head" if question.node.kind == "head" else "MLP layer",
            task=question.task_description,
            positions=list(question.position_names),
            roles=[
                {"name": card.name, "claim": card.claim}
                for card in question.possible_roles.values()
            ],
            evidence=[
                {"alias": alias, "collector": e.collector, "facts": e.facts}
                for alias, e in _aliases(question).items()
            ],
        )

    def __call__(
        self, question: Question, prompt: str, ask: Ask | None, *, llm_model: str = ""
    ) -> tuple[Sequence[Proposal], Exchange | None]:
        assert ask is not None
        exchange = ask(TEMPLATE, prompt, self._schema(question))
        if exchange.error is not None:
            raise UnusableReply(exchange)
        try:
            answer = Answer.model_validate_json(exchange.reply or "")
            _check(answer, question)
        except (ValidationError, ValueError) as error:
            raise UnusableReply(replace(exchange, error=_one_line(error))) from error
        ids = {alias: evidence.id for alias, evidence in _aliases(question).items()}
        proposal = Proposal(
            role=answer.role,
            description=answer.description,
            confidence=answer.confidence,
            evidence_ids=tuple(dict.fromkeys(ids[alias] for alias in answer.evidence)),
            positions=tuple(answer.positions),
        )
        return [proposal], exchange

    def _schema(self, question: Question) -> dict[str, Any]:
        """The answer's schema, with the vocabulary and the evidence there is as its words."""
        schema = Answer.model_json_schema()
        properties = schema["properties"]
        properties["role"] = {"enum": list(question.possible_roles)}
        properties["evidence"]["items"] = {"enum": list(_aliases(question))}
        if question.position_names:
            properties["positions"]["items"] = {"enum": list(question.position_names)}
        return schema


def _aliases(question: Question) -> Mapping[str, Any]:
    """Short names for the pieces of evidence that hold anything: E1, E2 ..."""
    telling = [evidence for evidence in question.evidence if evidence.facts]
    return {f"E{number}": evidence for number, evidence in enumerate(telling, start=1)}


def _check(answer: Answer, question: Question) -> None:
    """Raise ValueError for a role, a citation or a position that does not exist."""
    if answer.role not in question.possible_roles:
        raise ValueError(f"role {answer.role!r} is not in the vocabulary")
    if strange := [alias for alias in answer.evidence if alias not in _aliases(question)]:
        raise ValueError(f"cited evidence {strange[0]!r} does not exist")
    if strange := [p for p in answer.positions if p not in question.position_names]:
        raise ValueError(f"position {strange[0]!r} does not exist in this task")


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        return f"unusable reply: {place}: {first['msg']}"
    return f"unusable reply: {error}"


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"llm": Describe()}


@hookimpl
def register_prompts() -> dict[str, Path]:
    from importlib.util import find_spec

    spec = find_spec("acdc_explain_prompts")
    assert spec is not None
    return {"acdc-explain": Path(next(iter(spec.submodule_search_locations or ())))}
