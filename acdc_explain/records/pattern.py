"""The language of patterns: `previous_token -k-> induction[depth<0.5] -*-> name_mover(+)`.

    pattern   = step { arrow step }
    step      = part | "(" part { "|" part } ")" [ sign ] [ where ]
    part      = name [ sign ] [ where ]
    name      = a role | "*" | "head" | "mlp" | "attn" | "input" | "logits" | a node, like a9.h6
    sign      = "(+)" | "(-)"
    where     = "[" condition { "," condition } "]"
    condition = ("depth" | "layer" | "confidence") ("<" | "<=" | ">" | ">=" | "=" | "!=") number
              | ("verdict" | "node") ("=" | "!=") word
              | claim [ "." argument ] [ ("=" | "!=") word ]
    arrow     = "->" | "-" [ "*" ] [ ports ] "->" | "<-" | "<-" [ "*" ] [ ports ] "-"
    ports     = port { "|" port }
    port      = "q" | "k" | "v"

docs/search.md explains what it means.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UserError, nearest
from .circuit import Node, Port
from .verdict import WORST_FIRST

ANY = "*"
KINDS = ("head", "mlp", "attn", "input", "logits")
NUMBERS = ("depth", "layer", "confidence")
WORDS = ("verdict", "node")
MOST_STEPS, MOST_CHARACTERS = 12, 2000

_NAME = re.compile(r"\*|[A-Za-z_][\w.]*")
_SIGN = re.compile(r"\(\s*([+-])\s*\)")
_OPERATOR = re.compile(r"<=|>=|!=|=|<|>")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PORTS = r"(?P<far>\*)?(?P<ports>[qkv](?:\|[qkv])*)?"
_FORWARD = re.compile(rf"-(?:{_PORTS}-)?>")
_BACKWARD = re.compile(rf"<-(?:{_PORTS}-)?")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a node: `depth<0.5`, `verdict=supported`, `attends=IO` or `opposes`.

    `key` is a column or a claim. A claim without an operator may have any arguments.
    """

    key: str
    operator: str = ""
    value: float | str = ""
    at: int = field(default=0, compare=False)

    @property
    def claim(self) -> str | None:
        """The claim or the topic of claims that it names; None for a column."""
        return None if self.key in (*NUMBERS, *WORDS) else self.key.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Part:
    """One alternative of a step. `at` is the position of its name in the text."""

    name: str
    sign: int | None
    conditions: tuple[Condition, ...]
    at: int

    @property
    def role(self) -> str | None:
        """The role that it names; None if it names a kind, a node or anything."""
        return None if self.name == ANY or self.name in KINDS or _is_node(self.name) else self.name


@dataclass(frozen=True, slots=True)
class PatternStep:
    """What a node must be: one of the alternatives in `parts`."""

    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The names of the alternatives."""
        return "|".join(dict.fromkeys(part.name for part in self.parts))

    @property
    def is_end(self) -> bool:  # which every circuit has
        return all(part.name in ("input", "logits") for part in self.parts)


@dataclass(frozen=True, slots=True)
class Arrow:
    """How one step is connected to the next.

    `ports`: those by which the last edge enters its receiver; empty for any. `far`: over any number
    of edges, at least one. `backward`: from the next step to this one.
    """

    ports: tuple[Port, ...] = ()
    far: bool = False
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path through a labeled circuit: `arrows[i]` stands between steps i and i+1."""

    text: str
    steps: tuple[PatternStep, ...]
    arrows: tuple[Arrow, ...]

    @staticmethod
    def parse(text: str) -> Pattern:
        """A pattern from its text. Raises UserError with the position of what is wrong."""
        if len(text) > MOST_CHARACTERS:
            raise UserError(
                f"A pattern has at most {MOST_CHARACTERS} characters; this has {len(text)}."
            )
        reader = _Reader(text)
        steps, arrows = [reader.step()], []
        while not reader.ended:
            arrows.append(reader.arrow())
            steps.append(reader.step())
        if len(steps) > MOST_STEPS:
            raise UserError(f"A pattern has at most {MOST_STEPS} steps; this has {len(steps)}.")
        return Pattern(text, tuple(steps), tuple(arrows))

    @property
    def may_be_more_than_chance(self) -> bool:
        """Whether it connects two components: one alone says nothing of what works together."""
        return sum(not step.is_end for step in self.steps) > 1

    @property
    def roles(self) -> Iterator[tuple[str, int]]:
        """Every role that is named, with its position in the text."""
        for step in self.steps:
            for part in step.parts:
                if part.role is not None:
                    yield part.role, part.at

    @property
    def step_names(self) -> tuple[str, ...]:
        """The names of the steps. From the second time on, a name is numbered: `*`, `*.2`."""
        seen, names = dict[str, int](), []
        for name in (step.name for step in self.steps):
            seen[name] = seen.get(name, 0) + 1
            names.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
        return tuple(names)

    @property
    def claims(self) -> Iterator[tuple[str, int]]:
        """Every claim that a condition names, with its position in the text."""
        for step in self.steps:
            every = (condition for part in step.parts for condition in part.conditions)
            yield from ((one.claim, one.at) for one in every if one.claim is not None)

    def check(self, roles: Collection[str], claims: Collection[str]) -> None:
        """Raises UserError at the first role or claim that is not among the known ones."""
        for role, at in self.roles:
            if role not in roles:
                raise _error(self.text, at, f"there is no role {role!r}", role, [*roles, *KINDS])
        for claim, at in self.claims:
            if claim not in claims:
                raise _unknown_key(self.text, at, claim, sorted(claims))


