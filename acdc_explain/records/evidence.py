"""What was measured about one component of a circuit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ids import content_id
from .circuit import Node


def finite(value: Any) -> float | None:
    """The number; None for all else. What comes from elsewhere may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts one collector measured for a node, on the discovery examples.

    `facts["measures"]`, where present, maps the name of a measure to its `value` and, where all
    nodes of the same kind in the model were measured, its `percentile` among them (0 to 1) and the
    `null`: their least, quartiles and largest.
    """

    circuit_id: str
    node: Node
    collector: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        return content_id("evidence", self)

    @property
    def measures(self) -> Mapping[str, Mapping[str, Any]]:
        measures: Mapping[str, Mapping[str, Any]] = self.facts.get("measures", {})
        return measures
