"""The hooks. A plugin implements those it needs; each returns a mapping of names to things.

Hooks register callables and records; they never do the work. A callable's keyword-only
parameters are its settings: users set them on the command line or in Python, and they are part of
what identifies a result. A bare callable is enough; the records `Discoverer`, `Labeler` and
`Judge` say more about one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import pluggy

from .signatures import (
    FindEdges,
    JudgeLabels,
    LabelerObject,
    MakePrompt,
    Propose,
    Summarise,
    TestClaims,
)

if TYPE_CHECKING:
    from jinja2 import Template
    from pydantic import BaseModel

    from .models.contrast import Contrast
    from .records.circuit import Node
    from .records.claim import Claim, ClaimsOf, Topic
    from .records.label import Label
    from .records.role import AnswerKey, RoleCard
    from .records.task import Task, Tokenizer
    from .records.verdict import Verdict

PROJECT = "acdc_explain"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Facts: TypeAlias = Mapping[str, Any]
ModelSource: TypeAlias = Callable[[], "str | Path"]


class TaskBuilder(Protocol):
    """Writes a task's prompts for a model's tokenizer. Raises UserError if it cannot."""

    def __call__(self, tokenizer: Tokenizer, *, examples: int, seed: int) -> Task: ...


class Collector(Protocol):
    """Yields facts, as JSON, for each node as soon as it has them."""

    def __call__(
        self, contrast: Contrast, nodes: Sequence[Node], /, *args: Any, **settings: Any
    ) -> Iterator[tuple[Node, Facts]]: ...


# --- records: a function and what else is to be known of it --------------------------------------


@dataclass(frozen=True, slots=True)
class Discoverer:
    """A way to find a circuit.

    Attributes:
        function: Chooses the edges.
        check: Called with all settings before a model is loaded; raises UserError for settings
            that do not go together.
    """

    function: FindEdges
    check: Callable[..., None] | None = None

    @staticmethod
    def of(registered: Discoverer | FindEdges) -> Discoverer:
        return registered if isinstance(registered, Discoverer) else Discoverer(registered)


@dataclass(frozen=True, slots=True)
class Labeler:
    """A way to propose roles.

    Attributes:
        function: Proposes roles for one node.
        prompt: Makes what the function is given, without asking anybody.
        summarise: Says what the whole circuit does; None: the rules say it.
        asks_llm: Whether it asks an LLM. It then has a setting `llm_model` and is given an `ask`.
    """

    function: Propose
    prompt: MakePrompt
    summarise: Summarise | None = None
    asks_llm: bool = False

    @staticmethod
    def of(registered: Labeler | LabelerObject, *, asks_llm: bool = False) -> Labeler:
        if isinstance(registered, Labeler):
            return registered
        summarise = cast("Summarise | None", getattr(registered, "summarise", None))
        return Labeler(registered, registered.prompt, summarise, asks_llm)


@dataclass(frozen=True, slots=True)
class ClaimKind:
    """A kind of claim about a component.

    Attributes:
        topic: "where" it acts, what it "reads" or carries, what it "does", or what its "weights"
            would do with anything.
        arguments: A pydantic model of the arguments, with a description of each.
        sentence: A jinja2 template that says the claim in words, given the arguments.
        test: Measures some claims of this kind on prompts.
        kinds: The kinds of components that the claim can be about.
        corrupts: Whether the test depends on how the prompts are corrupted, so that a claim is
            tested under other corruptions, too.
        meaning: What holds if the claim does, in one sentence, for those who may make it.
    """

    topic: Topic
    arguments: type[BaseModel]
    sentence: str
    test: TestClaims
    kinds: tuple[str, ...] = ("head", "mlp")
    corrupts: bool = False
    meaning: str = ""

    def says(self, arguments: Mapping[str, Any]) -> str:
        """A claim of this kind in words.

        Args:
            arguments: All arguments, those with defaults too.

        Raises:
            jinja2.UndefinedError: An argument is missing.
        """
        return _template(self.sentence).render(**arguments)

    def claim(self, node: Node, name: str, arguments: Mapping[str, Any]) -> Claim:
        """A claim of this kind with checked arguments, the defaults filled in.

        Args:
            node: The component.
            name: The name of the kind.
            arguments: What is claimed.

        Raises:
            pydantic.ValidationError: The arguments do not fit.
        """
        from .records.claim import Claim

        checked = self.arguments.model_validate(dict(arguments))
        return Claim(node, name, checked.model_dump(mode="json"))  # as a store gives it back


@cache
def _template(text: str) -> Template:
    from jinja2 import Environment, StrictUndefined  # only where claims are put into words

    return Environment(undefined=StrictUndefined, autoescape=False).from_string(text)


@dataclass(frozen=True, slots=True)
class Judge:
    """A way to test labels.

    Attributes:
        function: Tests some labels by experiment.
        on_request: Whether it tests only where a user names it.
        asks_llm: Whether it asks an LLM. It then has a setting `llm_model` and is given `session`.
        reads_claims: Whether it is given the results of the claims, by node, after the roles.
    """

    function: JudgeLabels
    on_request: bool = False
    asks_llm: bool = False
    reads_claims: bool = False

    def verdicts(
        self,
        contrast: Contrast,
        labels: Sequence[Label],
        roles: Mapping[str, RoleCard],
        claims: ClaimsOf,
        **settings: Any,
    ) -> Iterator[Verdict]:
        """What the function yields, given the claims if it reads them."""
        given = (claims,) if self.reads_claims else ()
        return self.function(contrast, labels, roles, *given, **settings)

    @staticmethod
    def of(registered: Judge | JudgeLabels) -> Judge:
        return registered if isinstance(registered, Judge) else Judge(registered)


# --- the hooks -----------------------------------------------------------------------------------


class Hooks(Protocol):
    """What a plugin may implement."""

    @hookspec
    def register_tasks(self) -> Mapping[str, TaskBuilder]:
        """Behaviors: `acdc-explain run NAME`."""
        ...

    @hookspec
    def register_models(self) -> Mapping[str, ModelSource]:
        """Models: a callable that returns a folder, a .gguf file or a hub name."""
        ...

    @hookspec
    def register_discoverers(self) -> Mapping[str, Discoverer | FindEdges]:
        """Ways to find a circuit: `--discoverer NAME`."""
        ...

    @hookspec
    def register_collectors(self) -> Mapping[str, Collector]:
        """Kinds of evidence."""
        ...

    @hookspec
    def register_labelers(self) -> Mapping[str, Labeler | LabelerObject]:
        """Ways to propose roles: `--labeler NAME`."""
        ...

    @hookspec
    def register_judges(self) -> Mapping[str, Judge | JudgeLabels]:
        """Ways to test a label."""
        ...

    @hookspec
    def register_roles(self) -> Mapping[str, RoleCard]:
        """Roles, each with the measurements that grant it."""
        ...

    @hookspec
    def register_claims(self) -> Mapping[str, ClaimKind]:
        """Kinds of claims, each with its arguments, its sentence and its test."""
        ...

    @hookspec
    def register_answer_keys(self) -> Mapping[str, AnswerKey]:
        """Models and tasks whose roles are known, to score labels: `bench labels`."""
        ...

    @hookspec
    def register_patterns(self) -> Mapping[str, str]:
        """Motifs by name: `previous_token -k-> induction -> logits`."""
        ...

    @hookspec
    def register_prompts(self) -> Mapping[str, Path]:
        """Folders of jinja2 templates."""
        ...
