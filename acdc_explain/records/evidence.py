"""What was measured about one component of a circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ids import content_id
from .circuit import Node


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
