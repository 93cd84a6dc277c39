"""Transformers written by hand, in which the job of every head is known.

Nothing is trained: the weights solve IOI (Wang et al. 2022) and induction (Olsson et al. 2022).
Decoys attend like the real heads and write where no other component reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from acdc_explain import hookimpl
from acdc_explain.hookspecs import ModelSource, TaskBuilder
from acdc_explain.records.role import AnswerKey, KnownRoles
from acdc_explain.records.task import Example, Task, Tokenizer

from ..tasks.drawing import Drawn, draw_different, split_sizes, task_of
from ..tasks.induction import repeated_beginning
from ..tasks.words import halves
from .planted_weights import END, NAMES, WORDS, folder, jobs

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


def _task(
    name: str, description: str, makers: Sequence[Callable[[int], Drawn]], examples: int
) -> Task:
    splits = [draw_different(n, make) for n, make in zip(split_sizes(examples), makers)]
    return task_of(name, description, "logit_diff", splits)


def _ioi(rng: random.Random, names: Sequence[str], words: Sequence[str], _: int) -> Drawn:
    """One example with random words between the names, and the schemes `swap_s2`, `random_s2`."""
    io, s, *others = rng.sample(list(names), 5)
    filler = rng.sample(list(words), 7)
    cuts = sorted(rng.sample(range(1, 7), 3))
    between = [filler[start:end] for start, end in zip([0, *cuts], [*cuts, 7])]
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
    variables = {
        "IO": "".join(prompt(others[0], s, s)),
        "S": "".join(prompt(io, others[1], others[1])),
        "S2": "".join(prompt(io, s, others[2])),
        "order": "".join(prompt(s, io, s)),
    }
    corrupt = "".join(prompt(*others))
    example = Example("".join(clean), corrupt, (io,), (s,), positions, variables)
    return example, {
        "swap_s2": "".join(prompt(io, s, io)),
        "random_s2": "".join(prompt(io, s, others[2])),
    }


def _induction(rng: random.Random, words: Sequence[str], _: int) -> Drawn:
    return repeated_beginning(rng, words, rng.randint(5, 8))


# --- the answer keys ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """One planted model."""

    size: str
    seed: int

    @property
    def name(self) -> str:
        return f"planted-{self.size}-{self.seed}"

    def known(self, task: str) -> KnownRoles:
        """The roles of its heads in a task, and the decoys of those roles."""
        roles = IN_IOI if task == "planted_ioi" else IN_INDUCTION
        in_task = {role for names in roles.values() for role in names}
        placed = jobs(self.size, self.seed)
        return KnownRoles(
            model=self.name,
            task=task,
            roles={node: roles.get(job, ()) for node, job in placed.items()},
            decoys={
                node: LOOKS_LIKE[job]
                for node, job in placed.items()
                if LOOKS_LIKE.get(job) in in_task
            },
        )


MODELS = tuple(Planted(*size_and_seed) for size_and_seed in (
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
