"""The RASP programs that Tracr compiles, and what each answers at the last token.

Every program is written in RASP, for Tracr, and again in Python, for the tasks' answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

LETTERS = tuple("abcdef")
LENGTH = 8  # most tokens of a prompt, without the first


@dataclass(frozen=True)
class Program:
    """A RASP program, and what it answers at the last token.

    Attributes:
        name: Ends the names of its model and its task.
        says: What the model says, in the task's description.
        write: Returns the program as a RASP expression.
        answer: The right answer to some letters; None where the program gives none.
        outputs: All answers there are.
        roles: The roles of its heads, for those that a role card describes.
    """

    name: str
    says: str
    write: Callable[[], Any]
    answer: Callable[[Sequence[str]], str | None]
    outputs: tuple[str, ...] = LETTERS
    roles: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of its prompts: `largest` is compiled for four, to stay small."""
        return LETTERS[:4] if self.name == "largest" else LETTERS


def _shift() -> Any:
    from tracr.rasp import rasp

    before = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == q - 1)
    return rasp.Aggregate(before, rasp.tokens).named("shift")


def _first() -> Any:
    from tracr.rasp import rasp

    return rasp.Aggregate(
        rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == 0), rasp.tokens
    ).named("first")


def _induction() -> Any:
    from tracr.rasp import rasp

    follows = rasp.Select(_shift(), rasp.tokens, rasp.Comparison.EQ)
    return rasp.Aggregate(follows, rasp.tokens).named("induction")


def _histogram() -> Any:
    from tracr.compiler import lib

    return lib.make_hist()


def _reverse() -> Any:
    from tracr.compiler import lib
    from tracr.rasp import rasp

    return lib.make_reverse(rasp.tokens)


def _largest() -> Any:
    from tracr.rasp import rasp

    def occurs(letter: str) -> Any:
        everywhere = rasp.Map(lambda _: letter, rasp.indices)
        same = rasp.Select(rasp.tokens, everywhere, rasp.Comparison.EQ)
        return rasp.Map(lambda n: n > 0, rasp.SelectorWidth(same))

    largest = rasp.Map(lambda yes: LETTERS[1] if yes else LETTERS[0], occurs(LETTERS[1]))
    for letter in LETTERS[2:4]:
        largest = rasp.SequenceMap(
            lambda best, yes, letter=letter: letter if yes else best, largest, occurs(letter)
        )
    return largest.named("largest")


def _repeated() -> Any:
    from tracr.rasp import rasp

    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)
    return rasp.Map(lambda n: "Y" if n > 1 else "N", rasp.SelectorWidth(same)).named("repeated")


def _after(tokens: Sequence[str]) -> str | None:
    """What followed the last token before, if that was always the same."""
    successors = {b for a, b in pairwise(tokens) if a == tokens[-1]}
    return successors.pop() if len(successors) == 1 else None


COUNTS = tuple(map(str, range(1, LENGTH + 1)))
MOVES = ("name_mover",)  # the head copies the answer into the logits

PROGRAMS = (
    Program(
        "shift", "the token before the last", _shift, lambda t: t[-2],
        roles=(("a0.h0", ("previous_token", *MOVES)),),
    ),
    Program("first", "the first token", _first, lambda t: t[0], roles=(("a0.h0", MOVES),)),
    Program(
        "induction", "what followed the last token before", _induction, _after,
        roles=(("a0.h0", ("previous_token",)), ("a1.h0", ("induction", *MOVES))),
    ),
    Program(
        "histogram", "how often the last token occurs", _histogram,
        lambda t: str(t.count(t[-1])), outputs=COUNTS,
    ),
    Program(
        "repeated", "whether the last token occurred before", _repeated,
        lambda t: "Y" if t.count(t[-1]) > 1 else "N", outputs=("Y", "N"),
    ),
    Program("reverse", "the last entry of the reversed sequence", _reverse, lambda t: t[0]),
    Program(
        "largest", "the last entry of the sorted sequence", _largest,
        lambda t: max(min(letter, LETTERS[3]) for letter in t if letter <= LETTERS[3]),
    ),
)  # fmt: skip
BY_NAME = {program.name: program for program in PROGRAMS}
