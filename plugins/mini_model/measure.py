"""What `mini` can do and what its heads do: `python -m acdc_explain_plugins.mini_model.measure`.

Prints Markdown tables. All numbers are measured on the saved weights, in single precision.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from acdc_explain.records.task import Example, Task, check_examples

from ..tasks.greater_than import greater_than
from ..tasks.induction import induction
from ..tasks.ioi import ioi
from ..tasks.pronoun import gendered_pronoun
from . import corpus
from .saved_model import Mini

TASKS: dict[str, Callable[..., Task]] = {
    "induction": induction,
    "ioi": ioi,
    "greater_than": greater_than,
    "gendered_pronoun": gendered_pronoun,
}
NEVER_PAIRED = "ioi, pairs of names never trained"
SEQUENCES = 256
RANDOM_WORDS = 40  # in the sequences for the previous-token score
REPEATED_WORDS = 20  # in each half of the sequences for the induction and duplicate-token scores


@dataclass(frozen=True)
class Accuracy:
    """How well some prompts are answered."""

    prompts: int
    different: int
    top: float  # share of prompts whose most probable token is an answer
    preferred: float  # share of prompts where the answers are more probable than the foils
    probability: float  # mean over prompts of all answers together


@dataclass(frozen=True)
class HeadScores:
    """One value per head, as tensors [layer head]; docs/mini.md says what they mean."""

    previous: torch.Tensor
    duplicate: torch.Tensor
    induction: torch.Tensor
    end_io: torch.Tensor
    end_s1: torch.Tensor
    end_s2: torch.Tensor
    s2_s1: torch.Tensor
    direct: torch.Tensor
    copying: torch.Tensor
    ioi_without: torch.Tensor
    induction_without: torch.Tensor


TITLES = {
    "previous": "previous",
    "duplicate": "duplicate",
    "induction": "induction",
    "end_io": "END to IO",
    "end_s1": "END to S1",
    "end_s2": "END to S2",
    "s2_s1": "S2 to S1",
    "direct": "direct effect",
    "copying": "copying",
    "ioi_without": "ioi without it",
    "induction_without": "induction without it",
}


def held_out(mini: Mini, name: str, seeds: int) -> list[Example]:
    """The held-out examples of a task over several seeds."""
    examples: list[Example] = []
    for seed in range(seeds):
        examples += check_examples(TASKS[name](mini, examples=32, seed=seed), mini).held_out
    return examples


def never_paired(count: int) -> list[Example]:
    """IOI prompts with pairs of names that no training text has."""
    rng = random.Random("never paired")
    examples = []
    for _ in range(count):
        _, prompt, answer = corpus.ioi_prompt(rng, held_out=True)
        names = [word for word in corpus.NAMES if f" {word}" in _words(prompt)]
        foils = tuple(f" {name}" for name in names if f" {name}" != answer)
        examples.append(Example(clean=prompt, corrupt=prompt, answers=(answer,), foils=foils))
    return examples


def _words(prompt: str) -> set[str]:
    return {f" {word.strip('.,')}" for word in prompt.split()}


def accuracy(mini: Mini, examples: Sequence[Example]) -> Accuracy:
    """How often the model prefers the answers, and how probable they are."""
    ids, ends = mini.ids([example.clean for example in examples])
    logits = mini.model(ids, use_cache=False).logits[torch.arange(len(ids)), ends]
    probabilities = logits.softmax(-1)
    top, preferred, total = 0, 0, 0.0
    for row, example in zip(probabilities, examples):
        answers = [mini.id(word) for word in example.answers]
        foils = [mini.id(word) for word in example.foils]
        right = row[answers].sum().item()
        top += int(row.argmax()) in answers
        preferred += right > row[foils].sum().item()
        total += right
    count = len(examples)
    different = len({example.clean for example in examples})
    return Accuracy(count, different, top / count, preferred / count, total / count)


def head_scores(
    mini: Mini, examples: Sequence[Example], random_words: Sequence[Example]
) -> HeadScores:
    """The scores of every head, on examples of the tasks `ioi` and `induction`."""
    duplicate, continuation = _repeated_words(mini)
    return HeadScores(
        previous=_previous_token(mini),
        duplicate=duplicate,
        induction=continuation,
        direct=_direct_effect(mini, examples),
        copying=_copying(mini),
        ioi_without=_without_each(mini, examples),
        induction_without=_without_each(mini, random_words),
        **_names_attention(mini, examples),
    )


def _random_words(mini: Mini, rng: random.Random, count: int, *, distinct: bool) -> torch.Tensor:
    words = mini.tokenizer.convert_tokens_to_ids(corpus.words_to_repeat())
    draw = rng.sample if distinct else (lambda w, k: rng.choices(w, k=k))
    return torch.tensor([draw(words, count) for _ in range(SEQUENCES)])


def _after_bos(mini: Mini, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(ids, (1, 0), value=mini.tokenizer.bos_token_id)


def _previous_token(mini: Mini) -> torch.Tensor:
    """Mean attention from each word but the first to the word before it."""
    words = _random_words(mini, random.Random("random words"), RANDOM_WORDS, distinct=False)
    pattern = mini.attention(_after_bos(mini, words))
    return pattern.diagonal(-1, -2, -1)[..., 1:].mean((1, 3))


def _repeated_words(mini: Mini) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean attention from each repeated word to its first occurrence, and to the next word."""
    half = _random_words(mini, random.Random("repeated words"), REPEATED_WORDS, distinct=True)
    pattern = mini.attention(_after_bos(mini, torch.cat([half, half], 1)))

    def back(offset: int) -> torch.Tensor:
        return pattern.diagonal(-offset, -2, -1)[..., -REPEATED_WORDS:].mean((1, 3))

    return back(REPEATED_WORDS), back(REPEATED_WORDS - 1)


