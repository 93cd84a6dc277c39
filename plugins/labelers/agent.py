"""Labeler `agent`: an LLM that states hypotheses, has experiments run on them, and concludes.

It asks for experiments by name with arguments as JSON; nothing it writes is ever executed. Every
turn is one prompt with all that is known and one reply: any server will do, and a batch file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Labeler
from acdc_explain.ids import canonical_json
from acdc_explain.llm.exchange import MOST_REPLY_TOKENS, UnusableReply
from acdc_explain.llm.prices import estimated_tokens
from acdc_explain.records.label import LabelerReply

from .llm import (
    Answer,
    Describe,
    Reply,
    aliases,
    answer_schema,
    checked,
    proposal_of,
    shown_to_llm,
)

if TYPE_CHECKING:
    from acdc_explain.llm.exchange import Ask
    from acdc_explain.records.question import Question

MOST_HYPOTHESES = 3
DONE = "done"


class Hypothesis(Reply):
    role: str = Field(max_length=100)
    claim: str = Field(min_length=1, max_length=300)


class Hypotheses(Reply):
    hypotheses: list[Hypothesis] = Field(min_length=1, max_length=MOST_HYPOTHESES)


class AgentReply(Reply):
    """The next experiment and why. `step` names it and has its arguments beside."""

    reason: str = Field(max_length=300)
    step: dict[str, Any]


class Resolution(Reply):
    hypothesis: str = Field(max_length=10)
    outcome: Literal["supported", "refuted", "undecided"]
    reason: str = Field(min_length=1, max_length=300)
    evidence: list[str] = Field(max_length=8)


class Conclusion(Answer):
    hypotheses: list[Resolution] = Field(max_length=MOST_HYPOTHESES)


@dataclass
class Investigation:
    """What is known so far: hypotheses by alias (A, B, C), results by alias (X1, X2 ...)."""

    question: Question
    ask: Ask
    calls: int
    tokens: int
    hypotheses: dict[str, Hypothesis] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def render(self, template: str) -> str:
        return self.ask.render(
            template,
            **shown_to_llm(self.question),
            hypotheses={alias: h.model_dump() for alias, h in self.hypotheses.items()},
            results=self.results,
            experiments=self._catalogue,
            calls_left=self.calls - len(self.results),
            most_hypotheses=MOST_HYPOTHESES,
        )

    @property
    def _catalogue(self) -> list[dict[str, Any]]:
        assert self.question.experiments is not None
        return [
            {"name": name, "says": says, "arguments": schema["properties"]}
            for name, (says, schema) in self.question.experiments.catalogue.items()
        ]

    def affords(self, prompt: str) -> bool:
        """Whether the budget has room for one more turn and the conclusion after it."""
        used = sum(
            (x.tokens_in or estimated_tokens(x.prompt))
            + (x.tokens_out or estimated_tokens(x.reply or ""))
            for x in self.ask.exchanges
        )
        turn = estimated_tokens(prompt) + MOST_REPLY_TOKENS
        return len(self.results) < self.calls and used + 2 * turn <= self.tokens

    # --- the three kinds of turn ---------------------------------------------------------------

    async def hypothesise(self, prompt: str) -> None:
        schema = Hypotheses.model_json_schema()
        roles = self.question.possible_roles
        schema["$defs"]["Hypothesis"]["properties"]["role"] = {"enum": list(roles)}

        def read(reply: str) -> Hypotheses:
            found = Hypotheses.model_validate_json(reply)
            if strange := [h.role for h in found.hypotheses if h.role not in roles]:
                raise ValueError(f"role {strange[0]!r} is not in the vocabulary")
            return found

        found, _ = await self.ask("hypothesise", prompt, schema, read)
        different = {(h.role, h.claim): h for h in found.hypotheses}
        self.hypotheses = dict(zip("ABC", different.values()))

    async def experiment(self) -> bool:
        """One more experiment. False if the LLM wants none, or asks for none that there is."""
        prompt = self.render("experiment")
        if not self.affords(prompt):
            return False
        experiments = self.question.experiments
        assert experiments is not None
        done: dict[str, Mapping[str, Any]] = {DONE: {}} if self.results else {}
        known = done | {name: schema for name, (_, schema) in experiments.catalogue.items()}

        def read(reply: str) -> dict[str, Any]:
            step = AgentReply.model_validate_json(reply).step
            name = step.get("experiment")
            if name not in known:
                raise ValueError(f"there is no experiment {name!r}")
            if any(canonical_json(result["asked"]) == canonical_json(step)
                   for result in self.results.values()):  # fmt: skip
                raise ValueError("this was asked before; ask something else, or for 'done'")
            return step

        try:
            step, _ = await self.ask("experiment", prompt, _step_schema(known), read)
        except UnusableReply:  # it is in the exchanges; what is known so far must do
            return False
        if step["experiment"] == DONE:
            return False
        arguments = {name: value for name, value in step.items() if name != "experiment"}
        try:
            outcome: dict[str, Any] = {
                "result": dict(await experiments.run(step["experiment"], arguments))
            }
        except ValueError as error:
            outcome = {"error": str(error)}
        self.results[f"X{len(self.results) + 1}"] = {"asked": step, **outcome}
        return True

    async def conclude(self) -> tuple[LabelerReply, list[dict[str, Any]]]:
        citable = {**aliases(self.question), **self.results}
        schema = answer_schema(Conclusion, self.question, list(citable))
        resolution = schema["$defs"]["Resolution"]["properties"]
        resolution["hypothesis"] = {"enum": list(self.hypotheses)}
        resolution["evidence"]["items"] = {"enum": list(citable)}

        def read(reply: str) -> Conclusion:
            conclusion = Conclusion.model_validate_json(reply)
            checked(conclusion, self.question, citable)
            for resolved in conclusion.hypotheses:
                if strange := [e for e in resolved.evidence if e not in citable]:
                    raise ValueError(f"cited evidence {strange[0]!r} does not exist")
                if resolved.hypothesis not in self.hypotheses:
                    raise ValueError(f"there is no hypothesis {resolved.hypothesis!r}")
            return conclusion

        conclusion, exchange = await self.ask("conclude", self.render("conclude"), schema, read)
        said = {resolved.hypothesis: resolved for resolved in conclusion.hypotheses}
        resolved = [self._resolved(alias, said.get(alias)) for alias in self.hypotheses]
        return LabelerReply((proposal_of(conclusion, self.question),), exchange), resolved

    def _resolved(self, alias: str, said: Resolution | None) -> dict[str, Any]:
        """Every hypothesis ends somewhere; nothing is settled without a result to show for it."""
        outcome, reason = "undecided", "the conclusion does not speak of it"
        if said is not None:
            outcome, reason = said.outcome, said.reason
            if outcome != "undecided" and not set(said.evidence) & set(self.results):
                outcome, reason = "undecided", f"said to be {outcome}, but by no experiment"
        return {
            **self.hypotheses[alias].model_dump(),
            "outcome": outcome,
            "reason": reason,
            "evidence": list(dict.fromkeys(said.evidence)) if said else [],
        }

    def true_results(self) -> list[dict[str, Any]]:
        """The experiments, with the components' true names."""
        true = {name: str(node) for node, name in self.question.shown.items()}
        found = []
        for alias, result in self.results.items():
            asked = {
                key: true.get(value, value) if key in ("receiver", "other") else value
                for key, value in result["asked"].items()
            }
            found.append({"id": alias, **result, "asked": asked})
        return found


def _step_schema(known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One of the experiments, with its arguments."""
    steps = []
    for name, schema in known.items():
        properties = {"experiment": {"enum": [name]}, **schema.get("properties", {})}
        steps.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    schema = AgentReply.model_json_schema()
    schema["properties"]["step"] = {"anyOf": steps}
    return schema


class Agent(Describe):
    """Blind unless `reveal`. `calls` experiments at most, and `tokens` in and out, a component."""

    def prompt(self, question: Question, ask: Ask | None) -> str:
        assert ask is not None
        return Investigation(question, ask, 0, 0).render("hypothesise")

    async def __call__(
        self,
        question: Question,
        prompt: str,
        ask: Ask | None,
        *,
        llm_model: str = "",
        reveal: bool = False,
        calls: int = 5,
        tokens: int = 60_000,
    ) -> LabelerReply:
        assert ask is not None
        investigation = Investigation(question, ask, calls, tokens)
        await investigation.hypothesise(prompt)
        while await investigation.experiment():
            pass
        answer, hypotheses = await investigation.conclude()
        findings = {"experiments": investigation.true_results(), "hypotheses": hypotheses}
        return LabelerReply(answer.proposals, answer.exchange, findings)


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"agent": Labeler.of(Agent(), asks_llm=True)}
