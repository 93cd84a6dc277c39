"""Patterns of roles along edges: `previous_token -k-> induction -> logits`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .circuit import Node, Port
from .errors import UserError
from .ids import content_id

ANY = "*"
_STEP = re.compile(r"\s*(?P<step>\*|[a-z][a-z0-9_]*)\s*")
_ARROW = re.compile(r"-(?:(?P<port>[qkv])-)?>")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path: `steps` are roles, input, logits or *; `ports[i]` leads from step i to step i+1."""

    text: str
    steps: tuple[str, ...]
    ports: tuple[Port | None, ...]

    @staticmethod
    def parse(text: str) -> Pattern:
        """Raises UserError that points at the place it does not understand."""
        steps: list[str] = []
        ports: list[Port | None] = []
        at = 0
        while True:
            step = _STEP.match(text, at)
            if step is None:
                raise _syntax_error(text, at, "a role, *, input or logits")
            steps.append(step["step"])
            at = step.end()
            if at == len(text):
                break
            arrow = _ARROW.match(text, at)
            if arrow is None:
                raise _syntax_error(text, at, "->, -q->, -k-> or -v->")
            ports.append(arrow["port"])  # type: ignore[arg-type]
            at = arrow.end()
        if len(steps) < 2:
            raise UserError(
                f"Pattern {text!r} has no arrow; write at least two steps, like "
                "'induction -> logits', or use --role."
            )
        return Pattern(text, tuple(steps), tuple(ports))


def _syntax_error(text: str, at: int, wanted: str) -> UserError:
    at += len(text[at:]) - len(text[at:].lstrip())
    shown = text if len(text) <= 80 else text[:77] + "..."
    found = repr(text[at]) if at < len(text) else "the end"
    return UserError(
        f"Pattern {shown!r} cannot be read at character {at + 1} ({found}): expected {wanted}."
    )


@dataclass(frozen=True, slots=True)
class Motif:
    """A place in a run's labeled circuit where a named pattern matches.

    `nodes` maps each step (numbered where a step occurs twice: `*`, `*.2`) to its node.
    """

    pattern: str
    run_id: str
    circuit_id: str
    nodes: Mapping[str, Node]

    @property
    def id(self) -> str:
        return content_id("motif", self)


def step_names(steps: tuple[str, ...]) -> tuple[str, ...]:
    """The steps, numbered from the second time each occurs."""
    seen: dict[str, int] = {}
    names = []
    for step in steps:
        seen[step] = seen.get(step, 0) + 1
        names.append(step if seen[step] == 1 else f"{step}.{seen[step]}")
    return tuple(names)
