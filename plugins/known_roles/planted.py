"""Transformers built by hand, in which every head's job is known because it was put there.

No training: weights are written down for IOI (Wang et al. 2022) and induction (Olsson et al.
2022), with decoys that look the part and write where nobody reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeAlias

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ModelSource, TaskBuilder
from acdc_explain.records.circuit import Node
from acdc_explain.records.role import AnswerKey, KnownRoles
from acdc_explain.records.task import Example, Task, Tokenizer

from ..tasks.words import FEMALE, MALE, NOUNS, halves

if TYPE_CHECKING:
    from torch import Tensor

NAMES = tuple(f" {name}" for name in (*FEMALE[:8], *MALE[:8]))
WORDS = tuple(f" {word}" for word in NOUNS[:32])
END = " to"
VOCABULARY = ("<bos>", "<unk>", *NAMES, *WORDS, END)
CONTEXT = 40
SHARP = 20.0  # attention score of a match; the first token scores half of it
GAIN = 3.0  # logits a mover writes
FLAT = 1e8  # what a LayerNorm adds to the variance: so much that it scales by a constant

SIZES = {"small": (4, 5), "medium": (5, 6), "large": (6, 8)}  # layers, heads
STAGES = (
    ("previous", "duplicate"),
    ("inhibit", "induction"),
    ("mover", "mover", "two_jobs"),
    ("negative", "backup"),
)
IDLE = ("decoy_previous", "decoy_duplicate", "decoy_induction", "decoy_mover", "sink")
IN_IOI = {
    "previous": ("previous_token",),
    "duplicate": ("duplicate_token",),
    "inhibit": ("s_inhibition",),
    "mover": ("name_mover",),
    "two_jobs": ("name_mover",),  # its other job is in the other task
    "negative": ("negative_name_mover",),
    "backup": ("backup_name_mover",),
    "sink": ("attention_sink",),
}
IN_INDUCTION = {
    "previous": ("previous_token",),
    "induction": ("induction", "name_mover"),  # it moves the answer's word
    "two_jobs": ("induction", "name_mover"),
    "sink": ("attention_sink",),
}
LOOKS_LIKE = {
    "decoy_previous": "previous_token",
    "decoy_duplicate": "duplicate_token",
    "decoy_induction": "induction",
    "decoy_mover": "name_mover",
}


# --- where everything is -----------------------------------------------------------------------


def jobs(size: str, seed: int) -> dict[Node, str]:
    """Which head does what: stages in order, in random layers and places; the rest is idle."""
    layers, heads = SIZES[size]
    rng = random.Random(f"planted {size} {seed}")
    chosen = sorted(rng.sample(range(layers), len(STAGES)))
    rest = [*IDLE, *rng.choices(IDLE, k=layers * heads)]  # each at least once
    placed: dict[Node, str] = {}
    for layer in range(layers):
        here = list(STAGES[chosen.index(layer)]) if layer in chosen else []
        here += [rest.pop(0) for _ in range(heads - len(here))]
        rng.shuffle(here)
        placed |= {Node("head", layer, head): job for head, job in enumerate(here)}
    return placed


def mean_zero_basis(dimensions: int, width: int, seed: int) -> Tensor:
    """Orthogonal directions of mean zero [dimension width], from which LayerNorm takes nothing."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(width, dimensions, generator=generator, dtype=torch.float64)
    ones = torch.ones(width, 1, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(torch.cat([ones, noise], 1))[0][:, 1:].T
    return directions


def blank_gpt2(**sizes: Any) -> Any:
    """A GPT-2 of zeros whose LayerNorms only take the mean off."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        layer_norm_epsilon=FLAT, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, **sizes,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat = "ln_" in name and name.endswith("weight")
            parameter.fill_(FLAT**0.5 if flat else 0.0)
    return model


class Room:
    """The residual stream as named subspaces, all orthogonal and of mean zero.

    LayerNorm takes the mean off, which then changes nothing.
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

    def __init__(self, room: Room) -> None:
        import torch

        self.room = room
        shape = room.width, room.d_head
        self.q, self.k, self.v = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
        self.o = torch.zeros(room.d_head, room.width, dtype=torch.float64)
        self.free = 0

    def match(self, asks: Tensor, offers: Tensor, score: float) -> None:
        """Attend by `score` where direction i of `asks` meets direction i of `offers`."""
        slots = slice(self.free, self.free + len(asks))
        self.free += len(asks)
        self.q[:, slots] += score * self.room.d_head**0.5 * asks.T
        self.k[:, slots] += offers.T

    def rest_at_first(self) -> None:
        """Attend to the first token where nothing else matches."""
        room = self.room
        self.match(room.of["token"] + room.of["bos"], room.of["bos"], SHARP / 2)

    def move(self, source: Tensor, *targets: Tensor) -> None:
        """Write to the targets what the source holds at the attended token."""
        self.v[:, : len(source)] += source.T
        for target in targets:
            self.o[: len(source)] += target


def build_head(job: str, room: Room) -> Head:
    head, at = Head(room), room.of
    looks = job.removeprefix("decoy_")
    decoy = looks != job
    if looks == "previous":
        head.match(at["place"][1:], at["place"][:-1], SHARP)
    if looks == "duplicate":
        head.match(at["id"], at["id"], SHARP)
        head.match(at["place"], at["place"], -2 * SHARP)  # not to itself
    if looks in ("induction", "two_jobs"):
        head.match(at["id"], at["prev"], SHARP)
    if looks == "inhibit":
        head.match(at["end"], at["duplicate"], SHARP)
    if looks in ("mover", "two_jobs", "negative", "backup"):
        head.match(at["end"], at["name"], SHARP)
        asks = at["inhibited"] + (2 * at["moved"] if looks == "backup" else 0)
        head.match(asks, at["id"], -SHARP)
    if looks != "previous":
        head.rest_at_first()
    if decoy or looks == "sink":
        head.move(at["id"], at["dead"])
        return head
    writes = {
        "previous": (at["prev"],),
        "induction": (GAIN * at["out"],),
        "two_jobs": (GAIN * at["out"],),
        "inhibit": (at["inhibited"],),
        "mover": (GAIN * at["out"], at["moved"]),
        "negative": (-GAIN / 2 * at["out"],),
        "backup": (GAIN * at["out"],),
    }
    if looks == "duplicate":
        head.move(at["token"], at["duplicate"])
    else:
        head.move(at["id"], *writes[looks])
    return head


# --- the model ---------------------------------------------------------------------------------


def build(size: str, seed: int) -> Any:
    """The transformer, in GPT-2's form."""
    import torch

    layers, heads = SIZES[size]
    room, placed = Room(heads, seed), jobs(size, seed)
    model = blank_gpt2(
        vocab_size=len(VOCABULARY), n_positions=CONTEXT, n_embd=room.width, n_layer=layers,
        n_head=heads, n_inner=4,
    )  # fmt: skip
    with torch.no_grad():
        embedding = room.of["id"] + room.of["token"]
        embedding[0] = room.of["bos"][0]
        embedding[2 : 2 + len(NAMES)] += room.of["name"]
        embedding[-1] += room.of["end"][0]
        model.transformer.wte.weight.copy_(embedding)
        model.transformer.wpe.weight.copy_(room.of["place"])
        model.lm_head.weight.copy_(room.of["out"])
        for layer, block in enumerate(model.transformer.h):
            built = [build_head(placed[Node("head", layer, h)], room) for h in range(heads)]
            read = [torch.cat([getattr(head, part) for head in built], 1) for part in "qkv"]
            block.attn.c_attn.weight.copy_(torch.cat(read, 1))
            block.attn.c_proj.weight.copy_(torch.cat([head.o for head in built]))
    return model


def word_tokenizer(vocabulary: Sequence[str], pattern: str) -> Any:
    """Words that match a pattern are tokens; `<bos>` is put in front."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Fast
    from transformers import PreTrainedTokenizerFast

    words = Fast(
        models.WordLevel({piece: n for n, piece in enumerate(vocabulary)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    words.decoder = decoders.Fuse()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", unk_token="<unk>")


def folder(size: str, seed: int) -> Path:
    """A transformer written by hand, whose heads' roles are known."""
    from acdc_explain.models.loading import quiet

    made = Path(mkdtemp(prefix="acdc-explain-planted-"))
    with quiet():
        build(size, seed).save_pretrained(made)
        word_tokenizer(VOCABULARY, r" ?\w+").save_pretrained(made)
    return made


# --- the tasks ---------------------------------------------------------------------------------


def planted_ioi(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """Two names among words, one of them again; held-out prompts have other names and words."""
    rng = random.Random(f"planted ioi {seed}")
    pools = zip(halves(rng, NAMES), halves(rng, WORDS))
    makers = [partial(_ioi, rng, names, words) for names, words in pools]
    description = "Two people are named, one of them again; the model says the other one's name."
    return _task("planted_ioi", description, makers, examples)


def planted_induction(tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """Random words that begin again; held-out prompts are of other words."""
    rng = random.Random(f"planted induction {seed}")
    makers = [partial(_induction, rng, words) for words in halves(rng, WORDS)]
    description = "Random words begin again; the model says the word that came next."
    return _task("planted_induction", description, makers, examples)


Made: TypeAlias = tuple[Example, dict[str, str]]  # with its other corruptions


def _task(name: str, description: str, makers: Sequence[Callable[[], Made]], examples: int) -> Task:
    """As many different prompts to discover on, and twice as many held out."""
    parts: list[dict[str, Made]] = []
    for count, make in zip((examples, 2 * examples), makers):
        made: dict[str, Made] = {}
        while len(made) < count:
            example, others = make()
            made.setdefault(example.clean, (example, others))
        parts.append(made)
    discover, held_out = ([example for example, _ in part.values()] for part in parts)
    both = [others for part in parts for _, others in part.values()]
    schemes = {scheme: tuple(others[scheme] for others in both) for scheme in both[0]}
    return Task(name, description, "logit_diff", tuple(discover), tuple(held_out), schemes)


def _ioi(rng: random.Random, names: Sequence[str], words: Sequence[str]) -> Made:
    io, s, *others = rng.sample(list(names), 5)
    filler = rng.sample(list(words), 7)
    cuts = sorted(rng.sample(range(1, 7), 3))
    between = [filler[a:b] for a, b in zip([0, *cuts], [*cuts, 7])]
    abba = rng.random() < 0.5

    def prompt(one: str, two: str, again: str) -> list[str]:
        first, second = (one, two) if abba else (two, one)
        return [
            *between[0], first, *between[1], second, *between[2], again, *between[3], END,
        ]  # fmt: skip

    clean = prompt(io, s, s)
    s1 = clean.index(s)
    positions = {
        "IO": clean.index(io), "S1": s1, "S1+1": s1 + 1,
        "S2": clean.index(s, s1 + 1), "END": len(clean) - 1,
    }  # fmt: skip
    example = Example("".join(clean), "".join(prompt(*others)), (io,), (s,), positions)
    return example, {
        "swap_s2": "".join(prompt(io, s, io)),
        "random_s2": "".join(prompt(io, s, others[2])),
    }


def _induction(rng: random.Random, words: Sequence[str]) -> Made:
    n = rng.randint(5, 8)
    drawn = rng.sample(list(words), 2 * n)
    first, fresh = drawn[:n], drawn[n:]
    at = rng.randint(1, n - 3)
    foil = rng.choice([i for i in range(n) if i not in (at, at + 1)])
    swapped, other, again = list(first), list(first), first[: at + 1]
    swapped[at + 1], swapped[foil] = first[foil], first[at + 1]
    other[at] = fresh[0]
    example = Example(
        "".join(first + again), "".join(fresh + again), (first[at + 1],), (first[foil],),
        {"A1": at, "B1": at + 1, "END": n + at},
    )  # fmt: skip
    return example, {"swap_b": "".join(swapped + again), "other_a": "".join(other + again)}


# --- what is known of them ---------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    size: str
    seed: int

    @property
    def name(self) -> str:
        return f"planted-{self.size}-{self.seed}"

    def known(self, task: str) -> KnownRoles:
        there = IN_IOI if task == "planted_ioi" else IN_INDUCTION
        return KnownRoles(
            model=self.name,
            task=task,
            roles={node: there.get(job, ()) for node, job in jobs(self.size, self.seed).items()},
            decoys={
                node: LOOKS_LIKE[job]
                for node, job in jobs(self.size, self.seed).items()
                if job in LOOKS_LIKE and LOOKS_LIKE[job] in {r for x in there.values() for r in x}
            },
        )


MODELS = tuple(Planted(*x) for x in (
    ("small", 0), ("small", 1), ("small", 2), ("medium", 0), ("medium", 1), ("large", 0),
))  # fmt: skip


def answers() -> list[KnownRoles]:
    """Every planted model on both tasks."""
    return [model.known(task) for model in MODELS for task in ("planted_ioi", "planted_induction")]


@hookimpl
def register_models() -> dict[str, ModelSource]:
    return {model.name: partial(folder, model.size, model.seed) for model in MODELS}


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {"planted_ioi": planted_ioi, "planted_induction": planted_induction}


@hookimpl
def register_answer_keys() -> dict[str, AnswerKey]:
    return {"planted": answers}
