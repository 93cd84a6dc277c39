"""The components of a run with their labels and verdicts, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ...records.role import NO_ROLE
from ...records.run.run import WAITS
from ...records.verdict import worst
from .tables import STYLES, new_table, number_text, outcome_text

if TYPE_CHECKING:
    from ...records.circuit import Node
    from ...records.claim import ClaimResult, ComponentResult
    from ...records.label import Label
    from ...records.run.run import Run
    from ...records.verdict import Verdict

Row = tuple[str | Text, ...]


def claims_table(run: Run) -> Table:
    """One row a component, the largest effect first: its role, what it reads and what it does.

    Of each kind the first claim that holds and is specific; a dash where none is.
    """
    table = new_table("node", "effect", "role", "reads", "does")
    for result in sorted(run.components, key=lambda result: -abs(result.effect)):
        claims = run.claims_of(result.node)
        words = [_first(claims, topic) for topic in ("reads", "does")]
        role = _role(run, result)
        table.add_row(str(result.node), f"{result.effect:+.1%}", role, *map(Text, words))
    return table


def _role(run: Run, result: ComponentResult) -> Text:
    """The roles that passed their tests, else whether the claims explain the component."""
    labels = run.labels_of(result.node)
    granted = [x.role for x in labels if x.role != NO_ROLE and outcome_of(run, x) == "supported"]
    if granted:
        return Text(", ".join(granted), style=STYLES["supported"])
    if result.idle:
        return Text("idle", style="dim")
    return Text("no name") if result.explained else Text("not explained", style="yellow")


def outcome_of(run: Run, label: Label) -> str | None:
    """The outcome that counts for a label; None if it was not tested."""
    verdict = worst(run.verdicts_of(label))
    return verdict.outcome if verdict else None


def _first(claims: Sequence[ClaimResult], topic: str) -> str:
    return next((x.text for x in claims if x.topic == topic and x.explains), "-")


def n_hidden(run: Run) -> int:
    """How many labels the table of claims does not show."""
    return sum(outcome_of(run, x) != "supported" for x in run.labels if x.role != NO_ROLE)


def components_table(run: Run) -> Table:
    """Labeled components first, then those with only the role `other` or no label."""
    table = new_table("node", "role", "verdict", "by", "measured", "chance", "n", "description")
    assert run.circuit is not None
    later: list[Row] = []
    for node in run.circuit.components:
        labels = run.labels_of(node)
        if not labels:
            later.append(_unlabeled_row(run, node))
        for label in labels:
            row = _label_row(run, node, label)
            if label.role == NO_ROLE:
                later.append(row)
            else:
                table.add_row(*row)
    for row in later:
        table.add_row(*row)
    return table


def _label_row(run: Run, node: Node, label: Label) -> Row:
    verdict = worst(run.verdicts_of(label))
    return (
        str(node),
        label.role,
        outcome_text(verdict.outcome if verdict else None),
        verdict.judge if verdict else "-",
        measurement_text(verdict),
        number_text(verdict.chance if verdict else None),
        str(verdict.n) if verdict else "-",
        Text(label.description),
    )


def _unlabeled_row(run: Run, node: Node) -> Row:
    reason = run.failure_of(node)
    state = Text("failed" if reason else "no label", style="red" if reason else "")
    if run.waits(node):
        state, reason = Text("waiting"), WAITS
    return (str(node), "-", state, "-", "-", "-", "-", Text(reason or ""))


def measurement_text(verdict: Verdict | None) -> str:
    """The number that decided a verdict: what was measured, how much, in which unit."""
    if verdict is None or verdict.score is None:
        return "-"
    name = (verdict.measure or "").replace("_", " ")
    score = round(verdict.score, 2) + 0.0  # and not -0.00
    return " ".join(part for part in (name, f"{score:.2f}", verdict.unit) if part)