class _Reader:
    """Reads a pattern; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.skip()

    @property
    def ended(self) -> bool:
        return self.at == len(self.text)

    def skip(self) -> None:
        space = _SPACE.match(self.text, self.at)
        assert space is not None
        self.at = space.end()

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
            self.skip()
        return match

    def literal(self, text: str) -> bool:
        if not self.text.startswith(text, self.at):
            return False
        self.at += len(text)
        self.skip()
        return True

    def wrong(self, expected: str) -> UserError:
        character = "the end" if self.ended else repr(self.text[self.at])
        return _error(self.text, self.at, f"found {character}, expected {expected}")

    def step(self) -> PatternStep:
        if not self.literal("("):
            return PatternStep((self.part(),))
        parts = [self.part()]
        while self.literal("|"):
            parts.append(self.part())
        if not self.literal(")"):
            raise self.wrong("| or )")
        sign, where = self.sign(), self.where()
        parts = [replace(part, conditions=part.conditions + where) for part in parts]
        return PatternStep(tuple(x if sign is None else replace(x, sign=sign) for x in parts))

    def part(self) -> Part:
        at, name = self.at, self.take(_NAME)
        if name is None:
            raise self.wrong("a role, *, head, mlp, input, logits or (")
        if "." in name[0] and not _is_node(name[0]):
            raise _error(self.text, at, f"{name[0]!r} is no node; nodes look like a9.h6 or m3")
        return Part(name[0], self.sign(), self.where(), at)

    def sign(self) -> int | None:
        sign = self.take(_SIGN)
        return None if sign is None else 1 if sign[1] == "+" else -1

    def where(self) -> tuple[Condition, ...]:
        if not self.literal("["):
            return ()
        conditions = [self.condition()]
        while self.literal(","):
            conditions.append(self.condition())
        if not self.literal("]"):
            raise self.wrong(", or ]")
        return tuple(conditions)

    def condition(self) -> Condition:
        at, key = self.at, self.take(_NAME)
        if key is None or key[0] == ANY:
            raise _unknown_key(self.text, at, "")
        operator = self.take(_OPERATOR)
        if operator is None and key[0] in (*NUMBERS, *WORDS):
            raise self.wrong("=, !=, <, <=, > or >=")
        if operator is None:
            return Condition(key[0], at=at)
        if key[0] in NUMBERS:
            number = self.take(_NUMBER)
            if number is None:
                raise self.wrong("a number")
            return Condition(key[0], operator[0], float(number[0]), at)
        if operator[0] not in ("=", "!=") and key[0] not in WORDS:
            raise _unknown_key(self.text, at, key[0])
        if operator[0] not in ("=", "!="):
            raise _error(self.text, at, f"{key[0]} takes = or !=")
        return Condition(key[0], operator[0], self.word(key[0]), at)

    def word(self, key: str) -> str:
        at, word = self.at, self.take(_NAME)
        if word is None:
            raise self.wrong(f"a {key}" if key in WORDS else "a word")
        if key == "verdict" and word[0] not in WORST_FIRST:
            raise _error(self.text, at, f"there is no verdict {word[0]!r}", word[0], WORST_FIRST)
        if key == "node" and not _is_node(word[0]):
            raise _error(self.text, at, f"{word[0]!r} is no node; nodes look like a9.h6 or m3")
        return word[0]

    def arrow(self) -> Arrow:
        forward = self.take(_FORWARD)
        arrow = forward or self.take(_BACKWARD)
        if arrow is None:
            raise self.wrong("an arrow: ->, -q->, -*->, <- or <-k-")
        ports: Any = tuple(dict.fromkeys((arrow["ports"] or "").replace("|", "")))
        return Arrow(ports, arrow["far"] is not None, forward is None)


def _is_node(name: str) -> bool:
    try:
        Node.parse(name)
    except ValueError:
        return False
    return True


def _unknown_key(text: str, at: int, key: str, claims: Sequence[str] = ()) -> UserError:
    known = (*NUMBERS, *WORDS, *claims)
    which = f"one of {', '.join(known)}" if claims else f"{', '.join(known)} or a claim"
    return _error(text, at, f"expected {which}", key, known)


def _error(
    text: str, at: int, problem: str, word: str = "", known: Collection[str] = ()
) -> UserError:
    """The error at a position, with the known word that is most like the one written."""
    shown = text if len(text) <= 80 else text[:77] + "..."
    similar = nearest(word, known) if word else None
    suggestion = f"; did you mean {similar}?" if similar else "."
    problem = problem if len(problem) < 150 else problem[:147] + "..."
    return UserError(f"Pattern {shown!r}, character {at + 1}: {problem}{suggestion}")
