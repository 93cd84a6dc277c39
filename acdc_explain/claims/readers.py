"""Who reads a component: the paths whose receivers change when it is cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..evidence.patching.edges import Response
from ..models.contrast import Contrast
from ..records.circuit import LOGITS, Circuit, Node
from ..records.role import LEAST_EFFECT
from .paths import METRIC, Path, Source, path_effects
from .reading import SURE

READERS = 3  # of a component, whose variables and keys are looked for
MOST = 8  # readers that a component surely changes: the strongest are claimed
ENOUGH = 4  # readers: where fewer are sure, those that it likely changes are claimed as well
LIKELY = 1.5  # standard errors by which a share of the gap differs from zero
LEAST = 0.001  # of the gap: a smaller effect is not claimed
LEAST_TURN = 0.05  # of attention, by a sender that changes no share of the gap


@dataclass(frozen=True)
class Reader:
    """A path whose receiver surely changes, with how much."""

    path: Path
    response: Response
    mean: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether its share of the gap surely differs from zero."""
        return abs(self.mean) > max(LEAST, SURE * self.error)


def kept_paths(
    contrast: Contrast, circuit: Circuit, nodes: Sequence[Node]
) -> dict[Node, list[Path]]:
    """The kept edges of each component, at all places."""
    end = contrast.place_names[-1]
    paths: dict[Node, list[Path]] = {node: [] for node in nodes}
    for edge in circuit.edges:
        sender, receiver = edge.src.base, edge.dst.base
        for at in contrast.place_names if sender in paths else ():
            if receiver.kind in ("head", "mlp") or (receiver == LOGITS and at == end):
                paths[sender].append(Path(sender, at, receiver, edge.port))
    return paths


def measure_paths(
    contrast: Contrast, paths: Iterable[Sequence[Path]], sources: Sequence[Source]
) -> None:
    """Measure all paths at once, so that the prompts of each source are run once."""
    together = [path for some in paths for path in some]
    path_effects(contrast, [(path, source) for source in sources for path in together])


def readers_of(contrast: Contrast, paths: Sequence[Path]) -> list[Reader]:
    source = Source()
    effects = path_effects(contrast, [(path, source) for path in paths])
    return [_reader(path, effects[path, source]) for path in dict.fromkeys(paths)]


def _reader(path: Path, response: Response) -> Reader:
    samples = response.share.sum(1).double()
    error = float(samples.std()) / len(samples) ** 0.5
    return Reader(path, response, float(samples.mean()), error)


def chief_readers(readers: Sequence[Reader]) -> list[Reader]:
    """Those that change most, the surest kind first, no port twice.

    First those that surely change, the largest shares of the gap first. A reader whose attention
    surely turns counts even if this changes no share of the gap: others may do the same job, or its
    attention may be saturated. Where these are few, those that likely change: on a few prompts most
    of what a component does is uncertain, and the held-out prompts decide.
    """
    sure = [reader for reader in readers if reader.sure]
    turned = [r for r in readers if not r.sure and turn_of(r.response)[0] > LEAST_TURN]
    likely = [r for r in readers if abs(r.mean) > max(LEAST, LIKELY * r.error)]
    sure.sort(key=lambda reader: -abs(reader.mean))
    turned.sort(key=lambda reader: -turn_of(reader.response)[0])
    likely.sort(key=lambda reader: -abs(reader.mean) / reader.error)
    chosen = _each_port(sure, {}, MOST)
    chosen = _each_port(turned, chosen, len(chosen) + MOST)
    return list(_each_port(likely, chosen, ENOUGH).values())


def _each_port(
    readers: Sequence[Reader], chosen: dict[str, Reader], most: int
) -> dict[str, Reader]:
    """The chosen readers, and the first of others while there are less than `most`."""
    chosen = dict(chosen)
    for reader in readers:
        if len(chosen) < most:
            chosen.setdefault(reader.path.reader, reader)
    return chosen


def turn_of(response: Response) -> tuple[float, int, int, float]:
    """The largest sure change of attention: its size, from and to which place, and the change.

    Of the receiver's places those with most of the share of the gap, if it loses any. What the
    sender does, not what cutting it does. A size of 0 if no change is sure.
    """
    if response.attention is None:
        return 0.0, 0, 0, 0.0
    shift = -response.attention.double()
    mean = shift.mean(0)
    error = shift.std(0) / len(shift) ** 0.5
    sure = mean.abs() * (mean.abs() > SURE * error)
    weight = response.share.double().mean(0).abs()
    among = sure * (weight[:, None] > 0.5 * weight.max()) if weight.max() > 0 else sure
    query, key = divmod(int(among.flatten().argmax()), len(mean))
    return float(among[query, key]), query, key, float(mean[query, key])


def by_all_paths(contrast: Contrast, heads: Sequence[Node]) -> dict[Node, list[Reader]]:
    """Heads of which no reader is known: the places where they surely matter all the same.

    A head of saturated attention, for one, reads without a gradient.
    """
    paths = {x: [Path(x, at, LOGITS, METRIC) for at in contrast.place_names] for x in heads}
    measure_paths(contrast, list(paths.values()), [Source()])
    found: dict[Node, list[Reader]] = defaultdict(list)
    for head, some in paths.items():
        sure = [
            reader
            for reader in readers_of(contrast, some)
            if abs(reader.mean) > max(LEAST_EFFECT, SURE * reader.error)
        ]
        found[head] = sorted(sure, key=lambda reader: -abs(reader.mean))[:READERS]
    return found
