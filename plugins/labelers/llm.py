"""Labeler `llm`: an LLM sees the evidence on one component and names its role.

The pydantic models say what may be replied. Their names and docstrings are part of the JSON schemas
that are sent, and so of the requests' ids: with another name, stored replies are not found again.
"""

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

N_NEIGHBORS = 8  # inputs that are shown, and outputs


class Reply(BaseModel):
    """A reply of an LLM, without any other fields."""

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
    """One question to an LLM for each component, answered from the component's evidence alone.

    It is blind unless `reveal` is set: the LLM sees neither the model's name nor the components'
    layers and numbers.
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
        answer, exchange = await ask(
            "describe",
            prompt,
            answer_schema(Answer, question, list(aliases(question))),
            lambda reply: check_answer(
                Answer.model_validate_json(reply), question, aliases(question)
            ),
        )
        return LabelerReply((proposal_of(answer, question),), exchange)

    async def summarise(
        self, question: SummaryQuestion, ask: Ask | None
    ) -> tuple[Sequence[Sentence], Exchange | None]:
        assert ask is not None
        by_name = {name: node for node, name in question.shown.items()}
        prompt = ask.render("summary", **_summary_variables(question))
        schema = Description.model_json_schema()
        schema["$defs"]["Told"]["properties"]["nodes"]["items"] = {"enum": list(by_name)}

        def read(reply: str) -> Description:
            description = Description.model_validate_json(reply)
            for sentence in description.sentences:
                if unknown := [name for name in sentence.nodes if name not in by_name]:
                    raise ValueError(f"there is no component {unknown[0]!r}")
            return description

        description, exchange = await ask("summary", prompt, schema, read)
        distinct = {x.text: x for x in description.sentences}.values()  # small LLMs repeat
        sentences = [
            Sentence(x.text, tuple(dict.fromkeys(by_name[name] for name in x.nodes)))
            for x in distinct
        ]
        return sentences, exchange


# --- what the LLM sees -------------------------------------------------------------------------


def template_variables(question: Question) -> dict[str, Any]:
    """The variables of the templates about one component."""
    return {
        "kind": kind_of(question.node),
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


def kind_of(node: Node) -> str:
    return "attention head" if node.kind == "head" else "MLP layer"


def _neighbors(question: Question, edges: Sequence[Edge]) -> list[str]:
    """The components at the other ends of a component's strongest edges, by their shown names."""
    neighbors: dict[str, None] = {}
    for edge in sorted(edges, key=lambda edge: -abs(edge.effect)):
        other = edge.src.base if edge.dst.base == question.node else edge.dst.base
        name = {"input": "the token embeddings", "logits": "the logits"}.get(other.kind)
        port = f" ({edge.port})" if edge.port else ""
        neighbors[f"{name or question.shown.get(other, 'another component')}{port}"] = None
    return list(neighbors)[:N_NEIGHBORS]


def aliases(question: Question) -> Mapping[str, Evidence]:
    """Short names (E1, E2 ...) of the evidence that has any facts."""
    with_facts = [evidence for evidence in question.evidence if evidence.facts]
    return {f"E{number}": evidence for number, evidence in enumerate(with_facts, start=1)}


def _summary_variables(question: SummaryQuestion) -> dict[str, Any]:
    """The variables of the template about the whole circuit."""
    links = [
        f"{question.shown[edge.src.base]} -> {question.shown.get(edge.dst.base, 'the logits')}"
        + (f" ({edge.port})" if edge.port else "")
        for edge in question.circuit.edges
        if question.granted(edge.src.base)
        and (question.granted(edge.dst.base) or edge.dst.kind == "logits")
    ]
    return {
        "task": question.task_description,
        "components": [
            {
                "name": question.shown[node],
                "kind": kind_of(node),
                "labels": [{"role": r, "verdict": v} for r, v in question.outcomes(node)],
            }
            for node in question.circuit.components
        ],
        "claims": {role: question.claims.get(role, "") for role in question.by_role},
        "links": list(dict.fromkeys(links)),
    }


# --- what the LLM may reply --------------------------------------------------------------------


def answer_schema(
    answer: type[BaseModel], question: Question, citable: Sequence[str]
) -> dict[str, Any]:
    """The schema of an answer, limited to the known roles, positions and `citable` evidence."""
    schema = answer.model_json_schema()
    properties = schema["properties"]
    properties["role"] = {"enum": list(question.possible_roles)}
    properties["evidence"]["items"] = {"enum": list(citable)}
    if question.position_names:
        properties["positions"]["items"] = {"enum": list(question.position_names)}
    return schema


def check_answer(answer: Answer, question: Question, citable: Mapping[str, Any]) -> Answer:
    """The answer. Raises ValueError for a role, a citation or a position that does not exist."""
    if answer.role not in question.possible_roles:
        raise ValueError(f"role {answer.role!r} is not in the vocabulary")
    if unknown := [alias for alias in answer.evidence if alias not in citable]:
        raise ValueError(f"cited evidence {unknown[0]!r} does not exist")
    if unknown := [p for p in answer.positions if p not in question.position_names]:
        raise ValueError(f"position {unknown[0]!r} does not exist in this task")
    return answer


def proposal_of(answer: Answer, question: Question) -> Proposal:
    """An answer as a proposal, which cites evidence by id."""
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
