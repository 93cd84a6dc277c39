"""Models, tasks and roles of RASP programs that Tracr compiles (Lindner et al. 2023).

Needs the extra `tracr`. Attention is causal, so a program's result is read at the last token.
"""

from __future__ import annotations

import random
from functools import partial

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import ModelSource, TaskBuilder
from acdc_explain.records.circuit import Node
from acdc_explain.records.role import AnswerKey, KnownRoles
from acdc_explain.records.task import Example, Task, Tokenizer

from .rasp_programs import BY_NAME, LENGTH, PROGRAMS, Program
from .tracr_compile import compiled, folder


def task(program: Program, tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """Random letters; the answer is what the program returns for them.

    The corruption is other letters with another answer, which is the foil.

    Raises:
        UserError: There are too few different prompts.
    """
    rng = random.Random(f"tracr {program.name} {seed}")
    drawn: dict[str, Example] = {}
    for _ in range(1000 * examples):
        clean, corrupt = (rng.choices(program.letters, k=LENGTH) for _ in range(2))
        right, wrong = program.answer(clean), program.answer(corrupt)
        if right is None or wrong is None or right == wrong:
            continue
        drawn["".join(clean)] = Example(
            "".join(clean), "".join(corrupt), (right,), (wrong,), {"END": LENGTH - 1}
        )
        if len(drawn) == 3 * examples:
            break
    else:
        raise UserError(f"Program {program.name!r} has no {examples} prompts; use fewer.")
    both = tuple(drawn.values())
    return Task(
        f"tracr_{program.name}", f"Letters; the model says {program.says}.", "logit_diff",
        both[:examples], both[examples:],
    )  # fmt: skip


def any_prompts(program: Program, *, examples: int = 32, seed: int = 0) -> list[Example]:
    """Prompts of 1 to LENGTH letters, also without an answer: for metrics that need none.

    Some of the compiled edges matter only on short or unusual prompts.
    """
    rng = random.Random(f"tracr wiring {program.name} {seed}")
    drawn, letters = [], program.letters
    for number in range(examples):
        length = 1 + number % LENGTH
        some = letters[: rng.randint(1, len(letters))]
        clean, corrupt = ("".join(rng.choices(some, k=length)) for _ in range(2))
        drawn.append(Example(clean, corrupt, (program.outputs[0],), (program.outputs[1],)))
    return drawn


def answers() -> list[KnownRoles]:
    """The heads of the programs that a role card describes."""
    for program in PROGRAMS:
        compiled(program.name)  # raises now, before anything is measured, if Tracr is missing
    return [
        KnownRoles(
            f"tracr-{program.name}",
            f"tracr_{program.name}",
            {Node.parse(node): roles for node, roles in program.roles},
        )
        for program in PROGRAMS
        if program.roles
    ]


@hookimpl
def register_models() -> dict[str, ModelSource]:
    return {f"tracr-{name}": partial(folder, name) for name in BY_NAME}


@hookimpl
def register_tasks() -> dict[str, TaskBuilder]:
    return {f"tracr_{name}": partial(task, program) for name, program in BY_NAME.items()}


@hookimpl
def register_answer_keys() -> dict[str, AnswerKey]:
    return {"tracr": answers}
