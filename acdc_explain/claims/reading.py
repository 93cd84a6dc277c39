"""What the tests of several kinds of claims have in common."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..evidence.measurement import Measurement, NotMeasurable
from ..evidence.patching.edges import Response, tokens_at
from ..evidence.patching.passes import clean_pass
from ..models.contrast import Contrast
from ..records.claim import Claim
from .checks import Check, measured
from .keys import keys_at
from .paths import (
    CORRUPT,
    METRIC,
    RANDOM_KEYS,
    Path,
    Source,
    parse_reader,
    path_effects,
    require_place,
)

SURE = 2.5  # standard errors by which a share of the gap must differ from zero
SILENT = 0.5  # of the effect under the task's corruption; a smaller one is no vote
NULL_SENDERS = 30  # other components that are measured at the same reader
FEW_SENDERS = 5  # of a kind: too few to say that a claim is true of few


def path_of(contrast: Contrast, claim: Claim) -> Path:
    """The path through which a claim's effect is measured. Raises NotMeasurable."""
    at = claim.arguments["at"]
    require_place(contrast, at)
    if "to" in claim.arguments:
        keys_at(contrast, at, claim.arguments["to"])
    try:
        receiver, port = parse_reader(claim.arguments["through"])
    except ValueError as reason:
        raise NotMeasurable(f"{claim.arguments['through']!r} is no reader: {reason}") from reason
    return checked(contrast, Path(claim.node, at, receiver, port))


def checked(contrast: Contrast, path: Path) -> Path:
    """The path itself. Raises NotMeasurable if the model has no such path."""
    graph = contrast.model.graph
    is_logits = path.receiver.kind == "logits"
    known = is_logits or path.receiver in graph.writer_index
    if not known or (not is_logits and (path.receiver.kind == "head") != (path.port is not None)):
        raise NotMeasurable(f"the model has no reader {path.reader}")
    if not graph.reads(path.receiver, path.sender):
        raise NotMeasurable(f"{path.reader} does not come after {path.sender}")
    if is_logits and path.port != METRIC and path.at != contrast.place_names[-1]:
        raise NotMeasurable(f"the logits read nothing at {path.at}")
    return path


def effect_at(
    contrast: Contrast, path: Path, prompts: str
) -> Callable[[Response], Float[Tensor, " sample"]]:
    """How to tell how much of a path's effect another response of its reader has.

    It is the share of the gap. Where that is not surely different from zero and the attention
    changes, it is the change of attention along the mean change that the whole path makes.
    """
    whole = path_effects(contrast, [(path, Source(prompts))])[path, Source(prompts)]
    share = whole.share.sum(1).double()
    error = float(share.std()) / len(share) ** 0.5
    along = None if whole.attention is None else whole.attention.double().mean(0)

    def effect(response: Response) -> Tensor:
        if along is None or response.attention is None or abs(float(share.mean())) > SURE * error:
            return response.share.sum(1).double()
        return (response.attention.double() * along).sum((1, 2))

    return effect


def untouched(effect: Tensor, usual: Tensor) -> str | None:
    """Why a corruption has no say: next to nothing of the effect under the task's own is left.

    A share of an effect that is not there means nothing.
    """
    if abs(float(effect.mean())) > SILENT * abs(float(usual.mean())):
        return None
    return "under this corruption nothing of it reaches there"


def testable(
    contrast: Contrast, claims: Sequence[Claim], path_of: Callable[[Contrast, Claim], Path]
) -> tuple[dict[int, Path], list[Sequence[Check] | str]]:
    """The paths of the claims that can be tested, by number, and why each other one cannot."""
    paths: dict[int, Path] = {}
    answers: list[Sequence[Check] | str] = [[] for _ in claims]
    for number, claim in enumerate(claims):
        try:
            paths[number] = path_of(contrast, claim)
        except NotMeasurable as reason:
            answers[number] = str(reason)
    return paths, answers


