"""Programs compiled into transformers by Tracr (Lindner et al. 2023): the wiring is known.

Needs the extra `tracr`. Tracr's models have no LayerNorm; in GPT-2's form theirs is made to do
nothing. Attention is causal, so a program's result is read at the last token.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import ModelSource, TaskBuilder
from acdc_explain.records.circuit import INPUT, LOGITS, Edge, Node
from acdc_explain.records.graph import prune
from acdc_explain.records.role import AnswerKey, KnownRoles
from acdc_explain.records.task import Example, Task, Tokenizer

LETTERS = tuple("abcdef")
LENGTH = 8  # most tokens of a prompt, without the first
SHARP = 10.0  # logits for an output of 1


@dataclass(frozen=True)
class Program:
    """A RASP program, and what it answers at the last token."""

    name: str
    says: str
    write: Callable[[], Any]
    answer: Callable[[Sequence[str]], str | None]  # None where it answers nothing
    outputs: tuple[str, ...] = LETTERS
    roles: tuple[tuple[str, tuple[str, ...]], ...] = ()  # of nodes, where a card has a word for it


def _shift() -> Any:
    from tracr.rasp import rasp

    before = rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == q - 1)
    return rasp.Aggregate(before, rasp.tokens).named("shift")


def _first() -> Any:
    from tracr.rasp import rasp

    return rasp.Aggregate(
        rasp.Select(rasp.indices, rasp.indices, lambda k, q: k == 0), rasp.tokens
    ).named("first")


def _induction() -> Any:
    from tracr.rasp import rasp

    follows = rasp.Select(_shift(), rasp.tokens, rasp.Comparison.EQ)
    return rasp.Aggregate(follows, rasp.tokens).named("induction")


def _histogram() -> Any:
    from tracr.compiler import lib

    return lib.make_hist()


def _reverse() -> Any:
    from tracr.compiler import lib
    from tracr.rasp import rasp

    return lib.make_reverse(rasp.tokens)


def _largest() -> Any:
    from tracr.rasp import rasp

    def seen(letter: str) -> Any:
        everywhere = rasp.Map(lambda _: letter, rasp.indices)
        same = rasp.Select(rasp.tokens, everywhere, rasp.Comparison.EQ)
        return rasp.Map(lambda n: n > 0, rasp.SelectorWidth(same))

    found = rasp.Map(lambda yes: LETTERS[1] if yes else LETTERS[0], seen(LETTERS[1]))
    for letter in LETTERS[2:4]:
        found = rasp.SequenceMap(
            lambda best, yes, letter=letter: letter if yes else best, found, seen(letter)
        )
    return found.named("largest")


def _repeated() -> Any:
    from tracr.rasp import rasp

    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)
    return rasp.Map(lambda n: "Y" if n > 1 else "N", rasp.SelectorWidth(same)).named("repeated")


def _after(tokens: Sequence[str]) -> str | None:
    """What followed the last token before, if that was always the same."""
    found = {b for a, b in pairwise(tokens) if a == tokens[-1]}
    return found.pop() if len(found) == 1 else None


COUNTS = tuple(map(str, range(1, LENGTH + 1)))
MOVES = ("name_mover",)  # it brings the answer from its place to the logits

PROGRAMS = (
    Program(
        "shift", "the token before the last", _shift, lambda t: t[-2],
        roles=(("a0.h0", ("previous_token", *MOVES)),),
    ),
    Program("first", "the first token", _first, lambda t: t[0], roles=(("a0.h0", MOVES),)),
    Program(
        "induction", "what followed the last token before", _induction, _after,
        roles=(("a0.h0", ("previous_token",)), ("a1.h0", ("induction", *MOVES))),
    ),
    Program(
        "histogram", "how often the last token occurs", _histogram,
        lambda t: str(t.count(t[-1])), outputs=COUNTS,
    ),
    Program(
        "repeated", "whether the last token occurred before", _repeated,
        lambda t: "Y" if t.count(t[-1]) > 1 else "N", outputs=("Y", "N"),
    ),
    Program("reverse", "the last entry of the reversed sequence", _reverse, lambda t: t[0]),
    Program(
        "largest", "the last entry of the sorted sequence", _largest,
        lambda t: max(min(letter, LETTERS[3]) for letter in t if letter <= LETTERS[3]),
    ),
)  # fmt: skip
BY_NAME = {program.name: program for program in PROGRAMS}


# --- compiling ---------------------------------------------------------------------------------


@cache
def compiled(name: str) -> Any:
    """Tracr's model. Raises UserError where the extra is not installed."""
    try:
        from tracr.compiler import compiling
    except ImportError as error:
        raise UserError("Tracr is not installed; pip install 'acdc-explain[tracr]'.") from error
    letters = LETTERS[:4] if name == "largest" else LETTERS
    return compiling.compile_rasp_to_model(
        BY_NAME[name].write(), vocab=set(letters), max_seq_len=LENGTH, compiler_bos="BOS",
        causal=True,
    )  # fmt: skip


