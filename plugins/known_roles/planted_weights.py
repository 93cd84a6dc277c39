"""The weights of the planted transformers: which head does which job, and how it does it.

Every head reads and writes named subspaces of the residual stream that are orthogonal to each
other. Decoys attend like the heads they imitate and write where no other component reads.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acdc_explain.records.circuit import Node

from ..tasks.words import FEMALE, MALE, NOUNS
from .gpt2_form import blank_gpt2, mean_zero_basis, saved, word_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

NAMES = tuple(f" {name}" for name in (*FEMALE[:8], *MALE[:8]))
WORDS = tuple(f" {word}" for word in NOUNS[:32])
END = " to"
VOCABULARY = ("<bos>", "<unk>", *NAMES, *WORDS, END)
CONTEXT = 40
SHARP = 20.0  # attention score of a match; the first token scores half of it
GAIN = 3.0  # logits that a mover writes

SIZES = {"small": (4, 5), "medium": (5, 6), "large": (6, 8)}  # layers, heads
STAGES = (
    ("previous", "duplicate"),
    ("inhibit", "induction"),
    ("mover", "mover", "two_jobs"),
    ("negative", "backup"),
)
IDLE = ("decoy_previous", "decoy_duplicate", "decoy_induction", "decoy_mover", "sink")


def jobs(size: str, seed: int) -> dict[Node, str]:
    """The job of every head: stages in order, in random layers and places; the rest is idle."""
    layers, heads = SIZES[size]
    rng = random.Random(f"planted {size} {seed}")
    stage_layers = sorted(rng.sample(range(layers), len(STAGES)))
    idle = [*IDLE, *rng.choices(IDLE, k=layers * heads)]  # each at least once
    placed: dict[Node, str] = {}
    for layer in range(layers):
        layer_jobs = list(STAGES[stage_layers.index(layer)]) if layer in stage_layers else []
        layer_jobs += [idle.pop(0) for _ in range(heads - len(layer_jobs))]
        rng.shuffle(layer_jobs)
        placed |= {Node("head", layer, head): job for head, job in enumerate(layer_jobs)}
    return placed


class Subspaces:
    """The residual stream as named subspaces, all orthogonal and of mean zero.

    The mean that LayerNorm subtracts is therefore always zero.
    """

    PARTS: Mapping[str, int] = {
        **{part: len(VOCABULARY) for part in ("id", "prev", "inhibited", "moved", "out", "dead")},
        "place": CONTEXT,
        **dict.fromkeys(("bos", "token", "name", "end", "duplicate"), 1),
    }

    def __init__(self, heads: int, seed: int) -> None:
        needed = sum(self.PARTS.values())
        most = 2 * len(VOCABULARY) + 2  # the slots that two jobs in one head take
        self.d_head = max(-(-(needed + 1) // heads), most)
        self.width = self.d_head * heads
        directions = mean_zero_basis(needed, self.width, seed)
        starts = [sum(list(self.PARTS.values())[:i]) for i in range(len(self.PARTS))]
        self.of: dict[str, Tensor] = {
            part: directions[start : start + n]
            for (part, n), start in zip(self.PARTS.items(), starts)
        }  # [dimension d_model]


class Head:
    """One head's weights, filled slot by slot."""

    def __init__(self, space: Subspaces) -> None:
        import torch

        self.space = space
        shape = space.width, space.d_head
        self.q, self.k, self.v = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
        self.o = torch.zeros(space.d_head, space.width, dtype=torch.float64)
        self.free = 0  # the first slot of queries and keys that is not in use

    def match(self, queries: Tensor, keys: Tensor, score: float) -> None:
        """Attend by `score` where direction i of `queries` meets direction i of `keys`."""
        slots = slice(self.free, self.free + len(queries))
        self.free += len(queries)
        self.q[:, slots] += score * self.space.d_head**0.5 * queries.T
        self.k[:, slots] += keys.T

    def rest_at_first(self) -> None:
        """Attend to the first token where nothing else matches."""
        of = self.space.of
        self.match(of["token"] + of["bos"], of["bos"], SHARP / 2)

    def move(self, source: Tensor, *targets: Tensor) -> None:
        """Copy what the source subspace holds at the attended token to each target subspace."""
        self.v[:, : len(source)] += source.T
        for target in targets:
            self.o[: len(source)] += target


def build_head(job: str, space: Subspaces) -> Head:
    """The weights of a head with this job."""
    head, of = Head(space), space.of
    pattern = job.removeprefix("decoy_")
    decoy = pattern != job
    _attend(head, pattern)
    if decoy or pattern == "sink":
        head.move(of["id"], of["dead"])
        return head
    writes = {
        "previous": (of["prev"],),
        "induction": (GAIN * of["out"],),
        "two_jobs": (GAIN * of["out"],),
        "inhibit": (of["inhibited"],),
        "mover": (GAIN * of["out"], of["moved"]),
        "negative": (-GAIN / 2 * of["out"],),
        "backup": (GAIN * of["out"],),
    }
    if pattern == "duplicate":
        head.move(of["token"], of["duplicate"])
    else:
        head.move(of["id"], *writes[pattern])
    return head


def _attend(head: Head, pattern: str) -> None:
    """Fill the queries and keys of a head with the attention pattern of a job."""
    of = head.space.of
    if pattern == "previous":
        head.match(of["place"][1:], of["place"][:-1], SHARP)
    if pattern == "duplicate":
        head.match(of["id"], of["id"], SHARP)
        head.match(of["place"], of["place"], -2 * SHARP)  # not to itself
    if pattern in ("induction", "two_jobs"):
        head.match(of["id"], of["prev"], SHARP)
    if pattern == "inhibit":
        head.match(of["end"], of["duplicate"], SHARP)
    if pattern in ("mover", "two_jobs", "negative", "backup"):
        head.match(of["end"], of["name"], SHARP)
        avoided = of["inhibited"] + (2 * of["moved"] if pattern == "backup" else 0)
        head.match(avoided, of["id"], -SHARP)
    if pattern != "previous":
        head.rest_at_first()


def build(size: str, seed: int) -> Any:
    """The transformer, in GPT-2's form."""
    import torch

    layers, heads = SIZES[size]
    space, placed = Subspaces(heads, seed), jobs(size, seed)
    model = blank_gpt2(
        vocab_size=len(VOCABULARY), n_positions=CONTEXT, n_embd=space.width, n_layer=layers,
        n_head=heads, n_inner=4,
    )  # fmt: skip
    with torch.no_grad():
        embedding = space.of["id"] + space.of["token"]
        embedding[0] = space.of["bos"][0]
        embedding[2 : 2 + len(NAMES)] += space.of["name"]
        embedding[-1] += space.of["end"][0]
        model.transformer.wte.weight.copy_(embedding)
        model.transformer.wpe.weight.copy_(space.of["place"])
        model.lm_head.weight.copy_(space.of["out"])
        for layer, block in enumerate(model.transformer.h):
            written = [build_head(placed[Node("head", layer, h)], space) for h in range(heads)]
            read = [torch.cat([getattr(head, part) for head in written], 1) for part in "qkv"]
            block.attn.c_attn.weight.copy_(torch.cat(read, 1))
            block.attn.c_proj.weight.copy_(torch.cat([head.o for head in written]))
    return model


def folder(size: str, seed: int) -> Path:
    """A transformer written by hand, whose heads' roles are known."""
    return saved(build(size, seed), word_tokenizer(VOCABULARY, r" ?\w+"))
