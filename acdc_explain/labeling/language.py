"""The claims that a labeler may make about a component, in the names that it is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

from pydantic import ValidationError

from ..llm.session import one_line
from ..records.circuit import LOGITS, Node
from ..records.claim import RELATIONS, Claim
from ..records.graph import END, REST
from ..records.question import Claimable, Question, true_text

T = TypeVar("T")
_READER = re.compile(r"(.*?)(<[qkv]>)?")
NO_NODES = ("answers", "foils", "logits", "metric")  # readers that are no components
NEVER = (None, "")
COMPONENTS = "components"  # the argument of a claim that is a list of components


class Language:
    """What may be claimed about the component of a question.

    Blind names of positions are P1, P2 ... in their order, those of variables V1, V2 ...; END and
    `rest` say nothing of a task and keep theirs. Components have the names of the question.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        behavior = question.behavior
        pair = None if behavior is None else behavior.pair
        places = [*dict.fromkeys((*question.position_names, END))]
        if pair is not None:
            places = pair.place_names
        blind = question.model is None
        self.places = _numbered("P", places, blind)
        self.variables = _numbered("V", [] if pair is None else sorted(pair.variables), blind)
        self._nodes = {name: node for node, name in question.shown.items()}

    # --- what may be claimed -------------------------------------------------------------------

    @property
    def kinds(self) -> dict[str, Claimable]:
        """The kinds of claims that can be about a component of this kind."""
        kind = self._question.node.kind
        return {name: k for name, k in self._question.kinds.items() if kind in k.kinds}

    @cached_property
    def vocabulary(self) -> dict[str, list[str | None]]:
        """By argument: the values that make sense for this component, in shown names."""
        places: list[str | None] = [*self.places.values()]
        own = _order(self._question.node)
        receivers = [name for name, node in self._nodes.items() if _order(node) > own]
        return {
            "at": places,
            "to": [*places, *RELATIONS],
            "source": [*places, None],
            "query": [*places, None],
            "key": [*places, None],
            "variable": [*self.variables.values()],
            "receiver": [*receivers, str(LOGITS)],
            "through": [*self._readers, *NO_NODES],
            COMPONENTS: [name for name, node in self._nodes.items() if node != self._question.node],
        }

    @property
    def _readers(self) -> list[str]:
        """The ports of the components that the circuit's edges lead to."""
        readers: dict[str, None] = {}
        for edge in sorted(self._question.outputs, key=lambda edge: -abs(edge.effect)):
            if (name := self._question.shown.get(edge.dst.base)) is not None:
                readers[f"{name}<{edge.port}>" if edge.port else name] = None
        return list(readers)

    def schemas(self) -> list[dict[str, Any]]:
        """The JSON schema of each kind of claim, with its name as `claim`."""
        schemas = []
        for name, kind in self.kinds.items():
            properties: dict[str, Any] = {"claim": {"enum": [name]}}
            for argument, schema in kind.arguments.model_json_schema()["properties"].items():
                properties[argument] = self._schema(argument, schema)
            if all(x.get("items", x).get("enum") != [] for x in properties.values()):
                schemas.append(
                    {
                        "type": "object",
                        "properties": properties,
                        "required": list(properties),
                        "additionalProperties": False,
                    }
                )
        return schemas

    def _schema(self, argument: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        """That of one argument, with an enum of the values that make sense if they are known."""
        if argument not in self.vocabulary:
            return _bare(schema)
        known = {"enum": self.vocabulary[argument]}
        return {**_bare(schema), "items": known} if argument == COMPONENTS else known

    # --- from the shown names to the true ones, and back ----------------------------------------

    def claim(self, entry: Mapping[str, Any]) -> Claim:
        """The claim of an entry that fits one of the schemas.

        Args:
            entry: The name of a kind as `claim`, and its arguments in shown names.

        Raises:
            ValueError: It is none; the text says why.
        """
        name, node = str(entry.get("claim")), self._question.node
        kind = self._question.kinds.get(name)
        if kind is None or node.kind not in kind.kinds:
            raise ValueError(f"there is no claim {name!r} about a component of this kind")
        arguments = {x: self._true(x, value) for x, value in entry.items() if x != "claim"}
        try:
            return kind.claim(node, name, arguments)
        except ValidationError as problem:
            raise ValueError(f"claim {name}: {one_line(problem)}") from problem

    def _true(self, argument: str, value: Any) -> Any:
        """The value of an argument in true names. Raises ValueError for an unknown one."""
        if argument not in self.vocabulary or value in NEVER:
            return None if argument in self.vocabulary else value
        if argument == COMPONENTS:
            return [_known(self._true_names, argument, name) for name in value]
        known = {**back(self.places), **{name: name for name in RELATIONS}}
        if argument == "variable":
            known = back(self.variables)
        elif argument in ("receiver", "through"):
            name, port = _name_and_port(str(value))
            known = self._true_names | ({x: x for x in NO_NODES} if not port else {})
            return _known(known, argument, name) + port
        return _known(known, argument, value)

    @cached_property
    def _true_names(self) -> dict[str, str]:
        """The names of the components by the shown ones."""
        return {x: str(node) for x, node in self._nodes.items()}

    def says(self, claim: Claim) -> str:
        """A claim in words, in shown names."""
        arguments = {x: self._shown(x, value) for x, value in claim.arguments.items()}
        return self._question.kinds[claim.name].says(arguments)

    def _shown(self, argument: str, value: Any) -> Any:
        if argument == "variable":
            return self.variables.get(value, value)
        shown = back(self._true_names)
        if argument == COMPONENTS:
            return [shown.get(name, "another component") for name in value]
        if argument in ("receiver", "through") and value is not None:
            name, port = _name_and_port(str(value))
            return shown.get(name, name if name in NO_NODES else "another component") + port
        return self.places.get(value, value) if argument in self.vocabulary else value

    def true_text(self, text: str) -> str:
        """A text with the true names of components, positions and variables."""
        others = back(self.places) | back(self.variables)
        return true_text(text, self._question.shown, others)


def _name_and_port(reader: str) -> tuple[str, str]:
    """The name of a reader, and its port in angle brackets if it has one."""
    match = _READER.fullmatch(reader)
    return (match[1], match[2] or "") if match else (reader, "")


def _numbered(letter: str, names: list[str], blind: bool) -> dict[str, str]:
    """The shown name of each place or variable."""
    numbered = [name for name in names if name not in (END, REST)]
    shown = {name: f"{letter}{number}" for number, name in enumerate(numbered, 1)}
    return {name: shown.get(name, name) if blind else name for name in names}


def back(shown: Mapping[str, str]) -> dict[str, str]:
    """The true names by the shown ones."""
    return {name: true for true, name in shown.items()}


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without what an LLM does not need to reply."""
    return {x: y for x, y in schema.items() if x not in ("title", "description", "default")}


def named(known: Mapping[str, T], what: str, name: str) -> T:
    """What has a name. Raises ValueError where nothing has it."""
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}")
    return known[name]


def _known(known: Mapping[str, str], argument: str, value: Any) -> str:
    """The true name. Raises ValueError for a name that is not shown."""
    if value not in known:
        raise ValueError(f"{value!r} cannot be {argument!r} of a claim about this component")
    return known[value]


def _order(node: Node) -> tuple[int, bool]:
    """Where a component stands: what it reads comes before."""
    return node.layer or 0, node.kind == "mlp"
