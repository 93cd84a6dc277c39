"""Experiments on one component that a labeler requests by name, with arguments as JSON.

They run on the discovery examples. Arguments are typed and bounded, and none of them is code.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ..claims.paths import CORRUPT
from ..errors import UserError
from ..evidence.measurement import NotMeasurable
from ..evidence.measures import MEASURES
from ..llm.session import one_line
from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.question import Question
from ..records.task import Task
from . import trials
from .language import Language, back, named

_model_lock = threading.Lock()  # experiments share the model, so they run one at a time


class Arguments(BaseModel):
    """Arguments of one experiment; all are required."""

    model_config = ConfigDict(extra="forbid")


class TestArguments(Arguments):
    made: dict[str, Any] = Field(description="a claim with its arguments")


class MeasureArguments(Arguments):
    measure: str


class AttentionArguments(Arguments):
    text: str = Field(min_length=1, max_length=600)
    query: int = Field(
        description="token number from 0; -1 for the last", ge=-1, le=trials.MOST_TOKENS
    )


class AttentionHereArguments(Arguments):
    at: str


class AblateArguments(Arguments):
    positions: list[str] = Field(description="empty for all tokens", max_length=8)
    how: Literal["resample", "mean"]
    prompts: str = Field(description="empty for the usual corrupted prompts")
    others: list[str] = Field(description="components ablated with it", max_length=12)


class CutInputArguments(Arguments):
    sender: str
    port: Literal["q", "k", "v"] | None
    at: str


class WithoutArguments(Arguments):
    others: list[str] = Field(min_length=1, max_length=12)


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


def _test(component: ComponentExperiments, args: TestArguments) -> dict[str, Any]:
    claim = component.language.claim(args.made)
    facts = trials.tested(component.contrast, claim, component.question.kinds)  # type: ignore[arg-type]
    return {"says": component.language.says(claim), **facts}


def _measure(component: ComponentExperiments, args: MeasureArguments) -> dict[str, Any]:
    if args.measure not in MEASURES:
        raise ValueError(f"there is no measure {args.measure!r}")
    return trials.measured(component.contrast, component.node, args.measure)


def _attention(component: ComponentExperiments, args: AttentionArguments) -> dict[str, Any]:
    return trials.attention_in(component.contrast.model, component.node, args.text, args.query)


def _attention_here(
    component: ComponentExperiments, args: AttentionHereArguments
) -> dict[str, Any]:
    found = trials.attention_from(component.contrast, component.node, component.place(args.at))
    return {component.language.places[place]: facts for place, facts in found.items()}


def _ablate(component: ComponentExperiments, args: AblateArguments) -> dict[str, Any]:
    prompts = component.prompts_named(args.prompts) if args.prompts else CORRUPT
    places = [component.place(name) for name in args.positions]
    others = component.others(args.others)
    return trials.ablated(component.contrast, component.node, places, args.how, prompts, others)


def _cut_input(component: ComponentExperiments, args: CutInputArguments) -> dict[str, Any]:
    sender, at = component.node_named(args.sender), component.place(args.at)
    facts, turn = trials.input_cut(component.contrast, component.node, sender, args.port, at)
    if turn is None:
        return facts
    (query, key, by), shown = turn, component.language.places
    return {**facts, "turns_attention": {"from": shown[query], "to": shown[key], "by": by}}


def _without(component: ComponentExperiments, args: WithoutArguments) -> dict[str, Any]:
    others = component.others(args.others)
    return trials.without(component.contrast, component.node, others)


def _stand_in(component: ComponentExperiments, args: StandInArguments) -> dict[str, Any]:
    (other,) = component.others([args.other])
    return trials.stand_in(component.contrast, component.node, other)


EXPERIMENTS: Mapping[str, Experiment] = {
    "test": Experiment(
        "a claim about the component, tested: paths to a later component or to the logits are cut "
        "(feeds, directly), other keys corrupted (attends), one variable alone changed (carries)",
        TestArguments,
        _test,
    ),
    "ablate": Experiment(
        "share of the gap lost when it, alone or together with others, writes what it wrote on the "
        "corrupted prompts or those of a variable (resample) or its mean, somewhere or everywhere",
        AblateArguments,
        _ablate,
    ),
    "cut_input": Experiment(
        "what it does differently when the output of an earlier component at a position is cut "
        "from its queries, keys or values (of an MLP: port null)",
        CutInputArguments,
        _cut_input,
    ),
    "without": Experiment(
        "its direct effect on answers and foils, before and after others are ablated",
        WithoutArguments,
        _without,
    ),
    "attention_here": Experiment(
        "where the head attends from a position of the prompts",
        AttentionHereArguments,
        _attention_here,
        ("head",),
    ),
    "attention": Experiment(
        "where the head attends from one token of any text",
        AttentionArguments,
        _attention,
        ("head",),
    ),
    "measure": Experiment(
        "a measure on all components of the kind, with this one's place among them",
        MeasureArguments,
        _measure,
    ),
    "stand_in": Experiment(
        "Jensen-Shannon distance (nats) of the model's output when it writes what another "
        "component writes; small if they do the same",
        StandInArguments,
        _stand_in,
    ),
}


# --- requesting them ---------------------------------------------------------------------------


class ComponentExperiments:
    """The `Experiments` on the component of a question.

    `contrast` returns the model's behavior on the discovery examples; it is called when an
    experiment first runs.
    """

    def __init__(self, question: Question, task: Task, contrast: Callable[[], Contrast]) -> None:
        self.question = question
        self.node = question.node
        self.language = Language(question)
        self._nodes = {name: other for other, name in question.shown.items()}
        blind = question.model is None
        self._schemes = {
            f"corruption {number}" if blind else name: name
            for number, name in enumerate(task.schemes, 1)
        }
        self._contrast = contrast

    @property
    def contrast(self) -> Contrast:
        return self._contrast()

    # --- from the names that the labeler is shown to the true ones, or ValueError ---------------

    def node_named(self, name: str) -> Node:
        """The component with a shown name. Raises ValueError."""
        return named(self._nodes, "component", name)

    def others(self, names: Sequence[str]) -> list[Node]:
        """Other components, each once. Raises ValueError."""
        nodes = list(dict.fromkeys(self.node_named(name) for name in names))
        if self.node in nodes:
            raise ValueError("that is the component itself")
        return nodes

    def place(self, name: str) -> str:
        """The position with a shown name. Raises ValueError."""
        return named(back(self.language.places), "position", name)

    def prompts_named(self, name: str) -> str:
        """The scheme or the variable with a shown name. Raises ValueError."""
        known = {**self._schemes, **back(self.language.variables)}
        return named(known, "corruption or variable", name)

    @property
    def catalogue(self) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """By name, what each experiment finds out, and the JSON schema of its arguments."""
        others = [name for name, node in self._nodes.items() if node != self.node]
        places = list(self.language.places.values())
        vocabulary: dict[str, list[Any]] = {
            "measure": list(MEASURES),
            "prompts": ["", *self._schemes, *self.language.variables.values()],
            "sender": others,
            "other": others,
            "at": places,
            "positions": places,
            "others": others,
        }
        catalogue = {}
        for name, experiment in EXPERIMENTS.items():
            schema = experiment.arguments.model_json_schema()
            for argument, values in schema["properties"].items():
                if argument == "made":
                    schema["properties"][argument] = {"anyOf": self.language.schemas()}
                elif argument in vocabulary and values.get("type") == "array":
                    values["items"] = {"enum": vocabulary[argument]}
                elif argument in vocabulary:
                    schema["properties"][argument] = {"enum": vocabulary[argument]}
            empty = any([] in p.values() for p in schema["properties"].values())
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
