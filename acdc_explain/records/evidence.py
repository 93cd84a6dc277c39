"""What was measured about one component of a circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ids import content_id
from .circuit import Node
from .claim import OUTCOMES, TOPICS, Claim, ClaimResult

CLAIMS = "claims"  # the collector of what `claims/compose.py` finds


def finite(value: Any) -> float | None:
    """A value from a file or a plugin as a finite number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one collector measured for a node, on the discovery examples.

    Attributes:
        circuit_id: The circuit.
        node: The component.
        collector: The name of the collector.
        settings: Its settings.
        facts: What it measured, as JSON. `facts["measures"]`, if present, has a `value` by the name
            of each measure. Where all nodes of the kind were measured, it also has the value's
            `percentile` among them (0 to 1) and the `null`: the least value, the quartiles and the
            largest.
    """

    circuit_id: str
    node: Node
    collector: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        """A hash of the content."""
        return content_id("evidence", self)

    @property
    def measures(self) -> Mapping[str, Mapping[str, Any]]:
        """`facts["measures"]`; empty if there are none."""
        measures: Mapping[str, Mapping[str, Any]] = self.facts.get("measures", {})
        return measures

    @property
    def suggested(self) -> list[ClaimResult]:
        """The claims that may hold, with what their tests said on the discovery prompts.

        An imported record may hold anything: what is no claim is left out.
        """
        entries = self.facts.get("suggested", ()) if self.collector == CLAIMS else ()
        found = (_suggested(self.node, entry) for entry in entries)
        return [result for result in found if result is not None]


_KEPT = (
    "outcome",
    "text",
    "topic",
    "value",
    "low",
    "high",
    "chance",
    "percentile",
    "unit",
    "n",
    "also",
)


def suggestion(result: ClaimResult) -> dict[str, Any]:
    """A claim with what its test said on the discovery prompts, as facts hold it."""
    named = {"claim": result.claim.name, "arguments": dict(result.claim.arguments)}
    kept = {name: getattr(result, name) for name in _KEPT}
    return named | {n: round(x, 4) if isinstance(x, float) else x for n, x in kept.items()}


def _suggested(node: Node, entry: Any) -> ClaimResult | None:
    try:
        claim = Claim(node, str(entry["claim"]), dict(entry["arguments"]))
        also = {str(name): list(map(str, some)) for name, some in entry["also"].items()}
        values = {name: entry[name] for name in _KEPT if name not in ("also", "outcome")}
        outcome = entry.get("outcome", "holds")  # before results 6 only these were kept
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    numbers = [values[name] for name in ("value", "low", "high", "chance", "percentile")]
    if any(number is not None and finite(number) is None for number in numbers):
        return None
    texts = [values[name] for name in ("text", "topic", "unit")]
    if (
        outcome not in OUTCOMES
        or values["topic"] not in TOPICS
        or not all(isinstance(text, str) for text in texts)
    ):
        return None
    return ClaimResult(claim, outcome=outcome, also=also, **values)
