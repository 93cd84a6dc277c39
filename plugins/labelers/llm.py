"""Labeler `llm`: one structured answer per component from an LLM that sees the evidence alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Labeler
from acdc_explain.records.label import LabelerReply, Proposal
from acdc_explain.records.run.summary import Sentence

if TYPE_CHECKING:
    from acdc_explain.llm.exchange import Ask, Exchange
    from acdc_explain.records.circuit import Edge, Node
    from acdc_explain.records.evidence import Evidence
    from acdc_explain.records.question import Question
    from acdc_explain.records.run.summary import SummaryQuestion

NEIGHBORS = 8  # of each direction that are shown


class Reply(BaseModel):
    """What an LLM may reply: nothing but what is asked for."""

    model_config = ConfigDict(extra="forbid")


class Answer(Reply):
    """A role for one component."""

    role: str = Field(max_length=100)
    description: str = Field(min_length=1, max_length=600)
    positions: list[str] = Field(max_length=6)
    confidence: float = Field(ge=0, le=1)
    evidence: list[str] = Field(min_length=1, max_length=10)


class Told(Reply):
    text: str = Field(min_length=1, max_length=300)
    nodes: list[str] = Field(min_length=1, max_length=20)


class Description(Reply):
    """What a circuit does."""

    sentences: list[Told] = Field(min_length=1, max_length=8)


class Describe:
    """Blind unless `reveal`: neither the model's name nor layer and number are shown."""

    def prompt(self, question: Question, ask: Ask | None) -> str:
        assert ask is not None
        return ask.render("describe", **shown_to_llm(question))

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
        answer, exchange = await ask(
            "describe",
            prompt,
            answer_schema(Answer, question, list(aliases(question))),
            lambda reply: checked(Answer.model_validate_json(reply), question, aliases(question)),
        )
        return LabelerReply((proposal_of(answer, question),), exchange)

    async def summarise(
        self, story: SummaryQuestion, ask: Ask | None
    ) -> tuple[Sequence[Sentence], Exchange | None]:
        assert ask is not None
        by_name = {name: node for node, name in story.shown.items()}
        prompt = ask.render("summary", **_told_of(story))
        schema = Description.model_json_schema()
        schema["$defs"]["Told"]["properties"]["nodes"]["items"] = {"enum": list(by_name)}

        def read(reply: str) -> Description:
            description = Description.model_validate_json(reply)
            for sentence in description.sentences:
                if strange := [name for name in sentence.nodes if name not in by_name]:
                    raise ValueError(f"there is no component {strange[0]!r}")
            return description

        description, exchange = await ask("summary", prompt, schema, read)
        told = [
            Sentence(x.text, tuple(dict.fromkeys(by_name[name] for name in x.nodes)))
            for x in {x.text: x for x in description.sentences}.values()  # small LLMs repeat
        ]
        return told, exchange


# --- what is shown -----------------------------------------------------------------------------


def shown_to_llm(question: Question) -> dict[str, Any]:
    """The variables of the templates about one component."""
    return {
        "kind": kind(question.node),
        "name": question.shown.get(question.node),
        "model": question.model,
        "task": question.task_description,
        "positions": list(question.position_names),
        "roles": [{"name": c.name, "claim": c.claim} for c in question.possible_roles.values()],
        "inputs": _neighbors(question, question.inputs),
        "outputs": _neighbors(question, question.outputs),
        "evidence": [
            {"alias": alias, "collector": e.collector, "facts": e.facts}
            for alias, e in aliases(question).items()
        ],
    }


def kind(node: Node) -> str:
    return "attention head" if node.kind == "head" else "MLP layer"


def _neighbors(question: Question, edges: Sequence[Edge]) -> list[str]:
    """The circuit's other ends of a component's strongest edges, by the names that are shown."""
    strongest = sorted(edges, key=lambda edge: -abs(edge.effect))
    found: dict[str, None] = {}
    for edge in strongest:
        other = edge.src.base if edge.dst.base == question.node else edge.dst.base
        name = {"input": "the token embeddings", "logits": "the logits"}.get(other.kind)
        port = f" ({edge.port})" if edge.port else ""
        found[f"{name or question.shown.get(other, 'another component')}{port}"] = None
    return list(found)[:NEIGHBORS]


def aliases(question: Question) -> Mapping[str, Evidence]:
    """Short names for the pieces of evidence that hold anything: E1, E2 ..."""
    telling = [evidence for evidence in question.evidence if evidence.facts]
    return {f"E{number}": evidence for number, evidence in enumerate(telling, start=1)}


def _told_of(story: SummaryQuestion) -> dict[str, Any]:
    links = [
        f"{story.shown[edge.src.base]} -> {story.shown.get(edge.dst.base, 'the logits')}"
        + (f" ({edge.port})" if edge.port else "")
        for edge in story.circuit.edges
        if story.granted(edge.src.base)
        and (story.granted(edge.dst.base) or edge.dst.kind == "logits")
    ]
    return {
        "task": story.task_description,
        "components": [
            {
                "name": story.shown[node],
                "kind": kind(node),
                "labels": [{"role": r, "verdict": v} for r, v in story.outcomes(node)],
            }
            for node in story.circuit.components
        ],
        "claims": {role: story.claims.get(role, "") for role in story.by_role},
        "links": list(dict.fromkeys(links)),
    }


# --- what may be replied -----------------------------------------------------------------------


def answer_schema(
    answer: type[BaseModel], question: Question, citable: Sequence[str]
) -> dict[str, Any]:
    """An answer's schema, with the vocabulary and the evidence there is as its words."""
    schema = answer.model_json_schema()
    properties = schema["properties"]
    properties["role"] = {"enum": list(question.possible_roles)}
    properties["evidence"]["items"] = {"enum": list(citable)}
    if question.position_names:
        properties["positions"]["items"] = {"enum": list(question.position_names)}
    return schema


def checked(answer: Answer, question: Question, citable: Mapping[str, Any]) -> Answer:
    """Raise ValueError for a role, a citation or a position that does not exist."""
    if answer.role not in question.possible_roles:
        raise ValueError(f"role {answer.role!r} is not in the vocabulary")
    if strange := [alias for alias in answer.evidence if alias not in citable]:
        raise ValueError(f"cited evidence {strange[0]!r} does not exist")
    if strange := [p for p in answer.positions if p not in question.position_names]:
        raise ValueError(f"position {strange[0]!r} does not exist in this task")
    return answer


def proposal_of(answer: Answer, question: Question) -> Proposal:
    ids = {alias: evidence.id for alias, evidence in aliases(question).items()}
    cited = [ids[alias] for alias in answer.evidence if alias in ids]
    return Proposal(
        role=answer.role,
        description=answer.description,
        confidence=answer.confidence,
        evidence_ids=tuple(dict.fromkeys(cited)),
        positions=tuple(dict.fromkeys(answer.positions)),
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
