"""One clean prompt beside its corruption, token by token, and what its places have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..graph import END, REST

Relation = tuple[str, str | None]
"""What is true of a place in every prompt, and the other place that it is said of, if any."""
RELATIONS = ("answer", "foil", "changed", "same", "after")


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of prompts of a task, as an example of all of them.

    Attributes:
        clean, corrupt: The tokens of the prompts.
        answers, foils: The right next tokens, and the wrong ones they are compared with.
        places: By name, the numbers of the tokens of each place.
        relations: By place: `answer` or `foil` if it holds one; `changed` if the corruption has
            another token there; `same` as, or the token `after`, an earlier place. Each is true in
            every prompt.
        variables: By variable, the places whose token is another one in some prompt of it.
    """

    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    answers: tuple[str, ...]
    foils: tuple[str, ...]
    places: Mapping[str, Sequence[int]]
    relations: Mapping[str, Sequence[Relation]]
    variables: Mapping[str, Sequence[str]]

    @property
    def place_names(self) -> list[str]:
        """The places: `rest`, then by their first token, END last. JSON keeps no order."""
        first = {name: min(numbers, default=0) for name, numbers in self.places.items()}
        return sorted(first, key=lambda name: (name == END, name != REST, first[name], name))

    @staticmethod
    def parse(entry: Mapping[str, Any]) -> Pair:
        """A pair from its JSON form. Raises KeyError, TypeError, ValueError."""
        pair = Pair(
            clean=tuple(map(str, entry["clean"])),
            corrupt=tuple(map(str, entry["corrupt"])),
            answers=tuple(map(str, entry["answers"])),
            foils=tuple(map(str, entry["foils"])),
            places={str(name): tuple(map(int, at)) for name, at in entry["places"].items()},
            relations={
                str(name): tuple((str(what), other) for what, other in some)
                for name, some in entry["relations"].items()
            },
            variables={str(n): tuple(map(str, some)) for n, some in entry["variables"].items()},
        )
        numbers = [number for at in pair.places.values() for number in at]
        if len(pair.clean) != len(pair.corrupt) or any(
            not 0 <= number < len(pair.clean) for number in numbers
        ):
            raise ValueError("pair: its places must be tokens of both prompts")
        named = [x for some in pair.relations.values() for _, x in some if x is not None]
        named += [*pair.relations, *(x for some in pair.variables.values() for x in some)]
        if unknown := set(named) - pair.places.keys():
            raise ValueError(f"pair: there is no place {min(unknown)[:40]!r}")
        return pair
