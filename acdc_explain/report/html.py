"""Stored runs as HTML pages that need nothing else."""

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
class Claim:
    """A label with what became of it and what is behind it."""

    label: Label
    outcome: str
    verdicts: tuple[Verdict, ...]
    exchange: Exchange | None


@dataclass(frozen=True, slots=True)
class Panel:
    """All that is shown of one component."""

    node: Node
    claims: tuple[Claim, ...]
    facts: PageFacts
    failed: str | None

    @property
    def best(self) -> Claim | None:
        """The claim that colors the node: a supported one before others, the surest first."""
        return max(
            self.claims,
            key=lambda c: (c.outcome == "supported", finite(c.label.confidence) or 0.0),
            default=None,
        )


@dataclass(frozen=True, slots=True)
class Side:
    """One of two circuits on a page."""

    run: Run
    panels: tuple[Panel, ...]

    @property
    def title(self) -> str:
        return f"{self.run.header.task} on {self.run.header.model}"

    @property
    def drawing(self) -> Drawing | None:
        return _drawing(self.run)

    @property
    def by_node(self) -> Mapping[str, Panel]:
        return {str(panel.node): panel for panel in self.panels}


def page(run: Run, sizes: Sequence[CircuitSize] = ()) -> str:
    """The report of a run, from its record alone.

    `sizes`: all circuits known of its task and model, for the curve.
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
        told=behavior_sentences(run.behavior),
        doubt=doubt(run.behavior),
        curve=curve(sizes, run.circuit.id if run.circuit else None),
        line_colors=COLORS,
    )


def compare_page(first: Run, second: Run) -> str:
    """Two runs side by side."""
    sides = [_side(first), _side(second)]
    found = compare(first, second)
    return render(
        "compare.html.j2",
        sides=sides,
        found=found,
        colors=_colors(p for side in sides for p in side.panels),
        unlabeled=UNLABELED,
    )


def index_page(runs: Sequence[Run], failed: Sequence[tuple[RunHeader, str]] = ()) -> str:
    """All runs and their labels, with links to the page of each in the same folder.

    `failed`: runs without a page, and why.
    """
    claims = [(run, _claim(run, label)) for run in runs for label in run.labels]
    return render("index.html.j2", runs=runs, claims=claims, failed=failed)


def drawn(circuit: Circuit, run: Run | None = None) -> str:
    """A circuit alone, with the roles that a run gave it: for a notebook."""
    panels = _side(run).panels if run else ()
    return render(
        "drawn.html.j2",
        drawing=draw(circuit) if circuit.edges else None,
        by_node={str(panel.node): panel for panel in panels},
        colors=_colors(panels),
        unlabeled=UNLABELED,
    )


def render(template: str, **variables: Any) -> str:
    """Everything that is not in the templates is escaped."""
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
    """A color for each role that colors a node."""
    roles = dict.fromkeys(panel.best.label.role for panel in panels if panel.best)
    return dict(zip(roles, COLORS * (1 + len(roles) // len(COLORS))))


def _panel(run: Run, node: Node) -> Panel:
    return Panel(
        node,
        tuple(_claim(run, label) for label in run.labels_of(node)),
        PageFacts.of(item for item in run.evidence if item.node == node),
        WAITS if run.waits(node) else run.failure_of(node),
    )


def _claim(run: Run, label: Label) -> Claim:
    verdicts = tuple(sorted(run.verdicts_of(label), key=lambda verdict: verdict.judge))
    found = worst(verdicts)
    exchange = next((x for x in run.exchanges if x.id == label.exchange_id), None)
    return Claim(label, found.outcome if found else "untested", verdicts, exchange)


def _number(value: Any, form: str = ".2f") -> str:
    """A number as a page says it; whatever else an import brought is a dash."""
    number = finite(value)
    if number is None:
        return "-"
    return format(number, form) if abs(number) < 1e6 else format(number, ".2g")
