"""Which roles are known for the heads of a model on a task: by construction, or from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .circuit import Node


@dataclass(frozen=True, slots=True)
class KnownRoles:
    """The roles of some nodes; `()` for a node that plays no part.

    `decoys` have the pattern of a role and do nothing: a label that claims it must not pass.
    `settings` of the run that labels them; every component is labeled unless they say otherwise.
    """

    model: str
    task: str
    roles: Mapping[Node, tuple[str, ...]]
    decoys: Mapping[Node, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"discoverer": "everything"})


AnswerKey: TypeAlias = Callable[[], Sequence[KnownRoles]]
