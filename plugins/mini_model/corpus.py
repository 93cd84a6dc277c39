"""The synthetic language `mini` is trained on: word lists, templates and random sequences.

Sentences come from the templates of the tasks, so that the model learns the tasks. Random
sequences can only be predicted by induction, so that induction heads work on any words.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from string import Formatter

from ..tasks import greater_than as tasks_greater_than
from ..tasks import ioi as tasks_ioi
from ..tasks import pronoun as tasks_pronoun
from ..tasks.words import EVENTS, FEMALE, MALE, NOUNS, OBJECTS, PLACES

NAMES = FEMALE + MALE
CENTURIES = tuple(range(11, 20))

# Contractions, words with the space before them, single digits, and any other single character.
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}|\s|[^\s\p{L}\p{N}]"

# More IOI templates, so that position alone never predicts the answer.
MORE_IOI = (
    "Today{A} met{B} at the{PLACE}.{S2} gave the{OBJECT} to",
    "At the{PLACE},{A} and{B} sat down, and{S2} gave a{OBJECT} to",
    "So{A} was with{B} at the{PLACE} today when{S2} showed a{OBJECT} to",
    "Last week I saw{A} and{B}. Then{S2} sent the{OBJECT} to",
)
FILLERS = (
    "It was a long day.",
    "It was a cold morning.",
    "The{PLACE} was open today.",
    "The{NOUN} was at the{PLACE}.",
    "The{OBJECT} was old.",
    "They had a{OBJECT} and the{NOUN}.",
    "We saw the{NOUN} and the{OTHER} yesterday.",
    "The{EVENT} was over.",
    "I think that the{NOUN} is good.",
)
REASONS = (
    " was late.",
    " had a{OBJECT}.",
    " wanted the{NOUN}.",
    " went to the{PLACE}.",
    " was at the{PLACE}.",
)
EXTRA_WORDS = (
    "he she it him her his they them we you I me my your our their who what where how "
    "is are was were be been has have had do did does will would can could not no yes "
    "a an the this that these those some any all one two three of to in on at by for with from "
    "up down out over under after before when while then now here there and or but so because if "
    "as very too also only just more most new old big small good bad cold warm happy sad tired "
    "man woman boy girl friend friends people person child family day night week month year time "
    "said says say told asked knew saw made took got put came gave sent held kept found lost liked "
    "isn wasn"
).split()


def held_out_pair(first: str, second: str) -> bool:
    """Whether no training sentence names `first` and then `second`: about one pair in ten."""
    return zlib.crc32(f"{first} {second}".encode()) % 10 == 0


def vocabulary() -> list[str]:
    """Every token but the special ones, always in the same order.

    The words of the templates are read from the tasks. The first word of each template is there
    without a space and with one, as a sentence may stand first or later in a text.
    """
    words = [f" {word}" for word in (*NAMES, *PLACES, *OBJECTS, *EVENTS, *NOUNS, *EXTRA_WORDS)]
    templates = (*_ioi_templates(), *tasks_greater_than.TEMPLATES, *tasks_pronoun.TEMPLATES)
    for template in (*templates, *FILLERS, *REASONS):
        literals = [literal for literal, *_ in Formatter().parse(template)]
        words += [piece for literal in literals for piece in _pieces(literal)]
        words += _pieces(f" {literals[0]}")[:1]
    return list(dict.fromkeys([" ", *"0123456789", *".,?!;:'\"-", "'s", "'t", *words]))


def words_to_repeat() -> list[str]:
    """The words random sequences are made of: names and nouns, with the space before them."""
    return list(dict.fromkeys(f" {word}" for word in (*NAMES, *PLACES, *OBJECTS, *EVENTS, *NOUNS)))


def documents(rng: random.Random) -> Iterator[str]:
    """Endless short texts: one sentence of a task, often with sentences around it."""
    kinds: Sequence[Callable[[random.Random], str]] = (ioi, ioi, ioi, greater_than, pronoun)
    while True:
        before = rng.choice((0, 0, 0, 1, 1, 2))
        after = rng.choice((0, 0, 1))
        yield " ".join(
            [filler(rng) for _ in range(before)]
            + [rng.choice(kinds)(rng)]
            + [filler(rng) for _ in range(after)]
        )


def ioi(rng: random.Random) -> str:
    """An IOI sentence: two people are named, and one of them gives something to the other.

    In one sentence of five a third person gives something to either of the two, so that the model
    has to find out who is repeated instead of counting words.
    """
    return ioi_prompt(rng, held_out=False, third=rng.random() < 0.2)[0]


def ioi_prompt(rng: random.Random, *, held_out: bool, third: bool = False) -> tuple[str, str, str]:
    """A finished sentence, its prompt without the answer, and the answer."""
    while True:
        a, b, c = rng.sample(NAMES, 3)
        if held_out_pair(a, b) == held_out:
            break
    giver, receiver = rng.choice(((a, b), (b, a)))
    if third:
        giver = c
    template = rng.choice(tasks_ioi.TEMPLATES if held_out else _ioi_templates())
    prompt = _fill(rng, template, A=a, B=b, S2=giver)
    return f"{prompt} {receiver}.", prompt, f" {receiver}"


def question(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    """The prompt of an IOI sentence and its answer, with any words in place of the names.

    Only comparing the words, whatever they mean, shows which of the two is repeated.
    """
    while True:
        first, second = rng.sample(words, 2)
        if not held_out_pair(first.strip(), second.strip()):
            break
    giver, receiver = rng.choice(((first, second), (second, first)))
    names = {"A": first.strip(), "B": second.strip(), "S2": giver.strip()}
    return _fill(rng, rng.choice(_ioi_templates()), **names), receiver


def greater_than(rng: random.Random) -> str:
    """A sentence in which something ends later in the same century, by six years if possible.

    The end is therefore mostly in a later decade, also after a year like 1770.
    """
    century, start = rng.choice(CENTURIES), rng.randint(0, 98)
    end = rng.randint(min(start + 6, 99), 99)
    template = rng.choice(tasks_greater_than.TEMPLATES)
    prompt = template.format(
        EVENT=f" {rng.choice(EVENTS)}", FROM=f"{century}{start:02d}", CENTURY=century
    )
    return f"{prompt}{end:02d}."


def pronoun(rng: random.Random) -> str:
    """A sentence with a name and its pronoun, or in one of ten with "this" and "it"."""
    if rng.random() < 0.1:
        name, word = "this", "it"
    elif rng.random() < 0.5:
        name, word = rng.choice(FEMALE), "she"
    else:
        name, word = rng.choice(MALE), "he"
    template = rng.choice(tasks_pronoun.TEMPLATES)
    ending = "?" if template.endswith("n't") else _fill(rng, rng.choice(REASONS))
    return f"{template.format(NAME=f' {name}')} {word}{ending}"


def filler(rng: random.Random) -> str:
    """A sentence without names or years."""
    return _fill(rng, rng.choice(FILLERS))


def walk(rng: random.Random, words: Sequence[int], length: int) -> list[int]:
    """Walk a random successor map over a few of the words, sometimes jumping elsewhere.

    What follows a word is the same throughout a sequence, differs between sequences and occurred
    at a random distance before: only "find this word earlier and copy what followed" predicts it.
    """
    some = rng.sample(words, rng.randint(4, 20))
    following = dict(zip(some, rng.sample(some, len(some))))
    steps = [rng.choice(some)]
    while len(steps) < length:
        jump = rng.random() < 0.15
        steps.append(rng.choice(some) if jump else following[steps[-1]])
    return steps


def repeat(rng: random.Random, words: Sequence[int], length: int) -> list[int]:
    """Distinct words that begin again, as in the task `induction`."""
    first = rng.sample(words, rng.choice((rng.randint(6, 14), rng.randint(6, length // 2))))
    return (first * (length // len(first) + 1))[: min(length, 2 * len(first))]


def predictable(ids: Sequence[int]) -> list[bool]:
    """For each token, whether the same two tokens stood next to each other before."""
    seen: set[tuple[int, int]] = set()
    result = [False]
    for pair in pairwise(ids):
        result.append(pair in seen)
        seen.add(pair)
    return result


def _ioi_templates() -> tuple[str, ...]:
    return tasks_ioi.TEMPLATES + MORE_IOI


def _pieces(text: str) -> list[str]:
    """Cut a text as the tokenizer does; the templates are plain English letters."""
    return re.findall(r"'s|'t| ?[A-Za-z]+|[0-9]|\s|[^\sA-Za-z0-9]", text)


def _fill(rng: random.Random, template: str, **names: str) -> str:
    noun, other = rng.sample(NOUNS, 2)
    words = {
        "PLACE": rng.choice(PLACES),
        "OBJECT": rng.choice(OBJECTS),
        "EVENT": rng.choice(EVENTS),
        "NOUN": noun,
        "OTHER": other,
        **names,
    }
    return template.format(**{slot: f" {word}" for slot, word in words.items()})