def kept_shares(
    contrast: Contrast,
    claims: Sequence[Claim],
    path_of: Callable[[Contrast, Claim], Path],
    prompts: str,
    kept: Callable[[Claim], Source],
) -> tuple[dict[int, Path], list[Sequence[Check] | str], dict[int, Measurement]]:
    """How much of each effect is left if the sender keeps a part of what it writes.

    Args:
        contrast: The prompts.
        claims: What is claimed.
        path_of: The path that a claim speaks of.
        prompts: The corruption whose effect is the whole.
        kept: What the sender of a claim writes when it keeps the part; with a seed, a random one.

    Returns:
        The paths of the claims that can be tested, by number; why each other one cannot be, or why
        the corruption has no say; and the shares, by number.
    """
    paths, answers = testable(contrast, claims, path_of)
    sources = {number: _kept_and_random(kept(claims[number])) for number in paths}
    usual = (Source(CORRUPT), Source(prompts))
    wanted = [(path, x) for number, path in paths.items() for x in (*usual, *sources[number])]
    effects = path_effects(contrast, wanted)  # all at once
    shares: dict[int, Measurement] = {}
    for number, path in paths.items():
        amount = effect_at(contrast, path, CORRUPT)
        whole = amount(effects[path, Source(prompts)])
        if (reason := untouched(whole, amount(effects[path, Source(CORRUPT)]))) is not None:
            answers[number] = reason
            continue
        mean = whole.mean()
        left, *chance = ((whole - amount(effects[path, x])) / mean for x in sources[number])
        control = [torch.stack(chance).mean(0)]
        shares[number] = measured("kept", [path.sender], [left], control, whole / mean)
    return paths, answers, shares


def _kept_and_random(source: Source) -> list[Source]:
    """What keeps a part, and what keeps random ones."""
    return [source, *(replace(source, seed=seed) for seed in range(RANDOM_KEYS))]


def attention_to(contrast: Contrast, at: str, to: str) -> Measurement:
    """Attention of every head from a place to keys; the control is as many other keys."""
    return contrast.once(_attention_to, at, to)


def _attention_to(contrast: Contrast, at: str, to: str) -> Measurement:
    keys, tokens = keys_at(contrast, at, to), contrast.once(tokens_at, at)
    clean, graph = contrast.once_for_clean(clean_pass), contrast.model.graph
    valid = tokens.valid.float()
    n_keys = keys.sum(2).float()
    n_others = (tokens.index + 1 - n_keys).clamp_min(1)
    samples: list[Tensor] = []
    control: list[Tensor] = []
    for head in graph.heads:
        mass = (tokens.of(clean.pattern(head)) * keys).sum(2)
        other = (1 - mass) * n_keys / n_others
        samples.append((mass * valid).sum(1) / valid.sum(1))
        control.append((other * valid).sum(1) / valid.sum(1))
    values, chances = (list(torch.stack(some).cpu()) for some in (samples, control))
    return measured(f"attention to {to}", graph.heads, values, chances)


def measure_others(contrast: Contrast, wanted: Sequence[tuple[Path, Source]]) -> None:
    """Measure paths and those of other senders all at once, so that each source is run once."""
    path_effects(
        contrast, [(one, source) for path, source in wanted for one in _with_others(contrast, path)]
    )


def of_others(
    contrast: Contrast,
    path: Path,
    source: Source,
    value: Callable[[Response], Tensor],
    *,
    alone: bool = False,
) -> Measurement:
    """A measure of a path, and of the same path of other senders of the kind.

    Args:
        contrast: The prompts.
        path: Of the component.
        source: What senders write instead.
        value: From a response to the samples of the measure.
        alone: Without the other senders.
    """
    paths = [path] if alone else _with_others(contrast, path)
    nodes = [one.sender for one in paths]
    effects = path_effects(contrast, [(one, source) for one in paths])
    samples = [value(effects[one, source]).double() for one in paths]
    zero = [torch.zeros_like(x) for x in samples]
    return measured(f"effect on {path.reader}", nodes, samples, zero)


def _with_others(contrast: Contrast, path: Path) -> list[Path]:
    """A path, and that of some other senders: the same for every such claim.

    They are of the sender's kind, as long as there are enough of it; else of any kind.
    """
    graph = contrast.model.graph
    all_senders = [x for x in graph.writers[: graph.n_senders(path.receiver)] if x.kind != "input"]
    senders = [node for node in all_senders if node.kind == path.sender.kind]
    if len(senders) <= FEW_SENDERS:
        senders = all_senders
    chosen = random.Random(f"{path.reader} {path.at}").sample(
        senders, min(NULL_SENDERS, len(senders))
    )
    nodes = [path.sender, *(node for node in chosen if node != path.sender)]
    return [Path(node, path.at, path.receiver, path.port) for node in nodes]
