"""Stored runs as HTML pages that need no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..llm.exchange import Exchange
from ..plugins import load_plugins
from ..records.circuit import Circuit, Node, in_order
from ..records.claim import ClaimResult, ComponentResult
from ..records.evidence import finite
from ..records.label import Label
from ..records.run.behavior import behavior_sentences, doubt
from ..records.run.header import RunHeader
from ..records.run.run import WAITS, Run
from ..records.run.size import CircuitSize
from ..records.verdict import Verdict, worst
from .commands import commands
from .comparison import compare
from .curve import curve
from .drawing import Drawing, draw
from .facts import PageFacts

COLORS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#76b7b2", "#edc948",
    "#ff9da7", "#8cd17d", "#499894", "#d37295",
)  # fmt: skip
UNLABELED = "#bab0ac"


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """A label with its verdicts, and the LLM exchange that it comes from."""

    label: Label
    outcome: str
    verdicts: tuple[Verdict, ...]
    exchange: Exchange | None


@dataclass(frozen=True, slots=True)
class Panel:
    """All that a page shows of one component."""

    node: Node
    labels: tuple[LabelEntry, ...]
    facts: PageFacts
    failed: str | None  # why there is no label
    claims: tuple[ClaimResult, ...]
    matters: ComponentResult | None  # None if it is not known how much it does

    @property
    def best(self) -> LabelEntry | None:
        """The label that colors the node: a supported one first, then the most confident."""
        return max(
            self.labels,
            key=lambda x: (x.outcome == "supported", finite(x.label.confidence) or 0.0),
            default=None,
        )


@dataclass(frozen=True, slots=True)
class Side:
    """A run on a page, alone or beside another."""

    run: Run
    panels: tuple[Panel, ...]

    @property
    def title(self) -> str:
        return f"{self.run.header.task} on {self.run.header.model_as_loaded}"

    @property
    def drawing(self) -> Drawing | None:
        return _drawing(self.run)

    @property
    def by_node(self) -> Mapping[str, Panel]:
        return {str(panel.node): panel for panel in self.panels}


def page(run: Run, sizes: Sequence[CircuitSize] = ()) -> str:
    """A run's report as one HTML page.

    Args:
        run: The run; nothing else is read.
        sizes: All circuits known for its task and model, for the curve of faithfulness by size.
    """
    side = _side(run)
    return render(
        "report.html.j2",
        run=run,
        drawing=side.drawing,
        panels=side.panels,
        by_node=side.by_node,
        colors=_colors(side.panels),
        unlabeled=UNLABELED,
        outcomes=list(dict.fromkeys(p.best.outcome for p in side.panels if p.best)),
        commands=commands(run, load_plugins()),
        behavior=behavior_sentences(run.behavior),
        doubt=doubt(run.behavior),
        curve=curve(sizes, run.circuit.id if run.circuit else None),
        line_colors=COLORS,
    )


def compare_page(first: Run, second: Run) -> str:
    """Two runs side by side as one HTML page."""
    sides = [_side(first), _side(second)]
    return render(
        "compare.html.j2",
        sides=sides,
        comparison=compare(first, second),
        colors=_colors(p for side in sides for p in side.panels),
        unlabeled=UNLABELED,
    )


def index_page(runs: Sequence[Run], failed: Sequence[tuple[RunHeader, str]] = ()) -> str:
    """All runs and their labels, with links to the page of each run in the same folder.

    Args:
        runs: The runs that have a page, `ID.html`.
        failed: The runs without a page, and why.
    """
    labels = [(run, _label_entry(run, label)) for run in runs for label in run.labels]
    return render("index.html.j2", runs=runs, labels=labels, failed=failed)


def circuit_html(circuit: Circuit, run: Run | None = None) -> str:
    """A circuit for a notebook, with the roles that a run found if there is one."""
    panels = _side(run).panels if run else ()
    return render(
        "circuit.html.j2",
        drawing=draw(circuit) if circuit.edges else None,
        by_node={str(panel.node): panel for panel in panels},
        colors=_colors(panels),
        unlabeled=UNLABELED,
    )


def render(template: str, **variables: Any) -> str:
    """Fill in a template of the folder pages/; all values are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["in_order"] = in_order
    environment.filters["json"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return environment.get_template(template).render(**variables)


def _drawing(run: Run) -> Drawing | None:
    return draw(run.circuit) if run.circuit and run.circuit.edges else None


def _side(run: Run) -> Side:
    nodes = run.circuit.components if run.circuit else ()
    return Side(run, tuple(_panel(run, node) for node in nodes))


def _colors(panels: Iterable[Panel]) -> dict[str, str]:
    """A color for each role that a node is colored by."""
    roles = dict.fromkeys(panel.best.label.role for panel in panels if panel.best)
    return dict(zip(roles, COLORS * (1 + len(roles) // len(COLORS))))


def _panel(run: Run, node: Node) -> Panel:
    return Panel(
        node,
        tuple(_label_entry(run, label) for label in run.labels_of(node)),
        PageFacts.of(item for item in run.evidence if item.node == node),
        WAITS if run.waits(node) else run.failure_of(node),
        tuple(run.claims_of(node)),
        next((result for result in run.components if result.node == node), None),
    )


def _label_entry(run: Run, label: Label) -> LabelEntry:
    verdicts = tuple(sorted(run.verdicts_of(label), key=lambda verdict: verdict.judge))
    decisive = worst(verdicts)
    exchange = next((x for x in run.exchanges if x.id == label.exchange_id), None)
    return LabelEntry(label, decisive.outcome if decisive else "untested", verdicts, exchange)


def _number(value: Any, form: str = ".2f") -> str:
    """A number as pages show it; a dash for anything else that an imported run may hold."""
    number = finite(value)
    if number is None:
        return "-"
    return format(number, form) if abs(number) < 1e6 else format(number, ".2g")
