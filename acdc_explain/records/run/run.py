"""One run: what was asked, and everything found, as a record and as the exported document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...llm.exchange import Exchange
from ..circuit import Circuit, Node
from ..display import as_html
from ..evidence import Evidence
from ..label import Failure, Label
from ..task import Task
from ..verdict import Verdict, worst
from .behavior import Behavior
from .header import RunHeader
from .motif import Motif
from .summary import Sentence, Summary

WAITS = "no answer of the LLM yet"


@dataclass(frozen=True, slots=True)
class Run:
    """A run with everything the store holds of it."""

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
    behavior: Mapping[str, Behavior] = field(default_factory=dict)  # by split; empty: not known
    task: Task | None = None
    set_aside: Sequence[str] = ()  # what plugins failed to do just now; it is not stored

    @property
    def id(self) -> str:
        return self.header.id

    def labels_of(self, node: Node) -> list[Label]:
        return [label for label in self.labels if label.node == node]

    def verdicts_of(self, label: Label) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.label_id == label.id]

    def failure_of(self, node: Node) -> str | None:
        """Why a node has no label."""
        return next((failure.reason for failure in self.failures if failure.node == node), None)

    def waits(self, node: Node) -> bool:
        """Whether an LLM has still to be asked about a node, now or by way of a batch file."""
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
            found = worst(self.verdicts_of(label))
            told = (found.outcome, found.score, found.chance) if found else (None,) * 3
            rows.append((str(label.node), label.role, label.labeler, label.confidence, *told))
        return pandas.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str | None:
        """The circuit drawn with its roles, in a notebook."""
        return as_html(self)

    @property
    def cost_usd(self) -> float | None:
        """What its exchanges cost, whichever run asked first; None if one's cost is not known."""
        answered = [x for x in self.exchanges if x.reply is not None or x.tokens_in]
        if any(exchange.cost_usd is None for exchange in answered):
            return None
        return sum(exchange.cost_usd or 0.0 for exchange in answered)


def to_sentences(entries: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    return tuple(Sentence(e["text"], tuple(map(Node.parse, e["nodes"]))) for e in entries)
