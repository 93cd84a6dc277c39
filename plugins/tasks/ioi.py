"""Indirect object identification: "When Mary and John ..., John gave a drink to" -> " Mary".

Wang et al. 2022, "Interpretability in the Wild".
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
from .words import FEMALE, MALE, OBJECTS, PLACES, fill, halves, whole_words

TEMPLATES = (
    "When{A} and{B} went to the{PLACE},{S2} gave a{OBJECT} to",
    "Then,{A} and{B} went to the{PLACE}.{S2} gave a{OBJECT} to",
    "After{A} and{B} had lunch at the{PLACE},{S2} handed the{OBJECT} to",
    "While{A} and{B} were working at the{PLACE},{S2} decided to give a{OBJECT} to",
    "The friends{A} and{B} were at the{PLACE}, and{S2} showed the{OBJECT} to",
    "Yesterday{A} and{B} met at the{PLACE}. Later,{S2} sent a{OBJECT} to",
    "Once,{A} and{B} had a long talk at the{PLACE}, and then{S2} offered a{OBJECT} to",
    "Last week{A} and{B} found a{OBJECT} at the{PLACE}.{S2} wanted to give the{OBJECT} to",
)


def ioi(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """Two people are named, one of them twice: the answer is the other one.

    In half of the prompts the answer is named first (ABBA), in half second (BABA). The corruption
    names three other people once each. Scheme `swap_s2` repeats the other name instead, so that
    the answer changes; `random_s2` names a third person in place of the repeated one.
    Variables: the name IO, the name S (both times), S2 (a third name there), the order of the two.
    Names and templates of held-out prompts differ from those of discovery.

    Raises:
        UserError: Too few names are one token each in the tokenizer, or too many examples.
    """
    rng = random.Random(f"ioi {seed}")
    names = whole_words(tokenizer, FEMALE + MALE)
    places, objects = whole_words(tokenizer, PLACES), whole_words(tokenizer, OBJECTS)
    if len(names) < 16 or not places or not objects:
        raise UserError(
            f"Task 'ioi' needs 16 first names that are one token each and found {len(names)} in "
            "this model's tokenizer; use your own prompts with `prompts=FILE`."
        )
    templates = (TEMPLATES[0::2], TEMPLATES[1::2])
    splits: list[list[Drawn]] = []
    for part, count, pool in zip(templates, split_sizes(examples), halves(rng, names)):
        draw = partial(_example, tokenizer, rng, part, pool, (places, objects))
        split = draw_different(count, draw, attempts=200 * count)
        if len(split) < count:
            raise UserError(f"Task 'ioi' has no {count} different prompts; use fewer `examples=`.")
        splits.append(split)
    description = (
        "Two people are named, one of them again; the model says the name of the other one."
    )
    return task_of("ioi", description, "logit_diff", splits)


def _example(
    tokenizer: Tokenizer,
    rng: random.Random,
    templates: Sequence[str],
    names: Sequence[str],
    places_and_objects: tuple[Sequence[str], Sequence[str]],
    number: int,
) -> Drawn:
    """One example and its schemes; those of an even number are ABBA."""
    abba, (places, objects) = number % 2 == 0, places_and_objects
    template = rng.choice(templates)
    io, s, *others = rng.sample(list(names), 5)
    fixed = {"PLACE": rng.choice(places), "OBJECT": rng.choice(objects)}

    def prompt(first: str, second: str, third: str) -> tuple[str, dict[str, int]]:
        order = {"A": first, "B": second} if abba else {"A": second, "B": first}
        return fill(tokenizer, template, {**order, "S2": third, **fixed})

    clean, slots = prompt(io, s, s)
    io_position, s1_position = (slots[slot] for slot in ("AB" if abba else "BA"))
    example = Example(
        clean=clean,
        corrupt=prompt(others[0], others[1], others[2])[0],
        answers=(io,),
        foils=(s,),
        positions={
            "IO": io_position,
            "S1": s1_position,
            "S1+1": s1_position + 1,
            "S2": slots["S2"],
            "END": slots["END"],
        },
        variables={
            "IO": prompt(others[0], s, s)[0],
            "S": prompt(io, others[1], others[1])[0],
            "S2": prompt(io, s, others[2])[0],
            "order": prompt(s, io, s)[0],
        },
    )
    schemes = {"swap_s2": prompt(io, s, io)[0], "random_s2": prompt(io, s, others[2])[0]}
    return example, schemes


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"ioi": ioi}
