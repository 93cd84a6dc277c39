"""Induction: "... apple river ... apple" -> " river", on random words.

Olsson et al. 2022, "In-context Learning and Induction Heads".
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import TaskBuilder
from acdc_explain.records.task import Example, Task, Tokenizer

from .drawing import Drawn, split_sizes, task_of
from .words import NOUNS, halves, whole_words

SHORTEST, LONGEST = 6, 10  # words in the part that is repeated
FEWEST_AGAIN = 4  # words that are repeated
LEAD = "the"  # before it: many models attend to the first token whatever it is, and lose a word


def induction(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """Random words, then their beginning again: the answer is the word that came next.

    The foil is another word of the sequence. The corruption replaces the first part by other
    words, so that nothing is repeated. Scheme `swap_b`: the answer and the foil change places.
    Scheme `other_a`: only the first occurrence of the last word is another word.
    Variables: the first occurrence A1, the word B1 after it, the word A both times, and the others
    of the first part. All but A are words of the corrupted prompt.

    Raises:
        UserError: Too few nouns are one token each in the tokenizer.
    """
    rng = random.Random(f"induction {seed}")
    lead = "".join(whole_words(tokenizer, [LEAD]))
    words = whole_words(tokenizer, NOUNS)
    if len(words) < 4 * LONGEST:
        raise UserError(
            f"Task 'induction' needs {4 * LONGEST} nouns that are one token each and found "
            f"{len(words)} in this model's tokenizer; use your own prompts with `prompts=FILE`."
        )
    splits = [
        [repeated_beginning(rng, pool, rng.randint(SHORTEST, LONGEST), lead) for _ in range(count)]
        for count, pool in zip(split_sizes(examples), halves(rng, words))
    ]
    description = (
        "A sequence of random words begins again; "
        "the model says the word that followed the last word the first time."
    )
    return task_of("induction", description, "logit_diff", splits)


def repeated_beginning(
    rng: random.Random, pool: Sequence[str], length: int, lead: str = ""
) -> Drawn:
    """`length` random words of the pool that begin again, with the schemes `swap_b`, `other_a`.

    `lead`: one token before them, or nothing.
    """
    words = rng.sample(list(pool), 2 * length)
    first, fresh = words[:length], words[length:]
    a1 = rng.randint(FEWEST_AGAIN - 1, length - 2)  # repeated last; its successor is the answer
    again = first[: a1 + 1]
    foil = rng.choice([i for i in range(length) if i not in (a1, a1 + 1)])
    swapped = list(first)
    swapped[a1 + 1], swapped[foil] = first[foil], first[a1 + 1]
    other, between = list(first), list(fresh)
    other[a1] = fresh[a1]
    between[a1 : a1 + 2] = first[a1 : a1 + 2]

    def prompt(part: Sequence[str], end: Sequence[str] = again) -> str:
        return "".join([lead, *part, *end])

    before = bool(lead)
    example = Example(
        clean=prompt(first),
        corrupt=prompt(fresh),
        answers=(first[a1 + 1],),
        foils=(first[foil],),
        positions={"A1": before + a1, "B1": before + a1 + 1, "END": before + length + a1},
        variables={
            "A1": prompt(other),
            "B1": prompt([*first[: a1 + 1], fresh[a1 + 1], *first[a1 + 2 :]]),
            "A": prompt(other, [*again[:-1], fresh[a1]]),
            "others": prompt(between),
        },
    )
    return example, {"swap_b": prompt(swapped), "other_a": prompt(other)}


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"induction": induction}
