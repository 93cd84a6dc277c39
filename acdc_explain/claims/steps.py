"""The algorithm of a circuit in steps: what is read where, what is done with it, by how many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.contrast import Contrast
from ..records.circuit import Node
from ..records.claim import ClaimResult, ComponentResult, Step
from .effects import joint_effects

MOST_STEPS = 10
MOST_NAMED = 8  # components in a sentence
BACKS_UP = 0.25  # of the summed single effects: what backups add when all are ablated together


@dataclass(frozen=True)
class Job:
    """What some components do alike.

    Attributes:
        at: The position at which they write.
        reads: A verb and what they read or carry there: `reads IO`, `carries S2`; None if unknown.
        does: What they do: `raises`, `lowers`, `turns`, `feeds`, `backs_up` or `opposes`.
        details: What tells the job from others: the logits and their source, the port, or the
            logits and the components that are backed up or opposed.
    """

    at: str
    reads: tuple[str, str] | None
    does: str
    details: tuple[str, ...]


def steps(
    contrast: Contrast, components: Sequence[ComponentResult], claims: Sequence[ClaimResult]
) -> list[Step]:
    """The jobs of the explained components, in the order of positions and layers.

    Args:
        contrast: The held-out prompts, on which groups are ablated.
        components: The components of the circuit, with their effects.
        claims: The tested claims about them.

    Returns:
        At most MOST_STEPS jobs, those of the components with the largest effects, and a last step
        that says what is left out.
    """
    effects = {x.node: x.effect for x in components if x.explained}
    jobs: dict[Job, list[ClaimResult]] = defaultdict(list)
    for node in effects:
        for job, result in _jobs_of([x for x in claims if x.node == node and x.explains]):
            jobs[job].append(result)
    weight = {job: sum(abs(effects[x]) for x in _nodes(some)) for job, some in jobs.items()}
    chosen = sorted(jobs, key=lambda job: -weight[job])[:MOST_STEPS]
    chosen.sort(key=lambda job: _order(contrast, job, _nodes(jobs[job])))
    groups = [_nodes(jobs[job]) for job in chosen]
    together = joint_effects(contrast, groups) if groups else []
    made, ablated = [], set[tuple[Node, ...]]()
    for job, nodes, lost in zip(chosen, groups, together):
        text = _sentence(job, jobs[job])
        if tuple(nodes) not in ablated:
            ablated.add(tuple(nodes))
            text += _cost([effects[node] for node in nodes], lost)
        made.append(Step(text, _cited(jobs[job], claims)))
    return made + _left_out(components, {node for some in groups for node in some})


# --- jobs ---------------------------------------------------------------------------------------


def _jobs_of(claims: Sequence[ClaimResult]) -> list[tuple[Job, ClaimResult]]:
    """What one component does, with the claim that says so; the same job may have several."""
    found = []
    for result in claims:
        arguments, at = result.claim.arguments, result.statement.at
        reads = _reads(claims, at)
        if result.claim.name in ("raises", "lowers"):
            of_logits = (arguments["what"], arguments.get("source") or "")
            found.append((Job(at, reads, result.claim.name, of_logits), result))
        elif result.claim.name in WITHOUT:
            of_others = (arguments["what"], _listed(arguments["components"]))
            found.append((Job(at, reads, result.claim.name, of_others), result))
        elif result.claim.name == "feeds" and arguments["receiver"] != "logits":
            does = "turns" if arguments["key"] else "feeds"
            found.append((Job(at, reads, does, (arguments["port"] or "",)), result))
    return found


def _reads(claims: Sequence[ClaimResult], at: str) -> tuple[str, str] | None:
    """What a component reads at a position: the keys, else the variable that it carries there."""
    verbs = {"attends": ("reads", "to"), "carries": ("carries", "variable")}
    for name, (verb, argument) in verbs.items():
        for result in claims:
            if result.claim.name == name and result.statement.at == at:
                return verb, str(result.claim.arguments[argument])
    return None


def _nodes(claims: Sequence[ClaimResult]) -> list[Node]:
    return list(dict.fromkeys(result.node for result in claims))


def _order(contrast: Contrast, job: Job, nodes: Sequence[Node]) -> tuple[bool, int, float]:
    """What writes to the logits comes last; before it positions, and layers at one position."""
    layers = [node.layer or 0 for node in nodes]
    to_logits = job.does in ("raises", "lowers", *WITHOUT)
    return to_logits, contrast.place_names.index(job.at), sum(layers) / len(layers)


def _cited(some: Sequence[ClaimResult], claims: Sequence[ClaimResult]) -> list[str]:
    """The ids of the claims of a step: what is done, and what is read for it."""
    of_nodes = {(result.node, result.statement.at) for result in some}
    read = [
        x for x in claims
        if (x.node, x.statement.at) in of_nodes and x.topic == "reads" and x.explains
    ]  # fmt: skip
    return [result.claim.id for result in (*read, *some)]


# --- sentences ----------------------------------------------------------------------------------


def _sentence(job: Job, some: Sequence[ClaimResult]) -> str:
    nodes = _nodes(some)
    many = len(nodes) > 1
    reads = ""
    if job.reads is not None:
        verb, what = job.reads
        reads = f" {PLURAL[verb] if many else verb} {what} and"
    return f"At {job.at}, {_listed(nodes)}{reads} {_does(job, some, many)}."


def _cost(alone: Sequence[float], together: float) -> str:
    """What ablations say: of one component, or of a group beside each of it alone."""
    if len(alone) == 1:
        return f" Ablating it costs {together:.0%} of the gap."
    in_all = f"one by one, {sum(alone):.0%} in all"
    text = f" Ablated together they cost {together:.0%} of the gap; {in_all}"
    backed_up = min(together, together - sum(alone)) > BACKS_UP * abs(sum(alone))
    return f"{text}: they back each other up." if backed_up else f"{text}."


def _does(job: Job, some: Sequence[ClaimResult], many: bool) -> str:
    verb = job.does if not many else job.does.removesuffix("s")
    if job.does in ("raises", "lowers"):
        what, source = job.details
        read = job.reads[1] if job.reads else None
        read_from = f", from {source}" if source and source != read else ""
        size = f"{sum(abs(result.value or 0.0) for result in some):.2f} logits"
        return f"{verb} the {what} by {size}{' together' if many else ''}{read_from}"
    if job.does in WITHOUT:
        what, others = job.details
        size = f"{sum(abs(result.value or 0.0) for result in some):.2f} logits"
        if job.does == "opposes":
            return f"{'take' if many else 'takes'} back {size} of what {others} do to the {what}"
        return f"{'raise' if many else 'raises'} the {what} by {size} more without {others}"
    port = PORTS[job.details[0]]
    if job.does == "turns":
        turned: dict[str, list[ClaimResult]] = defaultdict(list)
        for result in some:
            turned[_turn(result)].append(result)
        parts = [f"{_receivers(found)} {_turned(turn, found)}" for turn, found in turned.items()]
        return f"{verb} {'; '.join(parts)}, by the {port}"
    through = f", by the {port}" if port else ""
    return f"{verb} {_receivers(some)}{through} ({_total(some):+.1%} of the gap)"


def _turn(result: ClaimResult) -> str:
    """The attention that a claim says to change, in words."""
    arguments = result.claim.arguments
    sign = "to" if (arguments["by"] or 0) > 0 else "away from"
    return f"from {arguments['query']} {sign} {arguments['key']}"


def _turned(turn: str, some: Sequence[ClaimResult]) -> str:
    sizes = sorted(abs(result.value or 0.0) for result in some)
    low, high = f"{sizes[0]:.2f}", f"{sizes[-1]:.2f}"
    return f"{turn} ({low if low == high else f'{low} to {high}'} of the attention)"


def _receivers(some: Sequence[ClaimResult]) -> str:
    return _listed(list(dict.fromkeys(Node.parse(x.claim.arguments["receiver"]) for x in some)))


def _total(some: Sequence[ClaimResult]) -> float:
    """The share of the gap with its sign, which the claimed one says."""
    signs = [1 if (result.claim.arguments["by"] or 0) > 0 else -1 for result in some]
    return sum(sign * abs(result.value or 0.0) for sign, result in zip(signs, some))


WITHOUT = ("backs_up", "opposes")  # what is done when others are ablated
PLURAL = {"reads": "read", "carries": "carry"}
PORTS = {"q": "query", "k": "key", "v": "value", "": ""}


def _listed(nodes: Sequence[Node | str]) -> str:
    names = [str(node) for node in nodes]
    if len(names) > MOST_NAMED:
        names = [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _left_out(components: Sequence[ComponentResult], told: set[Node]) -> list[Step]:
    """One sentence on what no step speaks of."""
    active = [x for x in components if not x.idle]
    total = sum(abs(x.effect) for x in active)
    left = [x for x in active if x.node not in told]
    if not left or not total:
        return []
    share = sum(abs(x.effect) for x in left) / total
    named = "1 component" if len(left) == 1 else f"{len(left)} components"
    explained = sum(x.explained for x in left)
    text = f"Not told here: {named} with {share:.0%} of the summed effect; {explained} explained."
    return [Step(text, [])]