def wiring(name: str) -> list[Edge]:
    """The edges of the compiled program: who writes into a dimension that somebody reads.

    From Tracr's own matrices, before they are put into GPT-2's form.
    """
    import numpy as np

    assembled = compiled(name)
    params, config = assembled.params, assembled.model_config
    n, size = config.num_heads, config.key_size
    everything = np.concatenate(
        [params["token_embed"]["embeddings"], params["pos_embed"]["embeddings"]]
    )
    writes: list[tuple[Node, Any]] = [(INPUT, np.abs(everything).sum(0) > 0)]
    edges: list[Edge] = []

    def reads(node: Node, port: Any, dimensions: Any) -> None:
        edges.extend(Edge(w, node, port) for w, written in writes if (written & dimensions).any())

    for layer in range(config.num_layers):
        where, new = f"transformer/layer_{layer}", []
        for head in range(n):
            node, columns = Node("head", layer, head), slice(head * size, (head + 1) * size)
            for port, part in (("q", "query"), ("k", "key"), ("v", "value")):
                reads(
                    node, port, np.abs(params[f"{where}/attn/{part}"]["w"][:, columns]).sum(1) > 0
                )
            new.append((node, np.abs(params[f"{where}/attn/linear"]["w"][columns]).sum(0) > 0))
        writes += new
        mlp = Node("mlp", layer)
        reads(mlp, None, np.abs(params[f"{where}/mlp/linear_1"]["w"]).sum(1) > 0)
        writes.append((mlp, np.abs(params[f"{where}/mlp/linear_2"]["w"]).sum(0) > 0))
    reads(LOGITS, None, np.isin(assembled.residual_labels, list(_output_labels(name))))
    return prune(edges)


def _output_labels(name: str) -> dict[str, str]:
    """The residual dimensions that are read as the result, with the token each stands for."""
    label = {"histogram": "hist"}.get(name, name)
    own = re.compile(rf"{label}_\d+:(.*)")
    found = [own.fullmatch(dimension) for dimension in compiled(name).residual_labels]
    return {match[0]: match[1] for match in found if match}


def vocabulary(program: Program) -> tuple[str, ...]:
    return ("<bos>", "<unk>", *dict.fromkeys((*LETTERS, *program.outputs)))


