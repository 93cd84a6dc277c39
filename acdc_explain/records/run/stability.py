"""What several runs of one question on different draws of prompts have in common."""

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
    """A role of a node over all draws: the outcome in each, None where it was not proposed.

    `in_circuit`: the draws whose circuit has the node.
    """

    node: Node
    role: str
    outcomes: tuple[str | None, ...]
    in_circuit: int

    @property
    def supported(self) -> int:
        return self.outcomes.count("supported")

    @property
    def stable(self) -> bool:
        """Whether it is supported wherever the circuit has the node."""
        return self.supported == self.in_circuit > 0

    @property
    def contradicted(self) -> bool:
        """Whether one draw supports it and another refutes it."""
        return {"supported", "refuted"} <= set(self.outcomes)


@dataclass(frozen=True, slots=True)
class Stability:
    """Runs of the same question on different draws of prompts."""

    runs: tuple[Run, ...]

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """Of the draws in which there is a gap to be a share of."""
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
        found = Counter(node for run in self.runs if run.circuit for node in run.circuit.components)
        return {str(node): found[node] for node in sorted(found, key=depth)}

    @property
    def edges(self) -> dict[str, int]:
        """In how many circuits each edge is, those of most circuits first."""
        found = Counter(str(e) for run in self.runs if run.circuit for e in run.circuit.edges)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def labels(self) -> tuple[LabelStability, ...]:
        """Every role that was proposed, node by node."""
        outcomes = [_outcomes(run) for run in self.runs]
        keys = dict.fromkeys(key for found in outcomes for key in found)
        nodes = self.nodes
        return tuple(
            LabelStability(
                node, role, tuple(o.get((node, role)) for o in outcomes), nodes[str(node)]
            )
            for node, role in sorted(keys, key=lambda key: (depth(key[0]), key[1]))
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON: the runs, and what of them stays the same."""
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
    """What became of every label of a run; of a role proposed twice, the worst."""
    by_label: dict[tuple[Node, str], list[Any]] = {}
    for label in run.labels:
        by_label.setdefault((label.node, label.role), []).extend(run.verdicts_of(label))
    worsts = {key: worst(verdicts) for key, verdicts in by_label.items()}
    return {key: found.outcome if found else "untested" for key, found in worsts.items()}
