"""The size and faithfulness of a stored circuit: a point of a curve over sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OF_SIZE = {"tau", "max_edges"}  # settings that make a circuit larger or smaller
OF_NO_CURVE = {"metric", "engine"}  # the same for all of a curve, or without effect


@dataclass(frozen=True, slots=True)
class CircuitSize:
    """A stored circuit: how it was discovered, its number of edges and its faithfulness."""

    circuit_id: str
    discoverer: str
    settings: Mapping[str, Any]
    n_edges: int
    share: float

    @property
    def way(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The discoverer and its settings, without those that make circuits larger or smaller."""
        settings = self.settings if isinstance(self.settings, Mapping) else {}  # of an import
        others = {k: v for k, v in settings.items() if k not in OF_SIZE | OF_NO_CURVE}
        return self.discoverer, tuple((k, str(v)) for k, v in sorted(others.items()))
