"""Drawing a task's examples at random: some to discover on, and twice as many held out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from acdc_explain.records.task import Example, Task

Drawn: TypeAlias = tuple[Example, Mapping[str, str]]
"""An example, and its corrupted prompt under each of the task's other schemes."""


def split_sizes(examples: int) -> tuple[int, int]:
    """How many examples to discover on, and how many to hold out."""
    return examples, 2 * examples


def draw_different(
    count: int, draw: Callable[[int], Drawn | None], attempts: int | None = None
) -> list[Drawn]:
    """Draw until `count` examples have different clean prompts.

    Args:
        count: How many examples to draw.
        draw: Called with the number of examples so far; returns None where a draw does not fit.
        attempts: Most calls of `draw`; without it, draw for as long as it takes.

    Returns:
        The examples in the order drawn; fewer than `count` if the attempts are used up.
    """
    drawn: dict[str, Drawn] = {}
    for _ in itertools.count() if attempts is None else range(attempts):
        if len(drawn) == count:
            break
        candidate = draw(len(drawn))
        if candidate is not None:
            drawn.setdefault(candidate[0].clean, candidate)
    return list(drawn.values())


def task_of(name: str, description: str, metric: str, splits: Sequence[Sequence[Drawn]]) -> Task:
    """The task with these two splits, and the schemes that every drawn example has."""
    discover, held_out = (tuple(example for example, _ in split) for split in splits)
    corruptions = [corrupted for split in splits for _, corrupted in split]
    names = corruptions[0] if corruptions else ()
    return Task(
        name=name,
        description=description,
        metric=metric,
        discover=discover,
        held_out=held_out,
        schemes={scheme: tuple(c[scheme] for c in corruptions) for scheme in names},
    )
