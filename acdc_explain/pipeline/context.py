"""A run under way: each stage asks the store first and adds each record as it comes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from ..errors import UserError
from ..evidence.behavior import behavior_of
from ..guard import PluginFault, Unfit, must_work, until_fault
from ..ids import content_id
from ..labeling import checked
from ..labeling.labeler import LabelingStage
from ..llm.client import Llm, Transport
from ..llm.exchange import NotAsked, UnusableReply
from ..llm.prices import Prices
from ..llm.session import Session
from ..llm.templates import Templates
from ..models.options import Ablation
from ..plugins import Plugins, pick
from ..progress import Progress
from ..records.evidence import Evidence
from ..records.label import Label, LabelResult
from ..records.run.behavior import Behavior, doubt
from ..records.run.header import RESULTS, RunHeader, results_of
from ..records.task import Task
from ..records.verdict import JudgeResult, Verdict
from ..store.buffer import WriteBuffer
from ..store.run_writer import RunWriter
from ..store.store import Store
from .plan import Plan
from .settings import Settings

if TYPE_CHECKING:
    from ..labeling.experiments import ComponentExperiments
    from ..models.contrast import Contrast
    from ..models.model import Model
    from ..records.circuit import Circuit, Node

LLM_SETTING = "llm_model"  # the setting of a labeler or judge that asks an LLM


@dataclass(frozen=True)
class StoredCheckpoints:
    """The checkpoints of a discovery, kept in the store under whatever decides its measurements."""

    store: Store
    search_id: str

    @staticmethod
    def of(work: RunContext) -> StoredCheckpoints:
        contrast, header = work.contrast, work.header
        decisive = {
            "task_id": header.task_id,
            "model_id": header.model_id,
            "metric": contrast.metric_name,
            "ablation": contrast.ablation,
            "version": results_of(header.versions),
        }
        return StoredCheckpoints(work.store, content_id("book", decisive))

    def read(self, page: str) -> Any:
        return self.store.read_checkpoint(self.search_id, page)

    def write(self, page: str, content: Any) -> None:
        self.store.write_checkpoint(self.search_id, page, content)


@dataclass
class RunContext:
    """What a run needs. The model is loaded when a stage first runs it."""

    plugins: Plugins
    plan: Plan
    store: Store
    header: RunHeader
    task: Task
    load: Callable[[], Model]
    settings: Settings
    progress: Progress
    transport: Transport | None = None  # None: a server, now
    known_behavior: Mapping[str, Behavior] | None = None  # of the run that this one goes on from
    set_aside: list[str] = field(default_factory=list)  # what plugins failed to do, in sentences

    @cached_property
    def contrast(self) -> Contrast:
        return self._contrast("discover")

    @cached_property
    def held_out(self) -> Contrast:
        return self._contrast("held_out")

    def _contrast(self, split: str) -> Contrast:
        from ..models.contrast import Contrast

        wanted = self.header.settings
        return Contrast(
            self.load(),
            self.task,
            getattr(self.task, split),
            wanted["metric"],
            cast(Ablation, wanted["ablation"]),
            memory=self.settings.memory,
        )

    @cached_property
    def behavior(self) -> Mapping[str, Behavior]:
        """How the model does on the prompts of each split."""
        if self.known_behavior:
            return self.known_behavior
        return {"discover": behavior_of(self.contrast), "held_out": behavior_of(self.held_out)}

    def check_behavior(self) -> Mapping[str, Behavior]:
        """How the model does. Raises UserError if it does not surely do the task, unless told to
        go on anyway."""
        reason = doubt(self.behavior)
        if reason is not None and not self.settings.anyway:
            raise UserError(
                f"{self.header.model} does not surely do {self.task.name!r}: {reason}; choose a "
                "task it does, or go on with --anyway, where no label can be `supported`."
            )
        return self.behavior

    @property
    def writer(self) -> RunWriter:
        return self.store.writer(self.header.id)

    @property
    def finished(self) -> bool:
        return self.store.status(self.header.id) == "done"

    def begin(self, behavior: Mapping[str, Behavior]) -> None:
        """Store what is known before the work: the task, the run, how the model does."""
        self.writer.begin(self.header, self.task, behavior)

    def end(self, *, complete: bool) -> None:
        """A run in which a component got no usable label can be repeated to ask again."""
        self.header = replace(self.header, status="done" if complete else "incomplete")
        self.writer.write_header(self.header)

    # --- task -> circuit -----------------------------------------------------------------------

    def find_circuit(self) -> Circuit:
        circuit = self.circuit()
        if not circuit.edges:  # kept, so that the same search is not made again
            raise UserError(
                f"Discoverer {circuit.discoverer!r} found no path from the input to the logits "
                "that it would keep; allow more edges (--max-edges) or a smaller --tau."
            )
        self.header = replace(self.header, circuit_id=circuit.id)
        self.writer.write_header(self.header)
        return circuit

    def circuit(self) -> Circuit:
        """The circuit, from the store if it is there."""
        plan, header = self.plan, self.header
        settings = {
            **plan.discoverer_settings,
            "metric": self.contrast.metric_name,
            "ablation": self.contrast.ablation,
            "results": RESULTS,
            **self.plugins.code("register_discoverers", plan.discoverer),
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

        from ..discovery.faithfulness import faithfulness
        from ..records.circuit import Circuit, Found

        self.contrast.checkpoints = StoredCheckpoints.of(self)
        discoverer = self.plugins.discoverers()[self.plan.discoverer]
        contrast, started = self.contrast, time.monotonic()
        with must_work(self._who("discoverer", self.plan.discoverer)):
            found = discoverer(contrast, self.progress, **self.plan.discoverer_settings)
            if not isinstance(found, Found):
                raise Unfit(f"it returned {type(found).__name__}, not Found")
        seconds = time.monotonic() - started
        return Circuit(
            task_id=self.header.task_id,
            model_id=self.header.model_id,
            discoverer=self.plan.discoverer,
            settings=settings,
            edges=tuple(found.edges),
            n_edges_total=found.n_edges_total or self.contrast.model.graph.n_edges,
            n_edges_tested=found.n_edges_tested,
            faithfulness=faithfulness(self.held_out, found.edges),
            seconds=round(seconds, 3),
            forward_seconds=self.contrast.model.forward_seconds(self.contrast.clean),
            alternatives=found.alternatives,
            n_layers=self.contrast.model.graph.n_layers,
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
        recorded = {**settings, **self.plugins.code("register_collectors", name)}
        held = self.store.find_evidence(circuit.id, name, recorded)
        yield from held
        done, total = len(held), len(circuit.components)
        self.progress(name, done, total)
        missing = [n for n in circuit.components if n not in {item.node for item in held}]
        with WriteBuffer(self.writer.add_evidence) as buffer:
            for item in held:
                buffer.put(item)
            if not missing:
                return
            for node, facts in self._collected(name, settings, missing):
                item = Evidence(circuit.id, node, name, recorded, facts)
                buffer.put(item)
                done += 1
                self.progress(name, done, total, str(node))
                yield item

    def _collected(
        self, name: str, settings: Mapping[str, Any], nodes: Sequence[Node]
    ) -> Iterator[tuple[Node, dict[str, Any]]]:
        """What a collector finds, as far as it comes."""
        collector, contrast = pick("collector", self.plugins.collectors(), name), self.contrast

        def checked_facts() -> Iterator[tuple[Node, dict[str, Any]]]:
            for item in collector(contrast, nodes, **settings):
                yield checked.collected(item, nodes)

        return until_fault(checked_facts, self._who("collector", name), self.set_aside.append)

    def _who(self, kind: str, name: str) -> str:
        return f"{kind} {name!r} of plugin {self.plugins.owner(f'register_{kind}s', name)!r}"

    # --- evidence -> labels --------------------------------------------------------------------

    def label(
        self, circuit: Circuit, evidence: Mapping[Node, Sequence[Evidence]]
    ) -> list[LabelResult]:
        """An answer for every component: labels, or why there are none."""
        return self.labels.label(circuit, evidence)

    @cached_property
    def labels(self) -> LabelingStage:
        return LabelingStage(
            name=self.plan.labeler,
            labeler=pick("labeler", self.plugins.labelers(), self.plan.labeler),
            settings=self.plan.labeler_settings,
            code=self.plugins.code("register_labelers", self.plan.labeler),
            roles=self.plugins.roles(),
            task=self.task,
            model=self.header.model,
            store=self.store,
            run_id=self.header.id,
            progress=self.progress,
            session=self.session if self.asks_llm else None,
            experiments=self.experiments,
            plugin=self.plugins.owner("register_labelers", self.plan.labeler),
        )

    @property
    def asks_llm(self) -> bool:
        return LLM_SETTING in self.plan.labeler_settings

    @cached_property
    def session(self) -> Session:
        """Where labelers and judges ask an LLM. Raises UserError where none can be asked."""
        llm, prices = self.settings.llm_model, Prices.read(self.settings.prices)
        if self.settings.max_cost is not None and prices.cost(llm, 0, 0) is None:
            raise UserError(
                f"What {llm} costs is not known, so --max-cost cannot be kept; add it to a table "
                "of prices (--prices FILE), with 0 for a server of your own."
            )
        return Session(
            llm=llm,
            templates=templates(self.plugins, self.settings),
            transport=self.transport or Llm(self.settings.timeout),
            cache=self.writer.replies,
            prices=prices,
            max_cost=self.settings.max_cost,
            concurrency=self.settings.concurrency,
            again=self.settings.retry,
        )

    def experiments(self, node: Node, shown: Mapping[Node, str]) -> ComponentExperiments:
        from ..labeling.experiments import ComponentExperiments

        return ComponentExperiments(node, shown, self.task, lambda: self.contrast)

    # --- labels -> verdicts --------------------------------------------------------------------

    def judge(self, labels: Sequence[Label]) -> None:
        for name, settings in self.plan.judges.items():
            asked = {label.id: self._judging_id(name, settings, label) for label in labels}
            held = self.store.find_judge_results(asked.values())
            missing = [x for x in labels if asked[x.id] not in {h.question_id for h in held}]
            done = len(held)
            with WriteBuffer(self.writer.add_judge_results) as buffer:
                for judging in held:
                    buffer.put(judging)
                if not missing:
                    continue
                for found in self._verdicts(name, settings, missing):
                    verdict = self._unless_doubtful(found)
                    buffer.put(JudgeResult(asked[verdict.label_id], verdict))
                    done += 1
                    self.progress(f"judge {name}", done, len(labels), verdict.outcome)

    def _unless_doubtful(self, verdict: Verdict) -> Verdict:
        """No label is supported where the model does not surely do the task."""
        reason = doubt(self.behavior)
        if reason is None or verdict.outcome != "supported":
            return verdict
        words = f"the model does not surely do the task ({reason}); {verdict.reason}"
        return replace(verdict, outcome="inconclusive", reason=words)

    def _verdicts(
        self, name: str, settings: Mapping[str, Any], labels: Sequence[Label]
    ) -> Iterator[Verdict]:
        """What a judge says, as far as it comes."""
        judge = self._with_session(pick("judge", self.plugins.judges(), name))
        by_id, held_out = {label.id: label for label in labels}, self.held_out

        def checked_verdicts() -> Iterator[Verdict]:
            for item in judge(held_out, labels, self.plugins.roles(), **settings):
                yield checked.verdict(item, name, by_id)

        return until_fault(checked_verdicts, self._who("judge", name), self.set_aside.append)

    def _with_session(self, judge: Any) -> Any:
        """A judge that has a parameter `session` may ask an LLM."""
        if "desk" not in inspect.signature(judge).parameters:
            return judge
        return partial(judge, session=lambda: self.session)

    def _judging_id(self, judge: str, settings: Mapping[str, Any], label: Label) -> str:
        """A label is judged again if the judge's settings or the role's card are others."""
        asked = {
            "label_id": label.id,
            "judge": judge,
            "settings": {**settings, **self.plugins.code("register_judges", judge)},
            "card": self.plugins.roles().get(label.role),
        }
        return content_id("judging", asked)

    # --- verdicts -> summary -------------------------------------------------------------------

    def summarise(self, circuit: Circuit) -> bool:
        """What the circuit does as a whole, by the labeler, from the verdicts.

        Where it has no word to say, by the rules: they only repeat what was supported. False if
        its word was lost on the way, or waits for an answer.
        """
        run, rules = self.store.get(self.header.id), self.plugins.labelers().get("rules")
        ways, had = [self.labels], True
        if rules is not None:
            ways.append(
                replace(
                    self.labels, name="rules", labeler=rules, settings={}, code={}, session=None
                )
            )
        for way in ways:
            summary = None
            try:
                summary = way.summarise(circuit, run.labels, run.verdicts)
            except NotAsked:
                had = False
            except UnusableReply as problem:
                had = problem.exchange.reply is not None
            except PluginFault as fault:
                self.set_aside.append(str(fault))
            if summary is not None:
                self.writer.add_summary(summary)
                break
        return had


def templates(plugins: Plugins, settings: Settings) -> Templates:
    """The user's templates first, then those of the plugins."""
    from pathlib import Path

    own = [Path(settings.templates)] if settings.templates else []
    return Templates([*own, *plugins.prompts().values()])
