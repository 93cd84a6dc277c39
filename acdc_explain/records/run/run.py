"""A run: what was asked, and everything that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import nearest
from ...llm.exchange import Exchange
from ..circuit import Circuit, Node
from ..claim import ClaimResult, ComponentResult, Coverage, Step
from ..evidence import Evidence
from ..label import Failure, Label
from ..task import Task
from ..verdict import Verdict, worst
from .behavior import Behavior
from .component import ComponentRecord
from .display import as_html
from .header import RunHeader
from .motif import Motif
from .summary import Sentence, Summary

WAITS = "no answer of the LLM yet"
MOST_NAMES = 20  # that an error lists


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run with everything the store holds of it. `run["a9.h6"]` is one component's part.

    Attributes:
        header: What was asked: the task, the model and all settings.
        circuit: The circuit; None if the run was stopped before it was found.
        evidence: What was measured about its components.
        labels: The proposed roles.
        verdicts: What experiments say about the labels.
        motifs: Where named patterns match.
        exchanges: Every question to an LLM with its reply.
        failures: The components without a label, with the reasons.
        summary: What the circuit does, in sentences.
        reused: Whether the store had the finished run already.
        behavior: How the model does on each split of the prompts; empty if not known.
        task: The task with its prompts; None if the store does not have them.
        set_aside: What plugins failed to do just now. It is not stored.
        claims: What is claimed about the components, with the outcomes of the tests.
        components: How much each component matters, and whether its claims explain it.
        algorithm: What the circuit does, step by step, from the claims that hold.
    """

    header: RunHeader
    circuit: Circuit | None
    evidence: Sequence[Evidence]
    labels: Sequence[Label]
    verdicts: Sequence[Verdict]
    motifs: Sequence[Motif]
    exchanges: Sequence[Exchange]
    failures: Sequence[Failure] = ()
    summary: Summary | None = None
    reused: bool = False
    behavior: Mapping[str, Behavior] = field(default_factory=dict)
    task: Task | None = None
    set_aside: Sequence[str] = ()
    claims: Sequence[ClaimResult] = ()
    components: Sequence[ComponentResult] = ()
    algorithm: Sequence[Step] = ()

    def __repr__(self) -> str:
        return f"{self.title}\n{self._circuit_in_words}"

    @property
    def told(self) -> Summary | None:
        """The summary, unless it is that of the rules: the algorithm says more than it does."""
        by_rules = self.summary is not None and self.summary.labeler == "rules"
        return None if self.algorithm and by_rules else self.summary

    @property
    def title(self) -> str:
        """The id, task, model and status."""
        header = self.header
        return f"run {header.id}  {header.task} on {header.model_as_loaded}  ({header.status})"

    @property
    def _circuit_in_words(self) -> str:
        if self.circuit is None:
            return "no circuit yet"
        share = self.circuit.faithfulness.share
        faithfulness = "-" if share is None else f"{share:.0%}"
        return f"circuit: {self.circuit.size_in_words}, faithfulness {faithfulness}"

    @property
    def id(self) -> str:
        """The header's id."""
        return self.header.id

    def __getitem__(self, component: str | Node) -> ComponentRecord:
        """Everything about one component.

        Args:
            component: A head or an MLP of the circuit, or its name.

        Returns:
            Its evidence, labels and verdicts.

        Raises:
            KeyError: It is not in the circuit. The text lists the components that are.
        """
        nodes = {str(node): node for node in self.circuit.components} if self.circuit else {}
        node = nodes.get(str(component))
        if node is None:
            raise KeyError(_no_component(str(component), list(nodes)))
        labels = tuple(self.labels_of(node))
        return ComponentRecord(
            node,
            tuple(evidence for evidence in self.evidence if evidence.node == node),
            labels,
            tuple(verdict for label in labels for verdict in self.verdicts_of(label)),
            self.failure_of(node),
            tuple(self.claims_of(node)),
            next((result for result in self.components if result.node == node), None),
        )

    @property
    def coverage(self) -> Coverage | None:
        """How much of the circuit is explained; None if no claims were tested."""
        return Coverage.of(self.components) if self.components else None

    def claims_of(self, node: Node) -> list[ClaimResult]:
        """The tested claims about a component."""
        return [result for result in self.claims if result.node == node]

    def labels_of(self, node: Node) -> list[Label]:
        """The labels of a component."""
        return [label for label in self.labels if label.node == node]

    def verdicts_of(self, label: Label) -> list[Verdict]:
        """The verdicts on a label."""
        return [verdict for verdict in self.verdicts if verdict.label_id == label.id]

    def failure_of(self, node: Node) -> str | None:
        """Why a component has no label; None if it has one or none was asked for yet."""
        return next((failure.reason for failure in self.failures if failure.node == node), None)

    def waits(self, node: Node) -> bool:
        """Whether an LLM is still to be asked about a component, now or through a batch file."""
        if self.header.status == "done" or self.labels_of(node) or self.failure_of(node):
            return False
        settings = self.header.settings.get("labeler_settings")
        return isinstance(settings, Mapping) and "llm_model" in settings

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for every label, and the verdict that counts."""
        import pandas

        columns = ["node", "role", "labeler", "confidence", "outcome", "score", "chance"]
        rows = []
        for label in self.labels:
            verdict = worst(self.verdicts_of(label))
            test = (verdict.outcome, verdict.score, verdict.chance) if verdict else (None,) * 3
            rows.append((str(label.node), label.role, label.labeler, label.confidence, *test))
        return pandas.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str | None:
        """The circuit drawn with its roles, in a notebook."""
        return as_html(self)

    @property
    def cost_usd(self) -> float | None:
        """The cost of its exchanges, whichever run asked first; None if one cost is not known."""
        answered = [x for x in self.exchanges if x.reply is not None or x.tokens_in]
        if any(exchange.cost_usd is None for exchange in answered):
            return None
        return sum(exchange.cost_usd or 0.0 for exchange in answered)


def _no_component(name: str, names: Sequence[str]) -> str:
    if not names:
        return f"There is no component {name!r}: the run has no circuit."
    similar = nearest(name, names)
    suggestion = f"; did you mean {similar}?" if similar else "."
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (
        f"There is no component {name!r} in the circuit{suggestion} "
        f"There are {', '.join(names[:MOST_NAMES])}{more}."
    )


def to_sentences(entries: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    """Sentences from their JSON form. Raises KeyError, TypeError, ValueError."""
    return tuple(
        Sentence(e["text"], tuple(map(Node.parse, e["nodes"])), tuple(e.get("claims", ())))
        for e in entries
    )
