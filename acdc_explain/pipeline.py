"""task -> circuit -> evidence -> labels -> verdicts -> motifs, each record stored at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import UserError
from .evidence import Evidence
from .exchange import Ask, UnusableReply
from .ids import canonical_json, content_id
from .label import Label, Labeling
from .outbox import Outbox
from .plan import Plan, default_labeler
from .plugins import Plugins, load_plugins, pick
from .progress import Progress, silent
from .question import Question
from .run import Run, RunHeader
from .settings import DEFAULT_EXAMPLES, Ablation, Settings, run_id, versions
from .store import Store
from .task import Task, check_examples
from .verdict import Judging

if TYPE_CHECKING:
    from .circuit import Circuit, Node
    from .model import Model
    from .subject import Subject


def explain(
    task: str | Task,
    model: str | Model = "mini",
    *,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Run:
    """Explain a behavior of a model: find the circuit, measure, label, test, store, match.

    `options` are fields of Settings; any other is a setting of the discoverer (tau, max_edges).
    What the store holds already is not done again. Raises UserError.
    """
    work = prepare(task, model, store, settings_from(options, settings), progress)
    if work.finished:
        return replace(work.store.get(work.header.id), reused=True)
    work.begin()
    circuit = work.find_circuit()
    evidence = work.collect(circuit)
    labels, failed = work.label(circuit, evidence)
    work.judge(labels)
    work.store.add_motifs(work.store.match(work.header.id, work.plugins.patterns()))
    work.end(complete=not failed)
    return work.store.get(work.header.id)


SHARES = (0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)  # thresholds, of the gap
SIZES = (20, 50, 100, 200, 500, 1000, 2000)


def sweep(
    task: str | Task,
    model: str | Model = "mini",
    *,
    store: str | Path | Store,
    settings: Settings | None = None,
    progress: Progress = silent,
    **options: Any,
) -> list[Circuit]:
    """Circuits from small to large, to see what faithfulness costs; each is stored.

    For `acdc` by thresholds, shares of the gap between the clean and the ablated metric; for
    other discoverers by their `max_edges`. Raises UserError.
    """
    work = prepare(task, model, store, settings_from(options, settings), progress)
    known = work.plan.discoverer_settings
    by_tau = "tau" in known
    if not by_tau and "max_edges" not in known:
        raise UserError(
            f"Discoverer {work.plan.discoverer!r} has neither tau nor max_edges to sweep over."
        )
    gap = abs(work.subject.clean_metric - work.subject.corrupt_metric)
    points: list[dict[str, Any]] = (
        [{"tau": share * gap} for share in SHARES] if by_tau else [{"max_edges": n} for n in SIZES]
    )
    circuits = []
    for number, point in enumerate(points):
        progress("sweep", number, len(points), str(point))
        plan = replace(work.plan, discoverer_settings={**known, **point})
        circuits.append(replace(work, plan=plan).circuit())
    progress("sweep", len(points), len(points))
    return circuits


def settings_from(options: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Settings from keywords; those that Settings does not know go to the discoverer."""
    fields = set(Settings.__slots__)
    own = {name: value for name, value in options.items() if name in fields}
    rest = {name: value for name, value in options.items() if name not in fields}
    settings = replace(base or Settings(), **own)
    return replace(settings, discoverer_settings={**settings.discoverer_settings, **rest})


def prepare(
    task: str | Task,
    model: str | Model,
    store: str | Path | Store,
    settings: Settings,
    progress: Progress,
) -> Work:
    """Load the model, build the task, and settle every setting that was left open."""
    from .loading import load_model
    from .subject import Subject

    settings.check()
    plugins = load_plugins()
    store = store if isinstance(store, Store) else Store(store)
    name = settings.labeler or default_labeler()
    plan = Plan.of(plugins, settings, name)
    if isinstance(model, str):
        progress("load", 0, 1, model)
        model = load_model(model, sources=plugins.models())
        progress("load", 1, 1, model.name)
    if isinstance(task, str):
        task = build_task(plugins, task, model, settings)
    ablation = cast(Ablation, settings.ablation)  # checked above
    subject, held_out = (
        Subject(model, task, examples, settings.metric, ablation, memory=settings.memory)
        for examples in (task.discover, task.held_out)
    )
    vocabulary = content_id("roles", plugins.roles())
    resolved = {
        **plan.as_dict(),
        "metric": held_out.metric_name,
        "ablation": settings.ablation,
        "roles": vocabulary,
    }
    identity = run_id(task.id, model.id, resolved)
    header = RunHeader(
        id=identity,
        task=task.name,
        task_id=task.id,
        model=model.name,
        model_id=model.id,
        circuit_id=None,
        status="unfinished",
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seed=settings.seed,
        settings=resolved,
        versions=versions(),
    )
    return Work(plugins, plan, store, header, subject, held_out, progress)


