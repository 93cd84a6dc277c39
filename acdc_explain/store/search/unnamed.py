"""Claims that explained components without a name share: candidates for new roles.

Positions have other names in every task, so a claim is compared by what its positions are in all
prompts: where the answer token is, an earlier occurrence, the last token. Variables are those of a
task, so `carries` is left out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...records.circuit import Node
from ...records.claim import RELATIONS
from ...records.role import NO_ROLE
from ..duck.connection import Connection

CLAIMS = """
    SELECT runs.id, runs.task, runs.model, c.node, c.claim, c.topic, c.arguments, c.also
    FROM claims AS c JOIN runs ON runs.number = c.run
    JOIN components ON components.run = c.run AND components.node = c.node
    WHERE runs.id IN (SELECT unnest($runs::VARCHAR[])) AND components.explained
    AND c.outcome = 'holds' AND c.specific
    AND c.topic IN ('reads', 'does') AND c.claim <> 'carries'
    AND (c.run, c.node) NOT IN (
        SELECT run, node FROM standings WHERE outcome = 'supported' AND role <> $none)
    ORDER BY runs.task, runs.model, c.place
"""
"""Claims that explain components which have no supported role."""


@dataclass(frozen=True, slots=True)
class Place:
    """A component of a run."""

    run_id: str
    task: str
    model: str
    node: Node


@dataclass(frozen=True, slots=True)
class SharedClaims:
    """What several components without a name read, and what they do."""

    reads: tuple[str, ...]
    does: tuple[str, ...]
    components: tuple[Place, ...]

    @property
    def occurs_in(self) -> tuple[tuple[str, str], ...]:
        """The tasks and models that have such components."""
        return tuple(dict.fromkeys((x.task, x.model) for x in self.components))


def shared_by_unnamed(
    connection: Connection, runs: Sequence[str], at_least: int
) -> list[SharedClaims]:
    """What components without a supported role share, the most widespread first.

    Args:
        connection: To the store.
        runs: The ids of the runs that count: one for each task and model.
        at_least: In so many pairs of task and model.
    """
    rows = connection.execute(CLAIMS, {"runs": list(runs), "none": NO_ROLE}).fetchall()
    said: dict[Place, dict[str, set[str]]] = defaultdict(lambda: {"reads": set(), "does": set()})
    for run_id, task, model, node, claim, topic, arguments, also in rows:
        text = anywhere(claim, json.loads(arguments), json.loads(also or "{}"))
        said[Place(run_id, task, model, Node.parse(node))][topic].add(text)
    makers: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for place, topics in said.items():
        for reads in topics["reads"]:
            for does in topics["does"]:
                makers[reads, does].append(place)
    together: dict[tuple[Place, ...], list[tuple[str, str]]] = defaultdict(list)
    for pair, places in makers.items():
        together[tuple(places)].append(pair)
    found = [
        SharedClaims(_sorted(x for x, _ in pairs), _sorted(x for _, x in pairs), places)
        for places, pairs in together.items()
    ]
    kept = [shared for shared in found if len(shared.occurs_in) >= at_least]
    return sorted(kept, key=lambda x: (-len(x.occurs_in), -len(x.components), x.reads, x.does))


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


def anywhere(claim: str, arguments: Mapping[str, Any], also: Mapping[str, Sequence[str]]) -> str:
    """A claim in words that mean the same in every task, without sizes."""

    def where(argument: str) -> str:
        value = arguments[argument]
        if value == "END" or value in RELATIONS or str(value).startswith("offset"):
            return str(value)
        names = [name for name in also.get(argument, ()) if name != "elsewhere"]
        return " = ".join(names) or "a position"

    if claim == "attends":
        return f"attends to {where('to')}"
    if claim in ("raises", "lowers"):
        source = "" if arguments.get("source") is None else f" from {where('source')}"
        return f"{claim} {arguments['what']}{source}"
    if claim == "feeds":
        return _feeds(arguments)
    if claim in ("backs_up", "opposes"):
        return f"{claim} others on {arguments['what']}"
    return claim


def _feeds(arguments: Mapping[str, Any]) -> str:
    receiver, port = str(arguments["receiver"]), arguments.get("port")
    kind = "logits" if receiver == "logits" else Node.parse(receiver).kind
    turns = " and turns its attention" if arguments.get("query") is not None else ""
    return f"feeds {kind}{f'<{port}>' if port else ''}{turns}"
