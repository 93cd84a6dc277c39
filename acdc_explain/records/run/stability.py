"""What runs on different draws of prompts have in common."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ...ids import plain
from ..circuit import Node, depth
from ..verdict import worst
from .run import Run


@dataclass(frozen=True, slots=True)
class LabelStability:
    """A role of a node over all draws.

    Attributes:
        node: The component.
        role: The role.
        outcomes: The outcome in each draw; None where the role was not proposed.
        in_circuit: In how many draws the node is in the circuit.
    """

    node: Node
    role: str
    outcomes: tuple[str | None, ...]
    in_circuit: int

    @property
    def supported(self) -> int:
        """In how many draws the role is supported."""
        return self.outcomes.count("supported")

    @property
    def stable(self) -> bool:
        """Whether it is supported in every draw that has the node in its circuit."""
        return self.supported == self.in_circuit > 0

    @property
    def contradicted(self) -> bool:
        """Whether one draw supports it and another refutes it."""
        return {"supported", "refuted"} <= set(self.outcomes)


@dataclass(frozen=True, slots=True)
class Stability:
    """Runs with the same settings on different draws of prompts: `runs`, in the order of seeds."""

    runs: tuple[Run, ...]

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """The faithfulness of each draw, without those where it is not defined."""
        shares = [run.circuit.faithfulness.share for run in self.runs if run.circuit]
        return tuple(share for share in shares if share is not None)

    @property
    def error(self) -> float | None:
        """The standard error of the mean faithfulness over draws."""
        shares = self.faithfulness
        return statistics.stdev(shares) / len(shares) ** 0.5 if len(shares) > 1 else None

    @property
    def nodes(self) -> dict[str, int]:
        """In how many circuits each component is, in the order of the forward pass."""
        circuits = [run.circuit for run in self.runs if run.circuit]
        counts = Counter(node for circuit in circuits for node in circuit.components)
        return {str(node): counts[node] for node in sorted(counts, key=depth)}

    @property
    def edges(self) -> dict[str, int]:
        """In how many circuits each edge is, those of most circuits first."""
        circuits = [run.circuit for run in self.runs if run.circuit]
        counts = Counter(str(edge) for circuit in circuits for edge in circuit.edges)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def labels(self) -> tuple[LabelStability, ...]:
        """Every proposed role, node by node."""
        outcomes = [_outcomes(run) for run in self.runs]
        keys = dict.fromkeys(key for of_run in outcomes for key in of_run)
        nodes = self.nodes
        return tuple(
            LabelStability(
                node, role, tuple(o.get((node, role)) for o in outcomes), nodes[str(node)]
            )
            for node, role in sorted(keys, key=lambda key: (depth(key[0]), key[1]))
        )

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: the runs, and what they have in common."""
        shares = self.faithfulness
        return {
            "seeds": [run.header.seed for run in self.runs],
            "runs": [run.id for run in self.runs],
            "faithfulness": {
                "mean": statistics.fmean(shares) if shares else None,
                "error": self.error,
                "each": list(shares),
            },
            "nodes": self.nodes,
            "edges": self.edges,
            "labels": [
                {
                    **plain({"node": x.node, "role": x.role, "outcomes": x.outcomes}),
                    "supported": x.supported,
                    "in_circuit": x.in_circuit,
                }
                for x in self.labels
            ],
        }


def _outcomes(run: Run) -> dict[tuple[Node, str], str]:
    """The outcome of every role of a run; of a role that was proposed twice, the worst."""
    by_label: dict[tuple[Node, str], list[Any]] = {}
    for label in run.labels:
        by_label.setdefault((label.node, label.role), []).extend(run.verdicts_of(label))
    decisive = {key: worst(verdicts) for key, verdicts in by_label.items()}
    return {key: verdict.outcome if verdict else "untested" for key, verdict in decisive.items()}