def _names_attention(mini: Mini, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Mean attention between the named positions of IOI prompts."""
    pattern = mini.attention(mini.ids([example.clean for example in examples])[0])
    rows = torch.arange(len(examples))

    def between(start: str, goal: str) -> torch.Tensor:
        query, key = (
            torch.tensor([e.positions[place] + 1 for e in examples]) for place in (start, goal)
        )
        return pattern[:, rows, :, query, key].mean(0)

    return {
        "end_io": between("END", "IO"),
        "end_s1": between("END", "S1"),
        "end_s2": between("END", "S2"),
        "s2_s1": between("S2", "S1"),
    }


def _direct_effect(mini: Mini, examples: Sequence[Example]) -> torch.Tensor:
    """What each head adds directly to the logit of IO minus that of S at END.

    The scale of the final norm is the one measured on that prompt.
    """
    ids, ends = mini.ids([example.clean for example in examples])
    rows = torch.arange(len(examples))
    norm, unembed = mini.model.gpt_neox.final_layer_norm, mini.unembedding.weight
    scale = torch.empty(0)

    def watch(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        nonlocal scale
        scale = (args[0].var(-1, unbiased=False) + norm.eps).sqrt()[rows, ends]

    hook = norm.register_forward_pre_hook(watch)
    with mini.mixed_values() as values:
        mini.model(ids, use_cache=False)
    hook.remove()
    answers = torch.tensor([mini.id(example.answers[0]) for example in examples])
    foils = torch.tensor([mini.id(example.foils[0]) for example in examples])
    direction = (unembed[answers] - unembed[foils]) * norm.weight / scale[:, None]
    direction = direction - direction.mean(-1, keepdim=True)
    effects = []
    for layer, value in enumerate(values):
        heads = value[rows, ends].reshape(-1, mini.heads, mini.head_size)
        written = torch.einsum("nhd,hdw->nhw", heads, mini.output_weights(layer))
        effects.append(torch.einsum("nhw,nw->nh", written, direction).mean(0))
    return torch.stack(effects)


def _copying(mini: Mini) -> torch.Tensor:
    """Share of names that a head makes one of the 5 most probable tokens when it attends to them.

    The head reads the name as the first block leaves it; NaN for the heads of that block.
    """
    names = [mini.id(f" {name}") for name in corpus.NAMES]
    ids = _after_bos(mini, torch.tensor(names)[:, None])
    body = mini.model.gpt_neox
    states = mini.model(ids, output_hidden_states=True, use_cache=False).hidden_states[1][:, 1]
    scores = [torch.full((mini.heads,), float("nan"))]
    for i, layer in enumerate(body.layers[1:], start=1):
        joint = layer.attention.query_key_value(layer.input_layernorm(states))
        value = joint.view(-1, mini.heads, 3, mini.head_size)[:, :, 2]
        written = torch.einsum("nhd,hdw->nhw", value, mini.output_weights(i))
        best = mini.unembedding(body.final_layer_norm(written)).topk(5).indices
        scores.append((best == torch.tensor(names)[:, None, None]).any(-1).float().mean(0))
    return torch.stack(scores)


def _without_each(mini: Mini, examples: Sequence[Example]) -> torch.Tensor:
    """Share of prompts whose most probable token is an answer when one head writes zero."""
    scores = torch.empty(mini.layers, mini.heads)
    for layer in range(mini.layers):
        for head in range(mini.heads):
            with mini.without(layer, head):
                scores[layer, head] = accuracy(mini, examples).top
    return scores


def accuracy_table(results: dict[str, Accuracy]) -> str:
    lines = [
        "| prompts | number | different | answer is the top token | answers over foils "
        "| mean probability of answers |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        lines.append(
            f"| {name} | {r.prompts} | {r.different} | {r.top:.2%} | {r.preferred:.2%} "
            f"| {r.probability:.3f} |"
        )
    return "\n".join(lines)


def head_table(scores: HeadScores) -> str:
    names = [field.name for field in fields(scores)]
    lines = [
        f"| head | {' | '.join(TITLES[name] for name in names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    layers, heads = scores.previous.shape
    for layer in range(layers):
        for head in range(heads):
            cells = [getattr(scores, name)[layer, head].item() for name in names]
            shown = ["" if cell != cell else f"{cell:.2f}" for cell in cells]
            lines.append(f"| {layer}.{head} | {' | '.join(shown)} |")
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    parser.add_argument("--seeds", type=int, default=16, help="of the tasks, 64 prompts each")
    options = parser.parse_args()
    torch.set_num_threads(2)
    mini = Mini(options.folder)
    prompts = {name: held_out(mini, name, options.seeds) for name in TASKS}
    prompts[NEVER_PAIRED] = never_paired(64 * options.seeds)
    print(accuracy_table({name: accuracy(mini, examples) for name, examples in prompts.items()}))
    print()
    print(head_table(head_scores(mini, prompts["ioi"][:512], prompts["induction"][:512])))


if __name__ == "__main__":
    main()
