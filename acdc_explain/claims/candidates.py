"""Which claims are worth testing: those that measurements on the prompts suggest.

For every component: the readers that its kept edges change most surely, the variables that it
passes on to them, the keys that it attends to, and the logits that it writes to.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..evidence.measurement import NotMeasurable
from ..evidence.measures import measure
from ..evidence.mlps import likely_neurons
from ..evidence.patching.direct import WHATS
from ..evidence.variables import variable_names
from ..hookspecs import ClaimKind
from ..models.contrast import Contrast
from ..records.circuit import LOGITS, Circuit, Node
from ..records.claim import Claim
from ..records.role import COPIED, MAPPED, OF_THE_TOKEN
from .effects import lost_by_place
from .keys import keys_at
from .paths import CORRUPT, Path, Source, corrupted_pass, path_effects
from .readers import (
    READERS,
    Reader,
    by_all_paths,
    chief_readers,
    kept_paths,
    measure_paths,
    readers_of,
    turn_of,
)
from .reading import SURE, attention_to, effect_at
from .sources import direct_from, without_main_writers

LEAST_LOGITS = 0.05
AT_ONE_PLACE = 0.85  # of the effect
LEAST_ATTENTION = 0.05
LEAST_SHIFT = 0.0025  # of attention, by one sender
SOURCES = 2  # of direct effects, of one head
KEYS = 3  # of one head at one place
BY_NEURONS = 0.5  # of an MLP's effect, to first order
WEIGHTS: Sequence[tuple[str, str, float, Mapping[str, object]]] = (
    ("copying", "copies", COPIED, {}),
    ("negative_copying", "suppresses", COPIED, {}),
    *((measure, "maps", least, {"relation": name}) for name, (measure, least) in MAPPED.items()),
)
"""Measures, and the claims that large values suggest."""


def candidates(
    contrast: Contrast, circuit: Circuit, nodes: Iterable[Node], kinds: Mapping[str, ClaimKind]
) -> list[Claim]:
    """Claims about components of a circuit that measurements suggest, the strongest first.

    Args:
        contrast: The discovery prompts.
        circuit: Its edges say whom a component may feed.
        nodes: Components of the circuit.
        kinds: The kinds of claims that may be made.

    Raises:
        NotMeasurable: The layers of the model cannot be computed as functions.
    """
    components = list(nodes)
    direct = {node: _direct(contrast, node) for node in components}
    paths = kept_paths(contrast, circuit, components)
    to_logits = {node: _to_logits_of(contrast, node, direct[node]) for node in components}
    measure_paths(contrast, [*paths.values(), *to_logits.values()], [Source()])
    readers = {node: chief_readers(readers_of(contrast, some)) for node, some in paths.items()}
    outlets = {x: [*readers_of(contrast, to_logits[x]), *readers[x][:READERS]] for x in components}
    in_all = by_all_paths(contrast, [x for x in components if x.kind == "head" and not outlets[x]])
    variables = [Source(name) for name in variable_names(contrast)]
    measure_paths(contrast, [[r.path for r in some] for some in outlets.values()], variables)
    without_main = _when_main_writers_are_gone(contrast, components)
    claims = []
    for node in components:
        made = [
            *(_acts(contrast, node) or [_acts_at(reader) for reader in in_all[node][:1]]),
            *_directly(direct[node]),
            *direct[node],
            *(_feeds(contrast, reader) for reader in readers[node]),
            *_attends(contrast, node, outlets[node] or in_all[node]),
            *_carries(contrast, outlets[node]),
            *_computes(contrast, node, outlets[node]),
            *without_main[node],
            *_by_weights(contrast, node, [*direct[node], *without_main[node]]),
        ]
        claims += [
            kinds[name].claim(node, name, arguments) for name, arguments in made if name in kinds
        ]
    return claims


Made = tuple[str, Mapping[str, object]]  # the name of a claim and its arguments


# --- where it acts -----------------------------------------------------------------------------


def _acts(contrast: Contrast, node: Node) -> list[Made]:
    """The place that has nearly all of its effect, to first order, if there is one."""
    lost = contrast.once(lost_by_place, node)
    share = lost.mean(1) / lost.mean(1).sum()
    error = lost.sum(0).std() / len(contrast) ** 0.5
    best = int(share.argmax())
    if (
        abs(lost.sum(0).mean()) < SURE * error
        or not AT_ONE_PLACE <= share[best] <= 2 - AT_ONE_PLACE
    ):
        return []
    return [("acts", {"at": contrast.place_names[best]})]


def _acts_at(reader: Reader) -> Made:
    return "acts", {"at": reader.path.at}


# --- whom it feeds -----------------------------------------------------------------------------


def _feeds(contrast: Contrast, reader: Reader) -> Made:
    """What the path does at its receiver, in attention where the attention surely changes."""
    path, arguments = reader.path, dict[str, object]()
    if path.receiver == LOGITS:
        return _to_logits(reader)
    arguments = {"receiver": str(path.receiver), "port": path.port, "at": path.at}
    size, query, key, by = turn_of(reader.response)
    if size > LEAST_SHIFT:
        places = contrast.place_names
        turn = {"query": places[query], "key": places[key], "by": round(by, 4)}
        return "feeds", {**arguments, **turn}
    return "feeds", {**arguments, "by": round(reader.mean, 5)}


def _to_logits(reader: Reader) -> Made:
    arguments: dict[str, object] = {"receiver": "logits", "at": reader.path.at}
    return "feeds", {**arguments, "by": round(reader.mean, 5)}


# --- what it carries ---------------------------------------------------------------------------


def _carries(contrast: Contrast, readers: Sequence[Reader]) -> list[Made]:
    """The variable that makes most of the effect on each reader."""
    variables = variable_names(contrast)
    paths = [reader.path for reader in readers]
    effects = path_effects(contrast, [(p, Source(name)) for p in paths for name in variables])
    made: list[Made] = []
    for reader in readers:
        amount = effect_at(contrast, reader.path, CORRUPT)
        whole = float(amount(reader.response).mean())
        shares = {
            name: float(amount(effects[reader.path, Source(name)]).mean()) / (whole or 1.0)
            for name in variables
        }
        near_one = min(shares, key=lambda name: abs(shares[name] - 1), default=None)
        if near_one is not None and shares[near_one] >= 0.5:
            path = reader.path
            by = round(reader.mean * shares[near_one], 5) if reader.sure else None
            arguments = {"variable": near_one, "at": path.at, "through": path.reader, "by": by}
            made.append(("carries", arguments))
    return made


# --- what it attends to ------------------------------------------------------------------------


def _attends(contrast: Contrast, node: Node, readers: Sequence[Reader]) -> list[Made]:
    """The keys with most attention at the places where it writes what is read."""
    made: list[Made] = []
    if node.kind != "head":
        return made
    at_places = dict.fromkeys(reader.path.at for reader in readers)
    for at in at_places:
        through = next(reader.path.reader for reader in readers if reader.path.at == at)
        mass = {to: attention_to(contrast, at, to).value(node) for to in _targets(contrast, at)}
        strongest = sorted(mass, key=lambda to: -mass[to])[:KEYS]
        made += [
            ("attends", {"at": at, "to": to, "through": through})
            for to in strongest
            if mass[to] >= LEAST_ATTENTION
        ]
    return made


def _targets(contrast: Contrast, at: str) -> list[str]:
    """The places and relations that every prompt has before a place, each set of keys once."""
    found: dict[bytes, str] = {}
    for to in (*contrast.place_names, "previous", "duplicate", "continuation", "first", "itself"):
        try:
            keys = keys_at(contrast, at, to)
        except NotMeasurable:
            continue
        found.setdefault(keys.cpu().numpy().tobytes(), to)
    return list(found.values())


# --- what an MLP computes from, what a head's weights do ----------------------------------------


def _computes(contrast: Contrast, node: Node, readers: Sequence[Reader]) -> list[Made]:
    """That an MLP reads the token alone, and by which neurons it acts, where it may be so."""
    made: list[Made] = []
    for reader in readers if node.kind == "mlp" else ():
        path = reader.path
        arguments: dict[str, object] = {"at": path.at, "through": path.reader}
        with contextlib.suppress(NotMeasurable):
            if measure("token_share", contrast).value(node) >= OF_THE_TOKEN:
                made.append(("reads_token", arguments))
            few, share = likely_neurons(contrast, corrupted_pass(contrast), node, path.at)
            if share >= BY_NEURONS:
                made.append(("neurons", {**arguments, "neurons": few}))
    return made


def _by_weights(contrast: Contrast, node: Node, writes: Sequence[Made]) -> list[Made]:
    """What the weights of a head that writes to the logits do with what it attends to."""
    made: list[Made] = []
    for measure_name, name, least, arguments in WEIGHTS if node.kind == "head" and writes else ():
        with contextlib.suppress(NotMeasurable):
            if measure(measure_name, contrast).value(node) >= least:
                made.append((name, arguments))
    return made


# --- what it writes to the logits --------------------------------------------------------------


def _directly(direct: Sequence[Made]) -> list[Made]:
    """Whatever writes to the logits may do all it does there."""
    return [("directly", {})] if direct else []


def _direct(contrast: Contrast, node: Node) -> list[Made]:
    """The largest sure effects on answers and foils, by where they come from."""
    made: list[tuple[float, Made]] = []
    sources: Sequence[str | None] = contrast.place_names if node.kind == "head" else (None,)
    for what in WHATS:
        for source in sources:
            try:
                measurement = direct_from(contrast, node.kind, what, source, 1)
            except NotMeasurable:
                continue
            value, (above, below) = measurement.value(node), measurement.beyond_chance(node)
            if abs(value) >= LEAST_LOGITS and (above[0] > 0 or below[0] > 0):
                name = "raises" if value > 0 else "lowers"
                arguments = {"what": what, "source": source, "by": round(abs(value), 4)}
                made.append((abs(value), (name, arguments)))
    made.sort(key=lambda pair: -pair[0])
    return [one for _, one in made[:SOURCES]]


def _to_logits_of(contrast: Contrast, node: Node, direct: Sequence[Made]) -> list[Path]:
    """The logits that a component writes to, as readers of it."""
    end, written = contrast.place_names[-1], {arguments["what"] for _, arguments in direct}
    return [Path(node, end, LOGITS, what) for what in WHATS if what in written]


# --- what others leave to it -------------------------------------------------------------------


def _when_main_writers_are_gone(
    contrast: Contrast, nodes: Sequence[Node]
) -> dict[Node, list[Made]]:
    """What components do directly, more or less than before, when the main writers are ablated."""
    made: dict[Node, list[Made]] = defaultdict(list)
    for what in WHATS:
        try:
            main, changes = contrast.once(without_main_writers, tuple(nodes), what)
        except NotMeasurable:
            continue
        arguments = {"components": [str(x) for x in main], "what": what}
        for change in changes:
            if change.mean < max(LEAST_LOGITS, SURE * change.error):
                continue
            if change.own < -LEAST_LOGITS:
                made[change.node].append(("opposes", arguments))
            elif change.own > -LEAST_LOGITS and change.raises:
                made[change.node].append(("backs_up", arguments))
    return made
