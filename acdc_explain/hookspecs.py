"""The hooks. A plugin implements those it needs; each returns a mapping of names to things.

Hooks register callables and records, they never do the work. A callable's keyword-only
parameters are its settings: a user sets them on the command line or in Python, and they are
part of what identifies a result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pluggy

if TYPE_CHECKING:
    from .llm.exchange import Ask
    from .records.circuit import Node
    from .records.graph import Discovery
    from .records.label import LabelerReply
    from .records.question import Question
    from .records.role import AnswerKey, RoleCard
    from .records.task import Task, Tokenizer
    from .records.verdict import Verdict

PROJECT = "acdc_explain"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Facts: TypeAlias = Mapping[str, Any]
ModelSource: TypeAlias = Callable[[], "str | Path"]


class TaskBuilder(Protocol):
    """Writes a task's examples for a model's tokenizer. Raises UserError if it cannot."""

    def __call__(self, tokenizer: Tokenizer, *, examples: int, seed: int) -> Task: ...


Discoverer: TypeAlias = "Callable[..., Discovery]"
"""(contrast, progress, *, settings): chooses edges, looking at the contrast's examples alone.

It may have an attribute `check`: called with all settings before the model is loaded."""

Collector: TypeAlias = "Callable[..., Iterator[tuple[Node, Facts]]]"
"""(contrast, nodes, *, settings): yields facts, as JSON, for each node as soon as it has them."""

Judge: TypeAlias = "Callable[..., Iterator[Verdict]]"
"""(contrast on held-out examples, labels, roles, *, settings): yields each verdict as it comes."""


class Labeler(Protocol):
    """Proposes roles for one node. Its settings are the keyword-only parameters of the call.

    `prompt` is what an LLM would be sent first, or a fingerprint of what the labeler looks at; a
    stored answer to the same prompt is not asked for again. A labeler with a setting `llm_model`
    is given an `ask`. It may have `async summarise(story, ask)`: sentences on the whole circuit.
    """

    def prompt(self, question: Question, ask: Ask | None) -> str: ...

    @property
    def __call__(self) -> Callable[..., Awaitable[LabelerReply]]:
        """async (question, prompt, ask, *, settings); raises what `ask` raises."""
        ...


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
    def register_discoverers(self) -> Mapping[str, Discoverer]:
        """Ways to find a circuit: `--discoverer NAME`."""
        ...

    @hookspec
    def register_collectors(self) -> Mapping[str, Collector]:
        """Kinds of evidence."""
        ...

    @hookspec
    def register_labelers(self) -> Mapping[str, Labeler]:
        """Ways to propose roles: `--labeler NAME`."""
        ...

    @hookspec
    def register_judges(self) -> Mapping[str, Judge]:
        """Ways to test a label."""
        ...

    @hookspec
    def register_roles(self) -> Mapping[str, RoleCard]:
        """Words of the vocabulary, with the measurements that grant them."""
        ...

    @hookspec
    def register_answer_keys(self) -> Mapping[str, AnswerKey]:
        """Models and tasks whose roles are known, to measure labels by: `bench labels`."""
        ...

    @hookspec
    def register_patterns(self) -> Mapping[str, str]:
        """Motifs by name: `previous_token -k-> induction -> logits`."""
        ...

    @hookspec
    def register_prompts(self) -> Mapping[str, Path]:
        """Folders of jinja2 templates."""
        ...
