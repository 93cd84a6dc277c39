"""Experiments on one component that a labeler requests by name, with arguments as JSON.

They run on the discovery examples. Arguments are typed and bounded, and none of them is code.
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
from ..evidence.measurement import Measurement, NotMeasurable
from ..evidence.measures import MEASURES, measure
from ..evidence.patching.keep_only import CLAIMS, losses, random_keys
from ..evidence.patching.paths import PathPatching
from ..llm.session import one_line
from ..models.activations import head_index
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.task import Task

MOST_TOKENS = 128  # of a text whose attention is measured
TOP = 5  # keys that are reported

_model_lock = threading.Lock()  # experiments share the model, so they run one at a time


class Arguments(BaseModel):
    """Arguments of one experiment; all are required."""

    model_config = ConfigDict(extra="forbid")


class MeasureArguments(Arguments):
    measure: str


class AttentionArguments(Arguments):
    text: str = Field(min_length=1, max_length=600)
    query: int = Field(description="token number from 0; -1 for the last", ge=-1, le=MOST_TOKENS)


class AblateArguments(Arguments):
    positions: list[str] = Field(description="named positions; empty for all tokens", max_length=8)
    how: Literal["resample", "mean"]
    scheme: str = Field(description="name of a corruption; empty for the usual one")


class KeepOnlyArguments(Arguments):
    role: str


class CutPathArguments(Arguments):
    receiver: str
    port: Literal["q", "k", "v"]


class StandInArguments(Arguments):
    other: str


@dataclass(frozen=True)
class Experiment:
    """An experiment: what it finds out, its arguments, and the kinds of component it is for."""

    description: str
    arguments: type[Arguments]
    run: Callable[[ComponentExperiments, Any], dict[str, Any]]
    kinds: tuple[str, ...] = ("head", "mlp")


# --- the experiments ---------------------------------------------------------------------------


def _with_interval(samples: torch.Tensor, node: Node) -> dict[str, Any]:
    """The mean of `samples` [sample] with its bootstrap interval."""
    measurement = Measurement("", (node,), samples[None].float())
    low, high = measurement.interval(node)
    return {
        "value": _round(measurement.value(node)),
        "interval": [_round(low), _round(high)],
        "n": measurement.n,
    }


def _round(value: float) -> float:
    return round(float(value), 4)


def _measure(component: ComponentExperiments, args: MeasureArguments) -> dict[str, Any]:
    if args.measure not in MEASURES:
        raise ValueError(f"there is no measure {args.measure!r}")
    measurement, node = measure(args.measure, component.contrast), component.node
    if node not in measurement.nodes:
        raise ValueError(f"{args.measure} is not defined for this kind of component")
    return {
        **_with_interval(measurement.samples[measurement.nodes.index(node)], node),
        "percentile": _round(measurement.percentile(node)),
        "median_of_the_others": _round(measurement.chance(node)),
    }


def _attention(component: ComponentExperiments, args: AttentionArguments) -> dict[str, Any]:
    model = component.contrast.model
    pieces = model.pieces(args.text)
    if not 0 < len(pieces) <= min(MOST_TOKENS, model.context_length - len(model.prefix)):
        raise ValueError(f"the text has {len(pieces)} tokens; at most {MOST_TOKENS} are read")
    query = len(pieces) - 1 if args.query == -1 else args.query
    if query >= len(pieces):
        raise ValueError(f"the text has {len(pieces)} tokens and no token {query}")
    layer, head = head_index(component.node)
    batch, prefix = model.batch([args.text]), len(model.prefix)
    row = model.patterns(batch)[layer, 0, head, query + prefix, : query + prefix + 1].cpu()
    keys = [*(["(start)"] * prefix), *pieces]
    best = row.topk(min(TOP, len(row))).indices.tolist()
    return {
        "query": {"token": pieces[query], "number": query},
        "attends_to": [
            {"token": keys[k], "number": k - prefix, "attention": _round(float(row[k]))}
            for k in best
        ],
    }


def _ablate(component: ComponentExperiments, args: AblateArguments) -> dict[str, Any]:
    contrast = component.contrast
    if args.scheme:
        if args.scheme not in contrast.schemes:
            raise ValueError(
                f"there is no corruption {args.scheme!r}; there are {[*contrast.schemes]}"
            )
        contrast = contrast.schemes[args.scheme]
    node = component.node
    return _with_interval(ablation(contrast, node, args.how, args.positions), node)


def _keep_only(component: ComponentExperiments, args: KeepOnlyArguments) -> dict[str, Any]:
    if args.role not in CLAIMS:
        raise ValueError(f"{args.role!r} does not say where a head looks; these do: {[*CLAIMS]}")
    contrast, node = component.contrast, component.node
    keys = CLAIMS[args.role](contrast)
    kept, ablated = losses(contrast, args.role, node, [keys, *random_keys(keys, [0])])
    shares = [1 - float(loss.mean() / ablated.mean()) for loss in kept]
    return {"survives": _round(shares[0]), "random_places": _round(shares[1]), "n": len(ablated)}


def _cut_path(component: ComponentExperiments, args: CutPathArguments) -> dict[str, Any]:
    contrast, receiver = component.contrast, component.node_named(args.receiver)
    paths = contrast.once(PathPatching)
    if receiver.kind != "head" or component.node not in paths.senders(receiver):
        raise ValueError(f"{args.receiver} is no later attention head")
    end, rows = contrast.clean.end, contrast.clean.rows
    change = paths.cut([component.node])
    if args.port == "q":
        change = change[:, rows, end][:, :, None]
    clean = paths.receive(receiver, {}, query=end)
    changed = paths.receive(receiver, {args.port: change}, query=end)
    attention = 0.5 * (changed.pattern - clean.pattern)[0, :, 0].abs().sum(-1)
    clean_size = clean.written.norm(dim=-1).clamp_min(1e-9)
    size = (changed.written - clean.written).norm(dim=-1) / clean_size
    return {
        "attention_moved_at_END": _with_interval(attention, component.node),
        "output_changed_at_END": _with_interval(size[0, :, 0], component.node),
    }


def _stand_in(component: ComponentExperiments, args: StandInArguments) -> dict[str, Any]:
    other = component.node_named(args.other)
    if other == component.node:
        raise ValueError("that is the component itself")
    return _with_interval(standing_in(component.contrast, component.node, other), component.node)


EXPERIMENTS: Mapping[str, Experiment] = {
    "measure": Experiment(
        "a measure on all components of the kind, with this one's place among them",
        MeasureArguments,
        _measure,
    ),
    "attention": Experiment(
        "where the head attends from one token of any text",
        AttentionArguments,
        _attention,
        ("head",),
    ),
    "ablate": Experiment(
        "share of the behavior lost when it writes what it wrote on the corrupted prompts "
        "(resample) or its mean, at named positions or everywhere",
        AblateArguments,
        _ablate,
    ),
    "keep_only": Experiment(
        "share of the head's effect that survives when it reads clean only the places that a role "
        "names, beside as many random places",
        KeepOnlyArguments,
        _keep_only,
        ("head",),
    ),
    "cut_path": Experiment(
        "how a later head of the circuit changes at END when what this one writes into its "
        "queries, keys or values is that of the corrupted prompt",
        CutPathArguments,
        _cut_path,
    ),
    "stand_in": Experiment(
        "Jensen-Shannon distance (nats) of the model's output when it writes what another "
        "component of the circuit writes; small if they do the same",
        StandInArguments,
        _stand_in,
    ),
}


# --- requesting them ---------------------------------------------------------------------------


class ComponentExperiments:
    """The `Experiments` of one component.

    `shown` are the names by which the labeler knows the components. `contrast` returns the model's
    behavior on the discovery examples; it is called when an experiment first runs.
    """

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

    def node_named(self, name: str) -> Node:
        """The component with a shown name. Raises ValueError."""
        if name not in self._nodes:
            raise ValueError(f"there is no component {name!r}")
        return self._nodes[name]

    @property
    def catalogue(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """By name, what each experiment finds out, and the JSON schema of its arguments."""
        others = [name for name, node in self._nodes.items() if node != self.node]
        vocabulary = {
            "measure": list(MEASURES),
            "scheme": ["", *self._task.schemes],
            "role": list(CLAIMS),
            "receiver": [name for name in others if self._nodes[name].kind == "head"],
            "other": others,
        }
        catalogue = {}
        for name, experiment in EXPERIMENTS.items():
            schema = experiment.arguments.model_json_schema()
            for argument in vocabulary.keys() & schema["properties"].keys():
                schema["properties"][argument] = {"enum": vocabulary[argument]}
            if "positions" in schema["properties"] and self._task.position_names:
                schema["properties"]["positions"]["items"] = {"enum": [*self._task.position_names]}
            empty = any(p.get("enum") == [] for p in schema["properties"].values())
            if self.node.kind in experiment.kinds and not empty:
                catalogue[name] = (experiment.description, schema)
        return catalogue

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an experiment.

        Args:
            name: A name in the catalogue.
            arguments: Its arguments, as in their schema.

        Returns:
            What was found, as JSON.

        Raises:
            ValueError: if the experiment or its arguments are wrong.
        """
        experiment = EXPERIMENTS.get(name)
        if experiment is None or self.node.kind not in experiment.kinds:
            raise ValueError(f"there is no experiment {name!r} on this component")
        try:
            validated = experiment.arguments.model_validate(dict(arguments))
            return await asyncio.to_thread(self._run_alone, experiment, validated)
        except (NotMeasurable, UserError) as reason:
            raise ValueError(f"it cannot be measured: {reason}") from reason
        except ValueError as reason:
            raise ValueError(one_line(reason)) from reason

    def _run_alone(self, experiment: Experiment, arguments: Arguments) -> dict[str, Any]:
        with _model_lock, torch.no_grad():
            return experiment.run(self, arguments)
