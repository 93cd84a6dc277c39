"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a year after 1732.

Hanna et al. 2023, "How does GPT-2 compute greater-than?".
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import TaskBuilder
from acdc_explain.records.task import Example, Task, Tokenizer

from .words import EVENTS, fill, halves, whole_words

TEMPLATES = (
    "The{EVENT} lasted from the year {FROM} to the year {CENTURY}",
    "The{EVENT} began in {FROM} and ended in {CENTURY}",
    "The{EVENT} started in the year {FROM} and went on until the year {CENTURY}",
    "The{EVENT} of the year {FROM} was over by the year {CENTURY}",
)
CENTURIES = tuple(str(century) for century in range(12, 20))


def greater_than(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """A year is named: the answers are all later years, the foils all earlier ones.

    A tokenizer that writes each digit as a token is asked for the next digit (the decade); one
    that has tokens of two digits for both. The corruption starts in the year 01 of the century,
    which allows every answer. Scheme `mirror`: the years start at 99 minus the clean year's.
    """
    rng = random.Random(f"greater_than {seed}")
    width = _answer_width(tokenizer)
    events = whole_words(tokenizer, EVENTS)
    made: list[tuple[Example, ...]] = []
    schemes: dict[str, tuple[str, ...]] = {"mirror": ()}
    parts = zip((TEMPLATES[0::2], TEMPLATES[1::2]), halves(rng, events), halves(rng, CENTURIES))
    for count, (templates, nouns, centuries) in zip((examples, 2 * examples), parts):
        split: dict[str, Example] = {}
        for _ in range(200 * count):  # few prompts fit a tokenizer that groups digits oddly
            if len(split) == count:
                break
            drawn = _example(tokenizer, rng, templates, nouns, centuries, width)
            if drawn is not None and drawn[0].clean not in split:
                split[drawn[0].clean] = drawn[0]
                schemes["mirror"] += (drawn[1],)
        if len(split) < count:
            raise UserError(
                f"Task 'greater_than' has only {len(split)} prompts that fit this model's "
                f"tokenizer and {count} were asked for; use a smaller `examples=`."
            )
        made.append(tuple(split.values()))
    return Task(
        name="greater_than",
        description="Something begins in a year; "
        "the model completes the year in which it ends with a later one.",
        metric="prob_diff",
        discover=made[0],
        held_out=made[1],
        schemes=schemes,
    )


def _answer_width(tokenizer: Tokenizer) -> int:
    """How many digits of a year one token holds: 1 or 2."""
    tail = tokenizer.pieces("in the year 1732")[-2:]
    if tail == ["3", "2"]:
        return 1
    if tail[-1] == "32":
        return 2
    raise UserError(
        "Task 'greater_than' needs a tokenizer that ends '1732' with the token '2' or '32', "
        f"and this model's ends it with {tail[-1]!r}; bring prompts of your own with `prompts=`."
    )


def _example(
    tokenizer: Tokenizer,
    rng: random.Random,
    templates: Sequence[str],
    events: Sequence[str],
    centuries: Sequence[str],
    width: int,
) -> tuple[Example, str] | None:
    """One example and its mirrored prompt, or None where the tokenizer groups digits otherwise."""
    template, event, century = rng.choice(templates), rng.choice(events), rng.choice(centuries)
    year = rng.randint(20, 79)

    def prompt(start: int) -> tuple[str, dict[str, int]]:
        words = {"EVENT": event, "FROM": f"{century}{start:02d}", "CENTURY": century}
        return fill(tokenizer, template, words)

    clean, at = prompt(year)
    last = at["FROM"]  # the last token of the first year
    digits = [str(digit) for digit in range(10)] if width == 1 else [f"{n:02d}" for n in range(100)]
    given = year // 10 if width == 1 else year
    others = [prompt(1)[0], prompt(99 - year)[0]]
    lengths = {len(tokenizer.pieces(text)) for text in (clean, *others)}
    if len(lengths) > 1 or tokenizer.pieces(clean)[last] != f"{year:02d}"[-width:]:
        return None
    return (
        Example(
            clean=clean,
            corrupt=others[0],
            answers=tuple(digits[given + 1 :]),
            foils=tuple(digits[:given]),
            positions={"YY": last - (width == 1), "END": at["END"]},
        ),
        others[1],
    )


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"greater_than": greater_than}