def build_task(plugins: Plugins, name: str, model: Model, settings: Settings) -> Task:
    """A plugin's task, or the one in the file that --prompts names."""
    if settings.prompts is not None:
        from .prompt_file import read_prompts

        return read_prompts(settings.prompts, name, model, settings.examples)
    builder = pick("task", plugins.tasks(), name)
    examples = DEFAULT_EXAMPLES if settings.examples is None else settings.examples
    return check_examples(builder(model, examples=examples, seed=settings.seed), model)


@dataclass(frozen=True)
class _Pages:
    """The notebook of a discovery, kept in the store under whatever decides its measurements."""

    store: Store
    book: str

    @staticmethod
    def of(work: Work) -> _Pages:
        subject, header = work.subject, work.header
        decisive = {
            "task_id": header.task_id,
            "model_id": header.model_id,
            "metric": subject.metric_name,
            "ablation": subject.ablation,
            "version": header.versions["acdc-explain"],
        }
        return _Pages(work.store, content_id("book", decisive))

    def read(self, page: str) -> Any:
        return self.store.read_page(self.book, page)

    def write(self, page: str, content: Any) -> None:
        self.store.write_page(self.book, page, content)


UNANSWERED = 3  # so many failures from the start, and the rest is not asked


def _nobody_answers(answer: Labeling) -> str:
    reason = (answer.exchange.error if answer.exchange else None) or "no reason given"
    return (
        f"The first {UNANSWERED} questions got no usable answer ({reason[:200]}), so the others "
        "were not asked; the evidence is stored: mend the cause and repeat the command, or use "
        "--labeler rules."
    )


