"""Evidence -> labels: one question a component, many under way at once, each answer kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..guard import PASSED_ON, PluginFault, Unfit, sentence
from ..hookspecs import Labeler
from ..ids import content_id
from ..llm.exchange import NotAsked, UnusableReply, Waiting
from ..llm.session import Conversation, Session, run_async
from ..progress import Progress
from ..records.circuit import Circuit, Node
from ..records.evidence import Evidence
from ..records.label import Failure, Label, LabelerReply, LabelResult
from ..records.question import Experiments, Question, blind_names, true_names, true_text
from ..records.role import RoleCard
from ..records.run.summary import Sentence, Summary, SummaryQuestion
from ..records.task import Task
from ..records.verdict import Verdict
from ..store.buffer import WriteBuffer
from ..store.store import Store
from . import checked

REVEAL = "reveal"  # the setting of a labeler that shows what is otherwise hidden


@dataclass(frozen=True)
class KeyedQuestion:
    """A question with its id and what an LLM would be sent first; or why it cannot be put."""

    id: str
    question: Question
    prompt: str
    fault: str | None = None


@dataclass
class LabelingStage:
    """What it takes to label the components of a circuit with one labeler."""

    name: str
    labeler: Labeler
    settings: Mapping[str, Any]
    code: Mapping[str, str]  # of a labeler of another package (Plugins.code)
    roles: Mapping[str, RoleCard]
    task: Task
    model: str
    store: Store
    run_id: str
    progress: Progress
    session: Session | None = None  # where the labeler asks an LLM
    experiments: Callable[[Node, Mapping[Node, str]], Experiments] | None = None
    plugin: str = ""  # that brings the labeler

    def questions(
        self, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
    ) -> list[KeyedQuestion]:
        revealed, shown = self.revealed, self.shown(circuit)
        return [
            self.question(
                Question(
                    node=node,
                    circuit=circuit,
                    evidence=sorted(evidence[node], key=lambda item: item.collector),
                    roles=self.roles,
                    task_description=self.task.description,
                    position_names=self.task.position_names,
                    shown=shown,
                    model=self.model if revealed else None,
                    experiments=self.experiments(node, shown) if self.experiments else None,
                )
            )
            for node in circuit.components
        ]

    @property
    def revealed(self) -> bool:
        return bool(self.settings.get(REVEAL))

    def shown(self, circuit: Circuit) -> dict[Node, str]:
        """The names a labeler may be told."""
        return true_names(circuit) if self.revealed else blind_names(circuit)

    def question(self, question: Question) -> KeyedQuestion:
        prompt, fault = "", None
        try:
            prompt = self._prompt(question)
        except PASSED_ON:
            raise
        except BaseException as error:  # a plugin may raise anything
            fault = self._fault(error)
        asked = {
            "circuit_id": question.circuit.id,
            "node": question.node,
            "labeler": self.name,
            "settings": {**self.settings, **self.code},
            "prompt": prompt,
        }
        return KeyedQuestion(content_id("question", asked), question, prompt, fault)

    def _prompt(self, question: Question) -> str:
        prompt: Any = self.labeler.prompt(question, self.session.ask() if self.session else None)
        if not isinstance(prompt, str):
            raise Unfit(f"its prompt is {type(prompt).__name__}, not a text")
        return prompt

    def _fault(self, error: BaseException) -> str:
        return f"labeler {self.name!r} of plugin {self.plugin!r} failed ({sentence(error)})"

    def label(
        self, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
    ) -> list[LabelResult]:
        """The answers for all components, those from the store too, in the circuit's order.

        Raises UserError if no question at all gets a reply.
        """
        asked = self.questions(circuit, evidence)
        answers = {a.question_id: a for a in self.store.find_label_results([x.id for x in asked])}
        writer = self.store.writer(self.run_id)
        writer.link_label_results(list(answers.values()))
        missing = [one for one in asked if one.id not in answers]

        def write(results: Sequence[LabelResult]) -> None:
            answers.update({x.question_id: x for x in writer.add_label_results(results)})

        with WriteBuffer(write) as buffer:

            def keep(answer: LabelResult) -> None:
                buffer.put(answer)
                answers[answer.question_id] = answer
                self.progress("label", len(answers), len(asked), self._spent())

            self.progress("label", len(answers), len(asked))
            if missing:
                self.answer(missing, keep)
        if self.session and (reason := self.session.nobody_answers):
            raise UserError(_nobody_answers(reason))
        return [answers[one.id] for one in asked]

    def _spent(self) -> str:
        return f"{self.session.spent:.4f} USD" if self.session and self.session.spent else ""

    def answer(self, asked: Sequence[KeyedQuestion], keep: Callable[[LabelResult], None]) -> None:
        """All questions at once; `keep` gets each answer as it comes."""

        async def one(question: KeyedQuestion) -> None:
            keep(await self._answer(question))

        async def everyone() -> None:
            await asyncio.gather(*map(one, asked))

        run_async(everyone, self.session)

    def summarise(
        self, circuit: Circuit, labels: Sequence[Label], verdicts: Sequence[Verdict]
    ) -> Summary | None:
        """What the circuit does; None if the labeler does not say.

        Raises UnusableReply, NotAsked, and PluginFault for a labeler that fails.
        """
        summarise = getattr(self.labeler, "summarise", None)
        if summarise is None or not labels:
            return None
        claims, shown = {name: card.claim for name, card in self.roles.items()}, self.shown(circuit)
        story = SummaryQuestion.of(circuit, self.task.description, labels, verdicts, claims, shown)
        ask = self.session.ask() if self.session else None
        try:
            told, exchange = run_async(lambda: summarise(story, ask), self.session)
            told = checked.sentences(told, set(circuit.components))
        except (*PASSED_ON, UnusableReply, NotAsked):
            raise
        except BaseException as error:  # a plugin may raise anything
            raise PluginFault(self._fault(error)) from error
        found = tuple(Sentence(true_text(x.text, shown), tuple(x.nodes)) for x in told)
        return Summary(self.run_id, self.name, found, exchange.id if exchange else None)

    async def _answer(self, asked: KeyedQuestion) -> LabelResult:
        question, ask = asked.question, self.session.ask() if self.session else None
        if asked.fault is not None:
            failure = Failure(question.node, self.name, asked.fault)
            return LabelResult(asked.id, (), failure=failure)
        try:
            answer = checked.proposed(
                await self.labeler(question, asked.prompt, ask, **self.settings),
                {evidence.id for evidence in question.evidence},
                self.roles,
            )
            return self._labeling(asked, answer, _exchange_ids(ask))
        except Waiting:
            return LabelResult(asked.id, (), _exchange_ids(ask), waiting=question.node)
        except (UnusableReply, NotAsked) as problem:
            reason = str(problem)
        except (*PASSED_ON, asyncio.CancelledError):
            raise
        except BaseException as error:  # a plugin may raise anything
            reason = self._fault(error)
        failure = Failure(question.node, self.name, reason)
        return LabelResult(asked.id, (), _exchange_ids(ask), failure=failure)

    def _labeling(
        self, asked: KeyedQuestion, answer: LabelerReply, exchange_ids: tuple[str, ...]
    ) -> LabelResult:
        question = asked.question
        evidence = self._findings(question, answer.findings)
        labels = [
            Label(
                circuit_id=question.circuit.id,
                node=question.node,
                labeler=self.name,
                role=proposal.role,
                positions=tuple(proposal.positions),
                description=true_text(proposal.description, question.shown),
                confidence=proposal.confidence,
                evidence_ids=(*proposal.evidence_ids, *([evidence.id] if evidence else [])),
                exchange_id=answer.exchange.id if answer.exchange else None,
            )
            for proposal in answer.proposals
        ]
        if not labels:
            failure = Failure(question.node, self.name, "the labeler proposed nothing")
            return LabelResult(asked.id, (), exchange_ids, evidence, failure)
        return LabelResult(asked.id, tuple(labels), exchange_ids, evidence)

    def _findings(self, question: Question, findings: Mapping[str, Any] | None) -> Evidence | None:
        """What a labeler measured, as evidence of a collector of the labeler's name."""
        if findings is None:
            return None
        facts = checked.stored_facts(findings)
        return Evidence(question.circuit.id, question.node, self.name, self.settings, facts)


def _exchange_ids(ask: Conversation | None) -> tuple[str, ...]:
    return tuple(exchange.id for exchange in ask.exchanges) if ask else ()


def _nobody_answers(reason: str) -> str:
    return (
        f"The first questions got no reply ({reason[:200]}), so the others were not asked; "
        "the evidence is stored: fix the cause and repeat the command, or use --labeler rules."
    )
