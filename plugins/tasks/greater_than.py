"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a year after 1732.

Hanna et al. 2023, "How does GPT-2 compute greater-than?".
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import TaskBuilder
from acdc_explain.records.task import Example, Task, Tokenizer

from .drawing import Drawn, draw_different, split_sizes, task_of
from .words import EVENTS, after, fill, halves, whole_words

TEMPLATES = (
    "The{EVENT} lasted from the year {FROM} to the year {CENTURY}",
    "The{EVENT} began in {FROM} and ended in {CENTURY}",
    "The{EVENT} started in the year {FROM} and went on until the year {CENTURY}",
    "The{EVENT} of the year {FROM} was over by the year {CENTURY}",
)
CENTURIES = tuple(str(century) for century in range(12, 20))


def greater_than(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """A year is named: the answers are all later years, the foils all earlier ones.

    If the tokenizer makes a token of each digit, the answer is the next digit (the decade); if it
    has tokens of two digits, both. The corruption names the year 01 of the century, after which
    every answer is right. Scheme `mirror` names the year 99 minus the clean one.
    Variables: the year YY within the century, the century, and the event.

    Raises:
        UserError: The tokenizer cuts years otherwise, or too few prompts fit it.
    """
    rng = random.Random(f"greater_than {seed}")
    width = _answer_width(tokenizer)
    events = whole_words(tokenizer, EVENTS)
    splits: list[list[Drawn]] = []
    parts = zip((TEMPLATES[0::2], TEMPLATES[1::2]), halves(rng, events), halves(rng, CENTURIES))
    for count, (templates, nouns, centuries) in zip(split_sizes(examples), parts):
        draw = partial(_example, tokenizer, rng, templates, nouns, centuries, width)
        # Few prompts fit a tokenizer that groups digits oddly, hence the many attempts.
        split = draw_different(count, draw, attempts=200 * count)
        if len(split) < count:
            raise UserError(
                f"Task 'greater_than' has only {len(split)} prompts that fit this model's "
                f"tokenizer and {count} were asked for; use a smaller `examples=`."
            )
        splits.append(split)
    description = (
        "Something begins in a year; "
        "the model completes the year in which it ends with a later one."
    )
    return task_of("greater_than", description, "prob_diff", splits)


def _answer_width(tokenizer: Tokenizer) -> int:
    """How many digits of a year one token holds: 1 or 2."""
    tail = tokenizer.pieces("in the year 1732")[-2:]
    if tail == ["3", "2"]:
        return 1
    if tail[-1] == "32":
        return 2
    raise UserError(
        "Task 'greater_than' needs a tokenizer that ends '1732' with the token '2' or '32', "
        f"and this model's ends it with {tail[-1]!r}; use your own prompts with `prompts=`."
    )


def _example(
    tokenizer: Tokenizer,
    rng: random.Random,
    templates: Sequence[str],
    events: Sequence[str],
    centuries: Sequence[str],
    width: int,
    _: int,
) -> Drawn | None:
    """One example and its mirrored prompt; None where the tokenizer groups digits otherwise."""
    template, event, century = rng.choice(templates), rng.choice(events), rng.choice(centuries)
    year = rng.randint(20, 79)

    def prompt(start: int, named: str = century, what: str = event) -> tuple[str, dict[str, int]]:
        words = {"EVENT": what, "FROM": f"{named}{start:02d}", "CENTURY": named}
        return fill(tokenizer, template, words)

    clean, positions = prompt(year)
    last = positions["FROM"]  # the last token of the first year
    digits = [str(digit) for digit in range(10)] if width == 1 else [f"{n:02d}" for n in range(100)]
    start = year // 10 if width == 1 else year
    corrupt, mirror = prompt(1)[0], prompt(99 - year)[0]
    variables = {
        "YY": corrupt,
        "century": prompt(year, after(centuries, century))[0],
        "event": prompt(year, century, after(events, event))[0],
    }
    lengths = {len(tokenizer.pieces(x)) for x in (clean, corrupt, mirror, *variables.values())}
    if len(lengths) > 1 or tokenizer.pieces(clean)[last] != f"{year:02d}"[-width:]:
        return None
    example = Example(
        clean=clean,
        corrupt=corrupt,
        answers=tuple(digits[start + 1 :]),
        foils=tuple(digits[:start]),
        positions={"YY": last - (width == 1), "END": positions["END"]},
        variables=variables,
    )
    return example, {"mirror": mirror}


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"greater_than": greater_than}