@dataclass
class Work:
    """A run under way. Each stage asks the store first and adds each record as it comes."""

    plugins: Plugins
    plan: Plan
    store: Store
    header: RunHeader
    subject: Subject
    held_out: Subject
    progress: Progress

    @property
    def finished(self) -> bool:
        held = [header for header in self.store.runs() if header.id == self.header.id]
        return bool(held) and held[0].status == "done"

    def begin(self) -> None:
        self.store.add_task(self.subject.task)
        self.store.add_header(self.header)

    def end(self, *, complete: bool) -> None:
        """A run in which a component got no usable label can be repeated to ask again."""
        self.header = replace(self.header, status="done" if complete else "incomplete")
        self.store.add_header(self.header)

    # --- task -> circuit -----------------------------------------------------------------------

    def find_circuit(self) -> Circuit:
        circuit = self.circuit()
        self.header = replace(self.header, circuit_id=circuit.id)
        self.store.add_header(self.header)
        return circuit

    def circuit(self) -> Circuit:
        """The circuit, from the store if it is there."""
        plan, header = self.plan, self.header
        settings = {
            **plan.discoverer_settings,
            "metric": self.subject.metric_name,
            "ablation": self.subject.ablation,
        }
        circuit = self.store.find_circuit(
            header.task_id, header.model_id, plan.discoverer, settings
        )
        if circuit is None:
            circuit = self._discover(settings)
            self.store.add_circuit(circuit)
        return circuit

    def _discover(self, settings: Mapping[str, Any]) -> Circuit:
        import time

        from .circuit import Circuit
        from .faithful import faithfulness

        self.subject.notebook = _Pages.of(self)
        discoverer = self.plugins.discoverers()[self.plan.discoverer]
        started = time.monotonic()
        found = discoverer(self.subject, self.progress, **self.plan.discoverer_settings)
        seconds = time.monotonic() - started
        return Circuit(
            task_id=self.header.task_id,
            model_id=self.header.model_id,
            discoverer=self.plan.discoverer,
            settings=settings,
            edges=tuple(found.edges),
            n_edges_total=found.n_edges_total or self.subject.model.graph.n_edges,
            n_edges_tested=found.n_edges_tested,
            faithfulness=faithfulness(self.held_out, found.edges),
            seconds=round(seconds, 3),
            forward_seconds=self.subject.model.forward_seconds(self.subject.clean),
            alternatives=found.alternatives,
        )

    # --- circuit -> evidence -------------------------------------------------------------------

    def collect(self, circuit: Circuit) -> dict[Node, list[Evidence]]:
        """Evidence for every component, what the store holds and what is new."""
        evidence: dict[Node, list[Evidence]] = {node: [] for node in circuit.components}
        for name, settings in self.plan.collectors.items():
            for item in self._collect(circuit, name, settings):
                evidence[item.node].append(item)
        return evidence

    def _collect(
        self, circuit: Circuit, name: str, settings: Mapping[str, Any]
    ) -> Iterator[Evidence]:
        held = self.store.find_evidence(circuit.id, name, settings)
        yield from held
        done, total = len(held), len(circuit.components)
        self.progress(name, done, total)
        missing = [n for n in circuit.components if n not in {item.node for item in held}]
        with Outbox(partial(self.store.add_evidence, self.header.id)) as outbox:
            for item in held:
                outbox.put(item)
            if not missing:
                return
            collector = self.plugins.collectors()[name]
            for node, facts in collector(self.subject, missing, **settings):
                as_stored = json.loads(canonical_json(facts))  # or a resumed prompt would differ
                item = Evidence(circuit.id, node, name, settings, as_stored)
                outbox.put(item)
                done += 1
                self.progress(name, done, total, str(node))
                yield item

    # --- evidence -> labels --------------------------------------------------------------------

    def label(
        self, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
    ) -> tuple[list[Label], list[Node]]:
        """The labels of every component, and the components that got no usable answer."""
        ask = self._ask()
        asked = [self._question(circuit, node, evidence[node], ask) for node in circuit.components]
        held = self.store.find_labels([question_id for question_id, _, _ in asked])
        labels = [label for found in held.values() for label in found]
        self.store.link_labels(self.header.id, labels)
        failed: list[Node] = []
        with Outbox(partial(self.store.add_labelings, self.header.id)) as outbox:
            for done, (question_id, question, prompt) in enumerate(asked):
                self.progress("label", done, len(asked), str(question.node))
                if question_id in held:
                    continue
                answer = self._answer(question_id, question, prompt, ask)
                outbox.put(answer)
                labels += answer.labels
                failed += [] if answer.labels else [question.node]
                if len(failed) == done + 1 - len(held) >= UNANSWERED:
                    raise UserError(_nobody_answers(answer))
        self.progress("label", len(asked), len(asked))
        return labels, failed

    def _ask(self) -> Ask | None:
        """An LLM for the labelers that have a setting for one."""
        name = self.plan.labeler_settings.get("llm_model")
        if name is None:
            return None
        from .llm import Llm
        from .rendering import Templates

        return Llm(name, Templates(self.plugins.prompts().values()))

    def _question(
        self, circuit: Circuit, node: Node, evidence: Sequence[Evidence], ask: Ask | None
    ) -> tuple[str, Question, str]:
        """The question about a node, with its id and its prompt."""
        question = Question(
            node=node,
            circuit=circuit,
            evidence=sorted(evidence, key=lambda item: item.collector),
            roles=self.plugins.roles(),
            task_description=self.subject.task.description,
            position_names=self.subject.position_names,
        )
        prompt = self.plugins.labelers()[self.plan.labeler].prompt(question, ask)
        asked = {
            "circuit_id": circuit.id,
            "node": node,
            "labeler": self.plan.labeler,
            "settings": self.plan.labeler_settings,
            "prompt": prompt,
        }
        return content_id("question", asked), question, prompt

    def _answer(
        self, question_id: str, question: Question, prompt: str, ask: Ask | None
    ) -> Labeling:
        labeler = self.plugins.labelers()[self.plan.labeler]
        try:
            proposals, exchange = labeler(question, prompt, ask, **self.plan.labeler_settings)
        except UnusableReply as reply:
            return Labeling(question_id, (), reply.exchange)
        labels = [
            Label(
                circuit_id=question.circuit.id,
                node=question.node,
                labeler=self.plan.labeler,
                role=proposal.role,
                positions=tuple(proposal.positions),
                description=proposal.description,
                confidence=proposal.confidence,
                evidence_ids=tuple(proposal.evidence_ids),
                exchange_id=exchange.id if exchange else None,
            )
            for proposal in proposals
        ]
        return Labeling(question_id, tuple(labels), exchange)

    # --- labels -> verdicts --------------------------------------------------------------------

    def judge(self, labels: Sequence[Label]) -> None:
        for name, settings in self.plan.judges.items():
            asked = {label.id: self._judging_id(name, settings, label) for label in labels}
            held = self.store.find_judgings(asked.values())
            missing = [x for x in labels if asked[x.id] not in {h.question_id for h in held}]
            judge, done = self.plugins.judges()[name], len(held)
            with Outbox(partial(self.store.add_judgings, self.header.id)) as outbox:
                for judging in held:
                    outbox.put(judging)
                for verdict in judge(self.held_out, missing, self.plugins.roles(), **settings):
                    outbox.put(Judging(asked[verdict.label_id], verdict))
                    done += 1
                    self.progress(f"judge {name}", done, len(labels), verdict.outcome)

    def _judging_id(self, judge: str, settings: Mapping[str, Any], label: Label) -> str:
        """A label is judged again if the judge's settings or the role's card are others."""
        asked = {
            "label_id": label.id,
            "judge": judge,
            "settings": settings,
            "card": self.plugins.roles().get(label.role),
        }
        return content_id("judging", asked)
