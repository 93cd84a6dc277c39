"""Evidence -> labels: one question a component, many at once, each answer stored as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..errors import UserError
from ..guard import PASSED_ON, Unfit, sentence
from ..hookspecs import ClaimKind, Labeler
from ..ids import content_id
from ..llm.exchange import NotAsked, UnusableReply, Waiting
from ..llm.session import Conversation, Session, run_async
from ..progress import Progress
from ..records.circuit import Circuit, Node
from ..records.evidence import Evidence
from ..records.label import Failure, Label, LabelerReply, LabelResult
from ..records.question import Experiments, Question, blind_names, true_names
from ..records.role import RoleCard
from ..records.run.behavior import Behavior
from ..records.task import Task
from ..store.buffer import WriteBuffer
from .checked import check_reply, facts_as_stored
from .language import Language
from .writer import LabelWriter

REVEAL = "reveal"  # a labeler's setting: show the model's name and the components' true names

ExperimentsOf: TypeAlias = Callable[[Question], Experiments]
"""Returns the experiments on the component of a question."""


@dataclass(frozen=True)
class KeyedQuestion:
    """A question with its id and the labeler's first prompt.

    `fault` says why there is no prompt, if the labeler failed to make one.
    """

    id: str
    question: Question
    prompt: str
    fault: str | None = None


@dataclass
class LabelingStage:
    """Labels the components of a circuit with one labeler.

    `code` identifies the code of a labeler from another package (`Plugins.code`), `plugin` is the
    plugin that has it. `session` is None for a labeler that asks no LLM. `find_results` returns
    the stored results of questions, given their ids. `kinds` are the kinds of claims that may be
    made, `behavior` is how the model does on the discovery prompts.
    """

    name: str
    labeler: Labeler
    settings: Mapping[str, Any]
    code: Mapping[str, str]
    roles: Mapping[str, RoleCard]
    task: Task
    model: str
    writer: LabelWriter
    find_results: Callable[[Sequence[str]], Sequence[LabelResult]]
    progress: Progress
    session: Session | None = None
    experiments: ExperimentsOf | None = None
    plugin: str = ""
    kinds: Mapping[str, ClaimKind] = field(default_factory=dict)
    behavior: Behavior | None = None

    # --- the questions -------------------------------------------------------------------------

    def questions(
        self, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
    ) -> list[KeyedQuestion]:
        """One question for each component, in the circuit's order."""
        shown = self.shown_names(circuit)
        return [
            self.question(self.about(circuit, node, shown, evidence[node]))
            for node in circuit.components
        ]

    def about(
        self,
        circuit: Circuit,
        node: Node,
        shown: Mapping[Node, str],
        evidence: Sequence[Evidence] = (),
    ) -> Question:
        """The question about one component; `shown`: see `shown_names`."""
        question = Question(
            node=node,
            circuit=circuit,
            evidence=sorted(evidence, key=lambda item: item.collector),
            roles=self.roles,
            task_description=self.task.description,
            position_names=self.task.position_names,
            shown=shown,
            model=self.model if self.revealed else None,
            kinds=self.kinds,
            behavior=self.behavior,
        )
        if self.experiments is None:
            return question
        return replace(question, experiments=self.experiments(question))

    @property
    def revealed(self) -> bool:
        return bool(self.settings.get(REVEAL))

    def shown_names(self, circuit: Circuit) -> dict[Node, str]:
        """The names of the components that the labeler sees."""
        return true_names(circuit) if self.revealed else blind_names(circuit)

    def question(self, question: Question) -> KeyedQuestion:
        """The question with its id; equal ids have the same answer."""
        prompt, fault = "", None
        try:
            prompt = self._prompt(question)
        except PASSED_ON:
            raise
        except BaseException as error:  # a plugin may raise anything
            fault = self.fault(error)
        key = {
            "circuit_id": question.circuit.id,
            "node": question.node,
            "labeler": self.name,
            "settings": {**self.settings, **self.code},
            "prompt": prompt,
        }
        return KeyedQuestion(content_id("question", key), question, prompt, fault)

    def _prompt(self, question: Question) -> str:
        prompt: Any = self.labeler.prompt(question, self.ask())
        if not isinstance(prompt, str):
            raise Unfit(f"its prompt is {type(prompt).__name__}, not a text")
        return prompt

    def ask(self) -> Conversation | None:
        return self.session.ask() if self.session else None

    def fault(self, error: BaseException) -> str:
        return f"labeler {self.name!r} of plugin {self.plugin!r} failed ({sentence(error)})"

    # --- the answers ---------------------------------------------------------------------------

    def label(
        self, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
    ) -> list[LabelResult]:
        """Answer the questions about all components, and store each answer as it comes.

        Args:
            circuit: The circuit.
            evidence: The evidence of each of its components.

        Returns:
            One result for each component, in the circuit's order. Questions that were answered
            before are not asked again.

        Raises:
            UserError: if the first requests to the LLM all fail.
        """
        questions = self.questions(circuit, evidence)
        results = {x.question_id: x for x in self.find_results([q.id for q in questions])}
        self.writer.link_label_results(list(results.values()))

        def write(batch: Sequence[LabelResult]) -> None:
            results.update({x.question_id: x for x in self.writer.add_label_results(batch)})

        def keep(result: LabelResult) -> None:
            buffer.put(result)
            results.setdefault(result.question_id, result)  # until it is written
            self.progress("label", len(results), len(questions), self._spent())

        with WriteBuffer(write) as buffer:
            self.progress("label", len(results), len(questions))
            if missing := [question for question in questions if question.id not in results]:
                self.answer(missing, keep)
        if self.session and (reason := self.session.unreachable):
            raise UserError(_no_replies(reason))
        return [results[question.id] for question in questions]

    def _spent(self) -> str:
        return f"{self.session.spent:.4f} USD" if self.session and self.session.spent else ""

    def answer(
        self, questions: Sequence[KeyedQuestion], keep: Callable[[LabelResult], None]
    ) -> None:
        """Answer questions concurrently, and call `keep` with each result as it comes."""

        async def answer_and_keep(question: KeyedQuestion) -> None:
            keep(await self._answer(question))

        async def answer_all() -> None:
            await asyncio.gather(*map(answer_and_keep, questions))

        run_async(answer_all, self.session)

    async def _answer(self, keyed: KeyedQuestion) -> LabelResult:
        question, ask = keyed.question, self.ask()
        if keyed.fault is not None:
            failure = Failure(question.node, self.name, keyed.fault)
            return LabelResult(keyed.id, (), failure=failure)
        try:
            reply = check_reply(
                await self.labeler.function(question, keyed.prompt, ask, **self.settings), question
            )
            return self._result(keyed, reply, _exchange_ids(ask))
        except Waiting:
            return LabelResult(keyed.id, (), _exchange_ids(ask), waiting=question.node)
        except (UnusableReply, NotAsked) as problem:
            reason = str(problem)
        except (*PASSED_ON, asyncio.CancelledError):
            raise
        except BaseException as error:  # a plugin may raise anything
            reason = self.fault(error)
        failure = Failure(question.node, self.name, reason)
        return LabelResult(keyed.id, (), _exchange_ids(ask), failure=failure)

    def _result(
        self, keyed: KeyedQuestion, reply: LabelerReply, exchange_ids: tuple[str, ...]
    ) -> LabelResult:
        """The labels that a reply proposes, with the evidence that the labeler gathered."""
        question, language = keyed.question, Language(keyed.question)
        evidence = self._findings(question, reply.findings)
        labels = [
            Label(
                circuit_id=question.circuit.id,
                node=question.node,
                labeler=self.name,
                role=proposal.role,
                positions=tuple(proposal.positions),
                description=language.true_text(proposal.description),
                confidence=proposal.confidence,
                evidence_ids=(*proposal.evidence_ids, *([evidence.id] if evidence else [])),
                exchange_id=reply.exchange.id if reply.exchange else None,
                claims=tuple(dict.fromkeys(proposal.claims)),
            )
            for proposal in reply.proposals
        ]
        if not labels:
            failure = Failure(question.node, self.name, "the labeler proposed nothing")
            return LabelResult(keyed.id, (), exchange_ids, evidence, failure)
        return LabelResult(keyed.id, tuple(labels), exchange_ids, evidence)

    def _findings(self, question: Question, findings: Mapping[str, Any] | None) -> Evidence | None:
        """A labeler's own measurements, as evidence whose collector is the labeler."""
        if findings is None:
            return None
        facts = facts_as_stored(findings)
        return Evidence(question.circuit.id, question.node, self.name, self.settings, facts)


def _exchange_ids(ask: Conversation | None) -> tuple[str, ...]:
    return tuple(exchange.id for exchange in ask.exchanges) if ask else ()


def _no_replies(reason: str) -> str:
    return (
        f"The first questions got no reply ({reason[:200]}), so the others were not asked; "
        'the evidence is stored: fix the cause and repeat the command, or use `labeler="rules"`.'
    )
