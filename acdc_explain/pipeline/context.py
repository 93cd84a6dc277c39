"""What the stages of one run share; each stage returns what it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from ..errors import UserError
from ..ids import canonical_json
from ..llm.batch import RecordingTransport
from ..llm.client import Llm, Transport
from ..llm.exchange import Exchange
from ..llm.prices import Prices
from ..llm.session import Session
from ..llm.templates import Templates
from ..models.options import Ablation
from ..plugins import Plugins
from ..progress import Progress
from ..records.circuit import Circuit, Node
from ..records.claim import ClaimResult, ComponentResult, Step
from ..records.evidence import Evidence
from ..records.label import Failure, LabelResult
from ..records.run.behavior import Behavior, doubt
from ..records.run.header import RunHeader
from ..records.run.motif import Motif
from ..records.run.run import Run
from ..records.run.summary import Summary
from ..records.task import Task
from ..records.verdict import Verdict
from ..store.run_writer import RunWriter
from ..store.store import Store
from .inputs.plan import Plan
from .settings import Settings

if TYPE_CHECKING:
    from ..models.contrast import Contrast
    from ..models.model import Model


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_HasId)


@dataclass(frozen=True)
class Found:
    """What the stages after the labels found out."""

    claims: Sequence[ClaimResult] = ()
    components: Sequence[ComponentResult] = ()
    algorithm: Sequence[Step] = ()
    verdicts: Sequence[Verdict] = ()
    summary: Summary | None = None
    motifs: Sequence[Motif] = ()


@dataclass
class RunContext:
    """A run under way: what was asked, where its records go, and the model, once it is needed.

    `earlier` is what the store held of the run when it was opened: an attempt that was stopped.
    `set_aside` are sentences on what plugins failed to do.
    """

    plugins: Plugins
    plan: Plan
    store: Store
    header: RunHeader
    task: Task
    load: Callable[[], Model]
    settings: Settings
    progress: Progress
    transport: Transport | None = None  # None: a server, now
    known_behavior: Mapping[str, Behavior] | None = None  # of the run that this one continues
    earlier: Run | None = None
    set_aside: list[str] = field(default_factory=list)

    # --- the model on the task's prompts -------------------------------------------------------

    @cached_property
    def contrast(self) -> Contrast:
        """The model on the prompts to discover on."""
        return self._contrast("discover")

    @cached_property
    def held_out(self) -> Contrast:
        """The model on the prompts that no discovery sees."""
        return self._contrast("held_out")

    def _contrast(self, split: str) -> Contrast:
        from ..models.contrast import Contrast

        chosen = self.header.settings
        return Contrast(
            self.load(),
            self.task,
            getattr(self.task, split),
            chosen["metric"],
            cast(Ablation, chosen["ablation"]),
            memory=self.settings.memory,
        )

    @cached_property
    def behavior(self) -> Mapping[str, Behavior]:
        """How well the model does the task, on the prompts of each split."""
        if self.known_behavior:
            return self.known_behavior
        from ..evidence.behavior import behavior_of  # torch, only when it is needed

        return {"discover": behavior_of(self.contrast), "held_out": behavior_of(self.held_out)}

    def forget_discovery(self) -> None:
        """Free the memory of the discovery prompts' runs; what is asked for again is run again."""
        if (contrast := vars(self).get("contrast")) is not None:
            contrast.forget()

    @property
    def discovered_on(self) -> Behavior | None:
        """How the model does on the discovery prompts, if that was measured."""
        return (vars(self).get("behavior") or self.known_behavior or {}).get("discover")

    def check_behavior(self) -> Mapping[str, Behavior]:
        """How well the model does the task.

        Raises:
            UserError: if it does not surely do the task, unless the settings say `anyway`.
        """
        reason = doubt(self.behavior)
        if reason is not None and not self.settings.anyway:
            raise UserError(
                f"{self.header.model} does not surely do {self.task.name!r}: {reason}; choose a "
                "task it does, or go on with `anyway=True`, where no label can be `supported`."
            )
        return self.behavior

    # --- plugins and the LLM -------------------------------------------------------------------

    def name_of(self, kind: str, name: str) -> str:
        """A plugin's discoverer, collector or judge, as error messages call it."""
        return f"{kind} {name!r} of plugin {self.plugins.owner(f'register_{kind}s', name)!r}"

    @property
    def asks_llm(self) -> bool:
        """Whether the labeler asks an LLM."""
        return self.plugins.labelers()[self.plan.labeler].asks_llm

    @cached_property
    def session(self) -> Session:
        """Where labelers and judges ask an LLM. Raises UserError if none can be asked."""
        llm, prices = self.settings.llm_model, Prices.read(self.settings.prices)
        if self.settings.max_cost is not None and prices.cost(llm, 0, 0) is None:
            raise UserError(
                f"What {llm} costs is not known, so `max_cost=` cannot be kept; add it to a table "
                "of prices (`prices=FILE`), with 0 for a server of your own."
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

    @property
    def waits(self) -> bool:
        """Whether a question goes to the LLM by a batch file, and has no reply yet."""
        return isinstance(self.transport, RecordingTransport) and bool(self.transport.requests)

    # --- the record of the run -----------------------------------------------------------------

    @property
    def writer(self) -> RunWriter:
        """Stores each record as soon as a stage has made it."""
        return self.store.writer(self.header.id)

    @property
    def finished(self) -> bool:
        """Whether the same run was done here before."""
        return self.earlier is not None and self.earlier.header.status == "done"

    def reused(self) -> Run:
        """The run that was done before."""
        assert self.earlier is not None
        return replace(self.earlier, reused=True)

    def begin(self, behavior: Mapping[str, Behavior]) -> None:
        """Store what is known before the work: the task, the run, how well the model does."""
        self.writer.begin(self.header, self.task, behavior)

    def close(
        self,
        circuit: Circuit,
        evidence: Mapping[Node, Sequence[Evidence]],
        results: Sequence[LabelResult],
        found: Found | None = None,
        *,
        complete: bool,
    ) -> Run:
        """Store how the run ended, and return it as the stages made it.

        Without `found`, the labels are not tested yet.

        A run that is not complete can be repeated: what is missing is asked again.
        """
        self.header = replace(self.header, status="done" if complete else "incomplete")
        self.writer.write_header(self.header)
        found = found or Found()
        before = self.earlier or Run(self.header, circuit, [], [], [], [], [])
        measured = [*before.evidence, *(item for items in evidence.values() for item in items)]
        measured += [result.evidence for result in results if result.evidence is not None]
        asked = [*before.exchanges]
        asked += self.session.exchanges.values() if "session" in vars(self) else ()
        cited = self._cited_elsewhere(results, measured, asked)
        labels = [label for result in results for label in result.labels]
        return Run(
            header=self.header,
            circuit=circuit,
            evidence=_merged(measured, cited[0]),
            labels=_merged(before.labels, labels),
            verdicts=_merged(before.verdicts, found.verdicts),
            motifs=sorted(found.motifs, key=lambda one: (one.pattern, canonical_json(one.nodes))),
            exchanges=_merged(asked, cited[1]),
            failures=_failures(before, results),
            summary=found.summary or before.summary,
            behavior=self.behavior,
            task=self.task,
            set_aside=tuple(self.set_aside),
            claims=list(found.claims or before.claims),
            components=list(found.components or before.components),
            algorithm=list(found.algorithm or before.algorithm),
        )

    def _cited_elsewhere(
        self,
        results: Sequence[LabelResult],
        measured: Iterable[Evidence],
        asked: Iterable[Exchange],
    ) -> tuple[list[Evidence], list[Exchange]]:
        """What results of earlier runs rest on that this run neither measured nor asked."""
        evidence_ids = {name for x in results for label in x.labels for name in label.evidence_ids}
        exchange_ids = {name for result in results for name in result.exchange_ids}
        evidence_ids -= {item.id for item in measured}
        exchange_ids -= {exchange.id for exchange in asked}
        if not evidence_ids and not exchange_ids:
            return [], []
        return self.store.read_cited(evidence_ids, exchange_ids)


def _failures(before: Run, results: Sequence[LabelResult]) -> list[Failure]:
    """The components without a label, with the reason that was found last."""
    closed = {label.node for result in results for label in result.labels}
    closed |= {result.waiting for result in results if result.waiting is not None}
    failures = {failure.node: failure for failure in before.failures if failure.node not in closed}
    failures |= {result.failure.node: result.failure for result in results if result.failure}
    return list(failures.values())


def _merged(*groups: Iterable[R]) -> list[R]:
    """Records of several sources, each once, in the order of the store."""
    by_id = {record.id: record for group in groups for record in group}
    return [by_id[identity] for identity in sorted(by_id)]


def templates(plugins: Plugins, settings: Settings) -> Templates:
    """The user's templates first, then those of the plugins."""
    own = [Path(settings.templates)] if settings.templates else []
    return Templates([*own, *plugins.prompts().values()])
