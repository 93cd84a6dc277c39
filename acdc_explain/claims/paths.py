"""Path effects: a sender's output at one place, changed for one port of one receiver.

Each is measured once per contrast. Those of one corruption are measured together, so that only the
clean run and few others are in memory.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import UserError
from ..evidence.measurement import NotMeasurable
from ..evidence.mlps import neuron_change, neurons_of, token_change
from ..evidence.patching.edges import (
    Change,
    Response,
    changes,
    kept_change,
    respond,
    tokens_at,
    unit,
)
from ..evidence.patching.gradients import stream_gradients
from ..evidence.patching.passes import LatestPasses, Pass, clean_pass, pass_of
from ..evidence.patching.paths import PathPatching, exact_pass
from ..evidence.patching.rerun import Patch, Rerun, metric_lost
from ..evidence.variables import variable_names, variable_prompts
from ..models.activations import Batch
from ..models.contrast import Contrast
from ..records.circuit import LOGITS, Edge, Node
from .keys import keys_at

CORRUPT = "corrupt"  # the task's own corruption
METRIC = "metric"  # the port of the logits that stands for all ways to the metric together
NUMBERS = 4_000_000  # of changed streams at a time, to bound memory
MOST_VARIANTS = 64  # senders at a time
RANDOM_KEYS = 3  # sets of random keys, neurons or tokens to compare with


@dataclass(frozen=True, slots=True)
class Path:
    """A sender that writes at a place, and a port of a receiver that reads it there.

    `port`: q, k or v of a head; of the logits answers, foils, None for the metric, or METRIC for
    the metric by all paths.
    """

    sender: Node
    at: str
    receiver: Node
    port: str | None

    @property
    def reader(self) -> str:
        """The receiver and its port: `a23.h3<q>`, `m5`, `logits`."""
        return reader_name(self.receiver, self.port)


@dataclass(frozen=True, slots=True)
class Source:
    """What the sender writes instead.

    Attributes:
        prompts: The prompts that its output is taken from: `corrupt`, a scheme, or a variable.
        keys: Of a head that still reads some keys of the clean prompts: which. See `keys_at`.
        neurons: Of an MLP of which some neurons still compute what they do: which.
        token: Whether an MLP writes what it writes on average for the token, instead.
        seed: With a number, as many random keys or neurons instead, or the token of another prompt.
    """

    prompts: str = CORRUPT
    keys: str | None = None
    neurons: tuple[int, ...] = ()
    token: bool = False
    seed: int | None = None


def reader_name(receiver: Node, port: str | None) -> str:
    """The name of a receiver with its port; that of the port alone for the logits."""
    if receiver == LOGITS:
        return port or str(LOGITS)
    return str(receiver) if port is None else f"{receiver}<{port}>"


def parse_reader(name: str) -> tuple[Node, str | None]:
    """The receiver and the port of a name. Raises ValueError."""
    if name in (str(LOGITS), "answers", "foils", METRIC):
        return LOGITS, None if name == str(LOGITS) else name
    edge = Edge.parse(f"input->{name}")
    return edge.dst, edge.port


def prompts_of(contrast: Contrast, name: str) -> Batch:
    """The prompts of a corruption: `corrupt`, a scheme, or a variable."""
    if name == CORRUPT:
        return contrast.corrupt
    if name in variable_names(contrast):
        return contrast.once(variable_prompts, name)
    return contrast.schemes[name].corrupt


Wanted = tuple[Path, Source]


def path_effects(contrast: Contrast, wanted: Iterable[Wanted]) -> Mapping[Wanted, Response]:
    """The responses of receivers; those measured before are not measured again.

    Args:
        contrast: The prompts.
        wanted: Paths, each with what its sender writes instead.

    Raises:
        NotMeasurable: The layers of the model cannot be computed as functions, or a claim speaks
            of a place or of keys that the prompts do not have.
    """
    known = contrast.once(_known)
    missing = [item for item in dict.fromkeys(wanted) if item not in known]
    by_prompts: dict[str, list[Wanted]] = defaultdict(list)
    for path, source in missing:
        by_prompts[source.prompts].append((path, source))
    for prompts, items in by_prompts.items():
        other = pass_of(contrast, prompts_of(contrast, prompts))
        by_reader: dict[tuple[Node, str | None, str], list[Wanted]] = defaultdict(list)
        for path, source in items:
            by_reader[path.receiver, path.port, path.at].append((path, source))
        for (receiver, port, at), group in by_reader.items():
            most = _most_variants(contrast, at)
            for start in range(0, len(group), most):
                part = group[start : start + most]
                change = _changes(contrast, other, at, part)
                if port == METRIC:
                    response = _by_all_paths(contrast, at, [x.sender for x, _ in part], change)
                else:
                    response = respond(contrast, receiver, port, at, change)
                known.update(zip(part, _each(response)))
    return known


def _most_variants(contrast: Contrast, at: str) -> int:
    """How many senders are changed at a time at a place."""
    numbers = contrast.once(tokens_at, at).index.numel() * contrast.model.d_model
    return max(1, min(MOST_VARIANTS, NUMBERS // numbers))


def _by_all_paths(contrast: Contrast, at: str, senders: Sequence[Node], change: Change) -> Response:
    """What is lost of the metric when each sender writes something else, by no path in particular.

    The loss stands at the last place.
    """
    clean, tokens = contrast.once_for_clean(clean_pass), contrast.once(tokens_at, at)
    places = contrast.place_names
    mask = contrast.place_masks(places)[places.index(at)]
    patches = []
    for sender, added in zip(senders, change):
        output = clean.written(sender).clone()
        rows = torch.arange(len(output), device=output.device)[:, None].expand_as(tokens.index)
        output[rows[tokens.valid], tokens.index[tokens.valid]] += added[tokens.valid]
        patches.append(Patch({sender: output}, mask & contrast.clean.within))
    lost = metric_lost(contrast, patches)
    share = torch.zeros(*lost.shape, len(places), dtype=lost.dtype, device=lost.device)
    share[..., -1] = lost / unit(contrast)
    return Response(share)


def _known(contrast: Contrast) -> dict[Wanted, Response]:
    return {}


def corrupted_pass(contrast: Contrast) -> Pass:
    """The run of the corrupted prompts."""
    return pass_of(contrast, contrast.corrupt)


def release(contrast: Contrast) -> None:
    """Drop the runs of the model that tests of claims keep: they are large."""
    contrast.forget(LatestPasses, clean_pass, exact_pass, PathPatching, stream_gradients, Rerun)


def _each(response: Response) -> list[Response]:
    """The response to each variant, on the CPU."""
    share, attention = response.share.cpu(), response.attention
    shifts = [None] * len(share) if attention is None else list(attention.cpu())
    return [Response(one, shift) for one, shift in zip(share, shifts)]


def _changes(
    contrast: Contrast, other: Pass, at: str, wanted: Sequence[Wanted]
) -> Float[Tensor, "variant batch token d_model"]:
    """What each sender writes instead, minus what it writes."""
    parts = []
    for path, source in wanted:
        if source.token:
            parts.append(token_change(contrast, path.sender, at, source.seed))
        elif source.neurons:
            parts.append(
                neuron_change(
                    contrast, other, path.sender, at, _neurons(contrast, path.sender, source)
                )
            )
        elif source.keys is None:
            parts.append(changes(contrast, other, [path.sender], at)[0])
        else:
            keys = keys_at(contrast, at, source.keys)
            if source.seed is not None:
                keys = _random(contrast, at, keys, source.seed)
            parts.append(kept_change(contrast, other, path.sender, at, keys))
    return torch.stack(parts)


def _random(
    contrast: Contrast, at: str, keys: Bool[Tensor, "batch token pos"], seed: int
) -> Bool[Tensor, "batch token pos"]:
    """As many random keys for each query, drawn from all that it sees."""
    queries = contrast.once(tokens_at, at).index
    places = torch.arange(keys.shape[2], device=keys.device)
    visible = places <= queries[..., None]
    drawn = torch.rand(keys.shape, generator=torch.Generator().manual_seed(seed)).to(keys.device)
    ranks = drawn.masked_fill(~visible, 2.0).argsort(-1).argsort(-1)
    return (ranks < keys.sum(-1, keepdim=True)) & visible


def _neurons(contrast: Contrast, mlp: Node, source: Source) -> Sequence[int]:
    """The neurons of a source, or as many random ones."""
    if source.seed is None:
        return source.neurons
    width = neurons_of(contrast, mlp)
    return random.Random(f"{mlp} {source.seed}").sample(range(width), len(source.neurons))


def require_place(contrast: Contrast, place: str) -> None:
    """Raises NotMeasurable unless the prompts have a place of this name."""
    try:
        known = contrast.place_names
    except UserError as reason:
        raise NotMeasurable(str(reason)) from reason
    if place not in known:
        raise NotMeasurable(f"the prompts have no place {place!r}, but {', '.join(known)}")
