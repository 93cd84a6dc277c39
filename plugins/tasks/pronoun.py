"""Gendered pronouns: "So Mary is a really great friend, isn't" -> " she".

Mathwin et al. 2023, "Identifying a Preliminary Circuit for Predicting Gendered Pronouns".
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
from .words import FEMALE, MALE, after, fill, halves, whole_words

TEMPLATES = (
    "So{NAME} is a really great friend, isn't",
    "I think that{NAME} is tired because",
    "We met{NAME} at the park yesterday because",
    "So{NAME} was such a good cook, wasn't",
    "They say that{NAME} was happy because",
    "I saw{NAME} at the station today because",
)


def gendered_pronoun(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """A person is named: the answer is the pronoun for them. Female and male names alternate.

    The corruption is a name of the other gender. Scheme `neutral`: "this" instead of a name.
    Variables: the gender (a name of the other), and the name (another of the same gender).
    Names and templates of held-out prompts differ from those of discovery.

    Raises:
        UserError: Too few names are one token each in the tokenizer, or too many examples.
    """
    rng = random.Random(f"gendered_pronoun {seed}")
    female, male = (whole_words(tokenizer, names) for names in (FEMALE, MALE))
    if min(len(female), len(male)) < 4 or len(whole_words(tokenizer, ["she", "he", "this"])) < 3:
        raise UserError(
            "Task 'gendered_pronoun' needs four female and four male names that are one token "
            "each in this model's tokenizer; use your own prompts with `prompts=FILE`."
        )
    splits: list[list[Drawn]] = []
    parts = zip((TEMPLATES[0::2], TEMPLATES[1::2]), halves(rng, female), halves(rng, male))
    for count, (templates, women, men) in zip(split_sizes(examples), parts):
        available = len(templates) * 2 * min(len(women), len(men))
        if count > available:
            raise UserError(
                f"Task 'gendered_pronoun' has {available} prompts for a split of {count}; "
                f"use `examples={available // 2}` or fewer."
            )
        splits.append(
            draw_different(count, partial(_example, tokenizer, rng, templates, women, men))
        )
    description = "A person is named; the model refers to the person with the right pronoun."
    return task_of("gendered_pronoun", description, "logit_diff", splits)


def _example(
    tokenizer: Tokenizer,
    rng: random.Random,
    templates: Sequence[str],
    women: Sequence[str],
    men: Sequence[str],
    number: int,
) -> Drawn:
    """One example and its scheme; those of an even number name a woman."""
    she = number % 2 == 0
    template = rng.choice(templates)
    name, other = rng.choice(women if she else men), rng.choice(men if she else women)
    same = after(women if she else men, name)
    clean, slots = fill(tokenizer, template, {"NAME": name})
    example = Example(
        clean=clean,
        corrupt=fill(tokenizer, template, {"NAME": other})[0],
        answers=(" she" if she else " he",),
        foils=(" he" if she else " she",),
        positions={"NAME": slots["NAME"], "NAME+1": slots["NAME"] + 1, "END": slots["END"]},
        variables={
            "gender": fill(tokenizer, template, {"NAME": other})[0],
            "name": fill(tokenizer, template, {"NAME": same})[0],
        },
    )
    return example, {"neutral": fill(tokenizer, template, {"NAME": " this"})[0]}


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"gendered_pronoun": gendered_pronoun}