def build(name: str) -> Any:
    """The compiled model in GPT-2's form."""
    import torch

    from .planted import blank_gpt2, mean_zero_basis

    program, assembled = BY_NAME[name], compiled(name)
    config, words = assembled.model_config, vocabulary(program)
    n, dimensions = config.num_heads, len(assembled.residual_labels)
    d_head = max(config.key_size, -(-(dimensions + 1) // n))
    basis = mean_zero_basis(dimensions, d_head * n, 0)

    def tensor(part: str, kind: str = "w") -> torch.Tensor:
        return torch.tensor(assembled.params[part][kind], dtype=torch.float64)

    model = blank_gpt2(
        vocab_size=len(words), n_positions=LENGTH + 1, n_embd=d_head * n,
        n_layer=config.num_layers, n_head=n, n_inner=config.mlp_hidden_size,
        activation_function="relu",
    )  # fmt: skip
    with torch.no_grad():
        tokens = assembled.input_encoder.encoding_map
        embedding = tensor("token_embed", "embeddings") @ basis
        for number, word in enumerate(words):
            known = tokens.get("BOS" if word == "<bos>" else word)
            if known is not None:
                model.transformer.wte.weight[number] = embedding[known]
        model.transformer.wpe.weight.copy_(tensor("pos_embed", "embeddings") @ basis)
        for label, value in _output_labels(name).items():
            if value in words:
                direction = basis[assembled.residual_labels.index(label)]
                model.lm_head.weight[words.index(value)] = SHARP * direction
        for layer, block in enumerate(model.transformer.h):
            where = f"transformer/layer_{layer}"
            sharper = (d_head / config.key_size) ** 0.5  # as GPT-2 divides by its own root
            read = [
                _padded(basis.T @ tensor(f"{where}/attn/{part}"), n, d_head)
                for part in ("query", "key", "value")
            ]
            block.attn.c_attn.weight.copy_(torch.cat([sharper * read[0], *read[1:]], 1))
            written = _padded((tensor(f"{where}/attn/linear") @ basis).T, n, d_head)
            block.attn.c_proj.weight.copy_(written.T)
            block.mlp.c_fc.weight.copy_(basis.T @ tensor(f"{where}/mlp/linear_1"))
            block.mlp.c_fc.bias.copy_(tensor(f"{where}/mlp/linear_1", "b"))
            block.mlp.c_proj.weight.copy_(tensor(f"{where}/mlp/linear_2") @ basis)
    return model


def _padded(columns: Any, heads: int, d_head: int) -> Any:
    """Each head's columns, with zeros up to the size of a head."""
    import torch

    split = columns.view(len(columns), heads, -1)
    padded = torch.zeros(len(columns), heads, d_head, dtype=columns.dtype)
    padded[..., : split.shape[-1]] = split
    return padded.flatten(1)


def folder(name: str) -> Path:
    """A RASP program that Tracr compiled to a transformer (extra `tracr`)."""
    from acdc_explain.models.loading import quiet

    from .planted import word_tokenizer

    made = Path(mkdtemp(prefix="acdc-explain-tracr-"))
    model = build(name)
    with quiet():
        model.save_pretrained(made)
        word_tokenizer(vocabulary(BY_NAME[name]), r"\w").save_pretrained(made)
    return made


# --- tasks and answers -------------------------------------------------------------------------


def task(program: Program, tokenizer: Tokenizer, *, examples: int = 16, seed: int = 0) -> Task:
    """Random letters, and what the program of the name makes of them.

    The corruption is other letters with another answer.
    """
    rng = random.Random(f"tracr {program.name} {seed}")
    letters = LETTERS[:4] if program.name == "largest" else LETTERS
    made: dict[str, Example] = {}
    for _ in range(1000 * examples):
        clean, corrupt = (rng.choices(letters, k=LENGTH) for _ in range(2))
        right, wrong = program.answer(clean), program.answer(corrupt)
        if right is None or wrong is None or right == wrong:
            continue
        made["".join(clean)] = Example(
            "".join(clean), "".join(corrupt), (right,), (wrong,), {"END": LENGTH - 1}
        )
        if len(made) == 3 * examples:
            break
    else:
        raise UserError(f"Program {program.name!r} has no {examples} prompts; use fewer.")
    both = tuple(made.values())
    return Task(
        f"tracr_{program.name}", f"Letters; the model says {program.says}.", "logit_diff",
        both[:examples], both[examples:],
    )  # fmt: skip


def any_prompts(program: Program, *, examples: int = 32, seed: int = 0) -> list[Example]:
    """Letters of any number, also where the program answers nothing: for metrics without answers.

    What a program does with short or unusual input is wired as well, and matters there alone.
    """
    rng = random.Random(f"tracr wiring {program.name} {seed}")
    letters = LETTERS[:4] if program.name == "largest" else LETTERS
    made = []
    for number in range(examples):
        length = 1 + number % LENGTH
        some = letters[: rng.randint(1, len(letters))]
        clean, corrupt = ("".join(rng.choices(some, k=length)) for _ in range(2))
        made.append(Example(clean, corrupt, (program.outputs[0],), (program.outputs[1],)))
    return made


def answers() -> list[KnownRoles]:
    """The heads of the programs that a card has a word for."""
    for program in PROGRAMS:
        compiled(program.name)  # say at once if Tracr is missing
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
