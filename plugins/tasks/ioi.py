"""Indirect object identification: "When Mary and John ..., John gave a drink to" -> " Mary".

Wang et al. 2022, "Interpretability in the Wild".
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import TaskBuilder
from acdc_explain.records.task import Example, Task, Tokenizer

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

    Half the prompts are ABBA (the answer is named first), half BABA.

    The corruption writes three new names (nobody is repeated). Schemes: `swap_s2` repeats the
    other name instead, so that the answer changes; `random_s2` names a third person second.
    Names and templates of held-out prompts differ from those of discovery.
    """
    rng = random.Random(f"ioi {seed}")
    names = whole_words(tokenizer, FEMALE + MALE)
    places, objects = whole_words(tokenizer, PLACES), whole_words(tokenizer, OBJECTS)
    if len(names) < 16 or not places or not objects:
        raise UserError(
            f"Task 'ioi' needs 16 first names that are one token each and found {len(names)} in "
            "this model's tokenizer; bring prompts of your own with `prompts=FILE`."
        )
    templates = (TEMPLATES[0::2], TEMPLATES[1::2])
    made: list[list[Example]] = []
    schemes: dict[str, tuple[str, ...]] = {"swap_s2": (), "random_s2": ()}
    for part, count, pool in zip(templates, (examples, 2 * examples), halves(rng, names)):
        split: dict[str, Example] = {}
        for _ in range(200 * count):
            if len(split) == count:
                break
            example, others = _example(
                tokenizer, rng, part, pool, (places, objects), abba=len(split) % 2 == 0
            )
            if example.clean not in split:
                split[example.clean] = example
                for scheme, prompt in others.items():
                    schemes[scheme] += (prompt,)
        if len(split) < count:
            raise UserError(f"Task 'ioi' has no {count} different prompts; use fewer `examples=`.")
        made.append(list(split.values()))
    return Task(
        name="ioi",
        description="Two people are named, one of them again; "
        "the model says the name of the other one.",
        metric="logit_diff",
        discover=tuple(made[0]),
        held_out=tuple(made[1]),
        schemes=schemes,
    )


def _example(
    tokenizer: Tokenizer,
    rng: random.Random,
    templates: Sequence[str],
    names: Sequence[str],
    things: tuple[Sequence[str], Sequence[str]],
    *,
    abba: bool,
) -> tuple[Example, dict[str, str]]:
    template = rng.choice(templates)
    io, s, *others = rng.sample(list(names), 5)
    fixed = {"PLACE": rng.choice(things[0]), "OBJECT": rng.choice(things[1])}

    def prompt(first: str, second: str, third: str) -> tuple[str, dict[str, int]]:
        order = {"A": first, "B": second} if abba else {"A": second, "B": first}
        return fill(tokenizer, template, {**order, "S2": third, **fixed})

    clean, at = prompt(io, s, s)
    where_io, where_s1 = (at["A"], at["B"]) if abba else (at["B"], at["A"])
    example = Example(
        clean=clean,
        corrupt=prompt(others[0], others[1], others[2])[0],
        answers=(io,),
        foils=(s,),
        positions={
            "IO": where_io,
            "S1": where_s1,
            "S1+1": where_s1 + 1,
            "S2": at["S2"],
            "END": at["END"],
        },
    )
    schemes = {"swap_s2": prompt(io, s, io)[0], "random_s2": prompt(io, s, others[2])[0]}
    return example, schemes


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"ioi": ioi}
