"""Experiments that can be asked for by name, with arguments as JSON: one component, typed, bounded.

They run on the discovery examples, change nothing but what they say and take no code from anybody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ..errors import UserError
from ..evidence.effects import ablation, standing_in
from ..evidence.keep_only import CLAIMS, losses, random_keys
from ..evidence.measurement import Measurement, NotMeasurable
from ..evidence.measures import MEASURES, measure
from ..evidence.path_patching import PathPatching
from ..llm.session import one_line
from ..models.activations import head_index
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.task import Task

MOST_TOKENS = 128  # of a text that attention is asked for
TOP = 5  # keys that are reported

_turn = threading.Lock()  # one experiment at a time: they share the model


class Arguments(BaseModel):
    """Of one experiment; all must be given."""

    model_config = ConfigDict(extra="forbid")


class Measuring(Arguments):
    measure: str


class Attending(Arguments):
    text: str = Field(min_length=1, max_length=600)
    query: int = Field(description="token number from 0; -1 for the last", ge=-1, le=MOST_TOKENS)


class Ablating(Arguments):
    positions: list[str] = Field(description="named positions; empty for all tokens", max_length=8)
    how: Literal["resample", "mean"]
    scheme: str = Field(description="name of a corruption; empty for the usual one")


class Keeping(Arguments):
    role: str


class Cutting(Arguments):
    receiver: str
    port: Literal["q", "k", "v"]


class Standing(Arguments):
    other: str


@dataclass(frozen=True)
class Experiment:
    says: str
    arguments: type[Arguments]
    run: Callable[[ComponentExperiments, Any], dict[str, Any]]
    kinds: tuple[str, ...] = ("head", "mlp")


# --- the experiments ---------------------------------------------------------------------------


def _sampled(samples: torch.Tensor, node: Node) -> dict[str, Any]:
    """Mean with its bootstrap interval."""
    found = Measurement("", (node,), samples[None].float())
    low, high = found.interval(node)
    return {
        "value": _round(found.value(node)),
        "interval": [_round(low), _round(high)],
        "n": found.n,
    }


def _round(value: float) -> float:
    return round(float(value), 4)


def _measure(bench: ComponentExperiments, a: Measuring) -> dict[str, Any]:
    if a.measure not in MEASURES:
        raise ValueError(f"there is no measure {a.measure!r}")
    found, node = measure(a.measure, bench.contrast), bench.node
    if node not in found.nodes:
        raise ValueError(f"{a.measure} is not defined for this kind of component")
    return {
        **_sampled(found.samples[found.nodes.index(node)], node),
        "percentile": _round(found.percentile(node)),
        "median_of_the_others": _round(found.chance(node)),
    }


def _attention(bench: ComponentExperiments, a: Attending) -> dict[str, Any]:
    model = bench.contrast.model
    pieces = model.pieces(a.text)
    if not 0 < len(pieces) <= min(MOST_TOKENS, model.cfg.n_ctx - len(model.prefix)):
        raise ValueError(f"the text has {len(pieces)} tokens; at most {MOST_TOKENS} are read")
    query = len(pieces) - 1 if a.query == -1 else a.query
    if query >= len(pieces):
        raise ValueError(f"the text has {len(pieces)} tokens and no token {query}")
    layer, head = head_index(bench.node)
    batch, prefix = model.batch([a.text]), len(model.prefix)
    row = model.patterns(batch)[layer, 0, head, query + prefix, : query + prefix + 1]
    shown = [*(["(start)"] * prefix), *pieces]
    best = row.topk(min(TOP, len(row))).indices.tolist()
    return {
        "query": {"token": pieces[query], "number": query},
        "attends_to": [
            {"token": shown[k], "number": k - prefix, "attention": _round(float(row[k]))}
            for k in best
        ],
    }


def _ablate(bench: ComponentExperiments, a: Ablating) -> dict[str, Any]:
    contrast = bench.contrast
    if a.scheme:
        if a.scheme not in contrast.schemes:
            raise ValueError(
                f"there is no corruption {a.scheme!r}; there are {[*contrast.schemes]}"
            )
        contrast = contrast.schemes[a.scheme]
    return _sampled(ablation(contrast, bench.node, a.how, a.positions), bench.node)


def _keep_only(bench: ComponentExperiments, a: Keeping) -> dict[str, Any]:
    if a.role not in CLAIMS:
        raise ValueError(f"{a.role!r} does not say where a head looks; these do: {[*CLAIMS]}")
    contrast, node = bench.contrast, bench.node
    keys = CLAIMS[a.role](contrast)
    kept, whole = losses(contrast, a.role, node, keys)
    others = losses(contrast, a.role, node, random_keys(contrast, keys, 0))[0]
    share = [1 - float(x.mean() / whole.mean()) for x in (kept, others)]
    return {"survives": _round(share[0]), "random_places": _round(share[1]), "n": len(whole)}


def _cut_path(bench: ComponentExperiments, a: Cutting) -> dict[str, Any]:
    contrast, receiver = bench.contrast, bench.named(a.receiver)
    paths = contrast.once(PathPatching)
    if receiver.kind != "head" or bench.node not in paths.senders(receiver):
        raise ValueError(f"{a.receiver} is no later attention head")
    end, rows = contrast.clean.end, contrast.clean.rows
    change = paths.cut([bench.node])
    if a.port == "q":
        change = change[:, rows, end][:, :, None]
    clean = paths.receive(receiver, {}, query=end)
    moved = paths.receive(receiver, {a.port: change}, query=end)
    attention = 0.5 * (moved.pattern - clean.pattern)[0, :, 0].abs().sum(-1)
    size = (moved.written - clean.written).norm(dim=-1) / clean.written.norm(dim=-1).clamp_min(1e-9)
    return {
        "attention_moved_at_END": _sampled(attention, bench.node),
        "output_changed_at_END": _sampled(size[0, :, 0], bench.node),
    }


def _stand_in(bench: ComponentExperiments, a: Standing) -> dict[str, Any]:
    other = bench.named(a.other)
    if other == bench.node:
        raise ValueError("that is the component itself")
    return _sampled(standing_in(bench.contrast, bench.node, other), bench.node)


EXPERIMENTS: Mapping[str, Experiment] = {
    "measure": Experiment(
        "a measure on all components of the kind, with this one's place among them",
        Measuring,
        _measure,
    ),
    "attention": Experiment(
        "where the head attends from one token of any text", Attending, _attention, ("head",)
    ),
    "ablate": Experiment(
        "share of the behavior lost when it writes what it wrote on the corrupted prompts "
        "(resample) or its mean, at named positions or everywhere",
        Ablating,
        _ablate,
    ),
    "keep_only": Experiment(
        "share of the head's effect that survives when it reads clean only the places that a role "
        "names, beside as many random places",
        Keeping,
        _keep_only,
        ("head",),
    ),
    "cut_path": Experiment(
        "how a later head of the circuit changes at END when what this one writes into its "
        "queries, keys or values is that of the corrupted prompt",
        Cutting,
        _cut_path,
    ),
    "stand_in": Experiment(
        "Jensen-Shannon distance (nats) of the model's output when it writes what another "
        "component of the circuit writes; small if they do the same",
        Standing,
        _stand_in,
    ),
}


# --- asking for them ---------------------------------------------------------------------------


class ComponentExperiments:
    """A `Experiments` for one component. `shown`: the names that components go by."""

    def __init__(
        self, node: Node, shown: Mapping[Node, str], task: Task, contrast: Callable[[], Contrast]
    ) -> None:
        self.node = node
        self._task = task
        self._nodes = {name: other for other, name in shown.items()}
        self._contrast = contrast

    @property
    def contrast(self) -> Contrast:
        return self._contrast()

    def named(self, name: str) -> Node:
        if name not in self._nodes:
            raise ValueError(f"there is no component {name!r}")
        return self._nodes[name]

    @property
    def catalogue(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """What each experiment finds out, and the schema of its arguments."""
        others = [name for name, node in self._nodes.items() if node != self.node]
        words = {
            "measure": list(MEASURES),
            "scheme": ["", *self._task.schemes],
            "role": list(CLAIMS),
            "receiver": [name for name in others if self._nodes[name].kind == "head"],
            "other": others,
        }
        found = {}
        for name, experiment in EXPERIMENTS.items():
            schema = experiment.arguments.model_json_schema()
            for argument in words.keys() & schema["properties"].keys():
                schema["properties"][argument] = {"enum": words[argument]}
            if "positions" in schema["properties"] and self._task.position_names:
                schema["properties"]["positions"]["items"] = {"enum": [*self._task.position_names]}
            empty = any(p.get("enum") == [] for p in schema["properties"].values())
            if self.node.kind in experiment.kinds and not empty:
                found[name] = (experiment.says, schema)
        return found

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises ValueError for an experiment or arguments that make no sense."""
        experiment = EXPERIMENTS.get(name)
        if experiment is None or self.node.kind not in experiment.kinds:
            raise ValueError(f"there is no experiment {name!r} on this component")
        try:
            checked = experiment.arguments.model_validate(dict(arguments))
            return await asyncio.to_thread(self._alone, experiment, checked)
        except (NotMeasurable, UserError) as reason:
            raise ValueError(f"it cannot be measured: {reason}") from reason
        except ValueError as reason:
            raise ValueError(one_line(reason)) from reason

    def _alone(self, experiment: Experiment, arguments: Arguments) -> dict[str, Any]:
        with _turn, torch.no_grad():
            return experiment.run(self, arguments)
