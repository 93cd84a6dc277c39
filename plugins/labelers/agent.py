"""Labeler `agent`: an LLM states hypotheses, requests experiments on them, and concludes.

It requests experiments by name, with arguments as JSON; nothing that it writes is executed. Each
step is one prompt with everything known so far, and one reply. So it works with any server, and
with batch files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from acdc_explain import hookimpl
from acdc_explain.hookspecs import Labeler
from acdc_explain.ids import canonical_json
from acdc_explain.labeling.language import Language
from acdc_explain.llm.exchange import MOST_REPLY_TOKENS, UnusableReply
from acdc_explain.llm.prices import estimated_tokens
from acdc_explain.records.label import LabelerReply

from .agent_replies import (
    MOST_HYPOTHESES,
    NONE,
    AgentReply,
    Conclusion,
    Hypotheses,
    Hypothesis,
    Resolution,
    step_schema,
)
from .llm import (
    Describe,
    answer_schema,
    check_answer,
    claim_schema,
    claims_of,
    proposals_of,
)
from .shown import aliases, roles_of, template_variables

if TYPE_CHECKING:
    from acdc_explain.llm.exchange import Ask
    from acdc_explain.records.question import Question

DONE = "done"
SHORT = {
    "made": "a claim as above, with its arguments",
    "at": "a position",
    "positions": "positions; [] for all tokens",
    "sender": "an earlier component",
    "other": "a component",
    "others": "components; [] for none",
    "prompts": "a variable or another corruption; empty for the usual one",
}
"""What the schemas of arguments say in a prompt, in short."""


@dataclass
class Investigation:
    """The investigation of one component.

    `hypotheses` have the aliases A, B, C, `results` of experiments X1, X2 and so on. `calls` is the
    most experiments, `tokens` the most tokens in prompts and replies.
    """

    question: Question
    ask: Ask
    calls: int
    tokens: int
    hypotheses: dict[str, Hypothesis] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def render(self, template: str) -> str:
        """A prompt with everything known so far."""
        return self.ask.render(
            template,
            **template_variables(self.question),
            hypotheses={alias: h.model_dump() for alias, h in self.hypotheses.items()},
            results=self.results,
            experiments=self._experiments,
            calls_left=self.calls - len(self.results),
            most_hypotheses=MOST_HYPOTHESES,
        )

    @property
    def _experiments(self) -> list[dict[str, Any]]:
        assert self.question.experiments is not None
        return [
            {
                "name": name,
                "says": description,
                "arguments": {
                    argument: SHORT.get(argument, values)
                    for argument, values in schema["properties"].items()
                },
            }
            for name, (description, schema) in self.question.experiments.catalogue.items()
        ]

    def affords(self, prompt: str) -> bool:
        """Whether the budget allows one more step and the conclusion after it."""
        used = sum(
            (x.tokens_in or estimated_tokens(x.prompt))
            + (x.tokens_out or estimated_tokens(x.reply or ""))
            for x in self.ask.exchanges
        )
        step = estimated_tokens(prompt) + MOST_REPLY_TOKENS
        return len(self.results) < self.calls and used + 2 * step <= self.tokens

    # --- the three kinds of step ---------------------------------------------------------------

    async def hypothesise(self, prompt: str) -> None:
        """Have the LLM state its hypotheses."""
        schema = Hypotheses.model_json_schema()
        roles = [NONE, *(card.name for card in roles_of(self.question))]
        properties = schema["$defs"]["Hypothesis"]["properties"]
        properties["role"] = {"enum": roles}
        properties["claims"]["items"] = claim_schema(self.question)

        def read(reply: str) -> Hypotheses:
            stated = Hypotheses.model_validate_json(reply)
            for hypothesis in stated.hypotheses:
                if hypothesis.role not in roles:
                    raise ValueError(f"role {hypothesis.role!r} is not in the vocabulary")
                claims_of(hypothesis.claims, self.question)
            return stated

        stated, _ = await self.ask("hypothesise", prompt, schema, read)
        distinct = {(h.role, h.says): h for h in stated.hypotheses}
        self.hypotheses = dict(zip("ABC", distinct.values()))

    async def experiment(self) -> bool:
        """Run one more experiment. False if the budget is used up or the LLM requests none."""
        prompt = self.render("experiment")
        if not self.affords(prompt):
            return False
        experiments = self.question.experiments
        assert experiments is not None
        schemas = {name: schema for name, (_, schema) in experiments.catalogue.items()}
        if self.results:
            schemas = {DONE: {}, **schemas}
        try:
            reply, _ = await self.ask(
                "experiment",
                prompt,
                step_schema(schemas),
                lambda reply: self._step(reply, schemas),
            )
        except UnusableReply:  # the agent concludes from what is known so far
            return False
        step = reply.step
        if step["experiment"] == DONE:
            return False
        arguments = {name: value for name, value in step.items() if name != "experiment"}
        try:
            result = await experiments.run(step["experiment"], arguments)
            outcome: dict[str, Any] = {"result": dict(result)}
        except ValueError as error:
            outcome = {"error": str(error)}
        made = {"reason": reply.reason, "asked": step, **outcome}
        self.results[f"X{len(self.results) + 1}"] = made
        return True

    def _step(self, text: str, known: Collection[str]) -> AgentReply:
        """The requested experiment. Raises ValueError if it is unknown or was run before."""
        reply = AgentReply.model_validate_json(text)
        step = reply.step
        name = step.get("experiment")
        if name not in known:
            raise ValueError(f"there is no experiment {name!r}")
        requested = canonical_json(step)
        if any(canonical_json(result["asked"]) == requested for result in self.results.values()):
            raise ValueError("this was asked before; ask something else, or for 'done'")
        return reply

    async def conclude(self) -> tuple[LabelerReply, list[dict[str, Any]]]:
        """Have the LLM conclude. Returns the proposed role, and how each hypothesis ended."""
        citable = {**aliases(self.question), **self.results}
        schema = answer_schema(Conclusion, self.question, list(citable))
        resolution = schema["$defs"]["Resolution"]["properties"]
        resolution["hypothesis"] = {"enum": list(self.hypotheses)}
        resolution["evidence"]["items"] = {"enum": list(citable)}

        def read(reply: str) -> Conclusion:
            conclusion = Conclusion.model_validate_json(reply)
            check_answer(conclusion, self.question, citable)
            for resolved in conclusion.hypotheses:
                if unknown := [e for e in resolved.evidence if e not in citable]:
                    raise ValueError(f"cited evidence {unknown[0]!r} does not exist")
                if resolved.hypothesis not in self.hypotheses:
                    raise ValueError(f"there is no hypothesis {resolved.hypothesis!r}")
                role = self.hypotheses[resolved.hypothesis].role
                if resolved.outcome == "refuted" and role in conclusion.roles:
                    raise ValueError(
                        f"role {role!r} is that of hypothesis {resolved.hypothesis}, which you say "
                        "is refuted"
                    )
            return conclusion

        conclusion, exchange = await self.ask("conclude", self.render("conclude"), schema, read)
        by_alias = {resolution.hypothesis: resolution for resolution in conclusion.hypotheses}
        hypotheses = [self._resolved(alias, by_alias.get(alias)) for alias in self.hypotheses]
        return LabelerReply(proposals_of(conclusion, self.question), exchange), hypotheses

    def _resolved(self, alias: str, resolution: Resolution | None) -> dict[str, Any]:
        """A hypothesis with its outcome, which is `undecided` unless it cites an experiment."""
        outcome, reason = "undecided", "the conclusion does not speak of it"
        if resolution is not None:
            outcome, reason = resolution.outcome, resolution.reason
            if outcome != "undecided" and not set(resolution.evidence) & set(self.results):
                outcome, reason = "undecided", f"said to be {outcome}, but by no experiment"
        hypothesis = self.hypotheses[alias]
        claims = claims_of(hypothesis.claims, self.question)
        return {
            "id": alias,
            "role": hypothesis.role,
            "says": hypothesis.says,
            "claims": [{"claim": x.name, "arguments": dict(x.arguments)} for x in claims],
            "outcome": outcome,
            "reason": reason,
            "evidence": list(dict.fromkeys(resolution.evidence)) if resolution else [],
        }

    def findings(self, hypotheses: list[dict[str, Any]]) -> dict[str, Any]:
        """The experiments and how the hypotheses ended, in true names."""
        results = [{"id": alias, **result} for alias, result in self.results.items()]
        named: dict[str, Any] = _renamed(
            {"experiments": results, "hypotheses": hypotheses}, Language(self.question).true_text
        )
        return named


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """JSON with other names in all its texts."""
    if isinstance(value, str):
        return rename(value)
    if isinstance(value, Mapping):
        return {rename(key): _renamed(item, rename) for key, item in value.items()}
    return [_renamed(item, rename) for item in value] if isinstance(value, list) else value


class Agent(Describe):
    """An LLM that states hypotheses, requests experiments on them, and concludes.

    It is blind unless `reveal` is set. For each component, it runs at most `calls` experiments,
    and its prompts and replies have at most `tokens` tokens together.
    """

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
        findings = investigation.findings(hypotheses)
        return LabelerReply(answer.proposals, answer.exchange, findings)


@hookimpl
def register_labelers() -> dict[str, Labeler]:
    return {"agent": Labeler.of(Agent(), asks_llm=True)}
