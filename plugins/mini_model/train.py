"""Train `mini` from scratch and save it: `python -m acdc_explain_plugins.mini_model.train`."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from . import corpus
from .network import Recipe, build_model, build_tokenizer

UNSCORED = -100


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both [text pos]."""

    ids: torch.Tensor
    labels: torch.Tensor  # the ids again, and UNSCORED where nothing is to be learned


@dataclass(frozen=True)
class Lesson:
    """A loss that teaches one head where to attend, early in training.

    It fades out; after that only the language-model loss keeps the head as it is.
    """

    layer: int
    head: int
    goal: Callable[[Batch], torch.Tensor]  # [text query key], true where it should attend


def text_batches(
    tokenizer: PreTrainedTokenizerFast, number: int, rng: random.Random
) -> Iterator[Batch]:
    """Texts in which every token is scored, the end of the text included."""
    documents = corpus.documents(rng)
    while True:
        rows = [
            [*ids, tokenizer.bos_token_id]
            for ids in tokenizer(list(islice(documents, number))).input_ids
        ]
        yield _padded(rows, [[True] * len(row) for row in rows], tokenizer.pad_token_id)


def question_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, rng: random.Random
) -> Iterator[Batch]:
    """IOI questions of which only the answer is scored; in whole texts it weighs too little."""
    for vocabulary in _vocabularies(recipe, rng):
        drawn = [corpus.question(rng, vocabulary) for _ in range(recipe.questions)]
        rows = tokenizer([prompt + answer for prompt, answer in drawn]).input_ids
        scored = [[False] * (len(row) - 1) + [True] for row in rows]
        yield _padded(rows, scored, tokenizer.pad_token_id)


def sequence_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, rng: random.Random
) -> Iterator[Batch]:
    """Random words, scored only where the sequence so far determines the next one."""
    for vocabulary in _vocabularies(recipe, rng):
        words = tokenizer.convert_tokens_to_ids(vocabulary)
        rows = []
        for i in range(recipe.sequences):
            draw = corpus.repeat if i % 4 == 0 else corpus.walk
            rows.append([tokenizer.bos_token_id, *draw(rng, words, recipe.length - 1)])
        yield _padded(rows, [corpus.predictable(row) for row in rows], tokenizer.pad_token_id)


def _vocabularies(recipe: Recipe, rng: random.Random) -> Iterator[list[str]]:
    """The words to draw from in each step: few at first, all of them in the end.

    Comparing words is learned much sooner with few of them, and then works for all.
    """
    words = corpus.words_to_repeat()
    rng.shuffle(words)
    for step in count():
        doublings = step / (recipe.doubling * recipe.steps)
        yield words[: int(recipe.first_words * 2**doublings)]


def _padded(rows: list[list[int]], scored: list[list[bool]], pad: int) -> Batch:
    longest = max(map(len, rows))
    ids = [row + [pad] * (longest - len(row)) for row in rows]
    labels = [
        [token if score else UNSCORED for token, score in zip(row, scores)]
        + [UNSCORED] * (longest - len(row))
        for row, scores in zip(rows, scored)
    ]
    return Batch(torch.tensor(ids), torch.tensor(labels))


def same_word_before(batch: Batch) -> torch.Tensor:
    """For each scored word, its earlier occurrences."""
    same = batch.ids[:, :, None] == batch.ids[:, None, :]
    scored = (batch.labels != UNSCORED)[:, :, None]
    return (same & scored).tril(-1)


def answer_before(batch: Batch) -> torch.Tensor:
    """For the end of each question, the positions of its answer."""
    following, scored = batch.ids.roll(-1, 1), batch.labels.roll(-1, 1) != UNSCORED
    same = following[:, :, None] == batch.ids[:, None, :]
    return (same & scored[:, :, None]).tril()


DUPLICATE = Lesson(layer=0, head=0, goal=same_word_before)
MOVER = Lesson(layer=2, head=0, goal=answer_before)


def losses_on(
    model: GPTNeoXForCausalLM, batch: Batch, lesson: Lesson | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the predictions, and that of the lesson (zero without one)."""
    output = model(batch.ids, use_cache=False, output_attentions=lesson is not None)
    predictions, following = output.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
    loss = cross_entropy(predictions, following, ignore_index=UNSCORED)
    if lesson is None:
        return loss, torch.zeros(())
    goal = lesson.goal(batch)
    attended = (output.attentions[lesson.layer][:, lesson.head] * goal).sum(-1)[goal.any(-1)]
    return loss, -(attended + 1e-3).log().mean()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine decay to a fiftieth."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> None:
    """Train on texts, questions and random sequences, which weigh the same in every step.

    Prints every 100 steps the loss of each and, in brackets, that of its lesson.
    """
    rngs = [random.Random(f"{name} {seed}") for name in ("texts", "questions", "sequences")]
    parts = (
        ("texts", text_batches(tokenizer, recipe.texts, rngs[0]), None),
        ("questions", question_batches(tokenizer, recipe, rngs[1]), MOVER),
        ("sequences", sequence_batches(tokenizer, recipe, rngs[2]), DUPLICATE),
    )
    optimizer = _optimizer(model, recipe)
    started = time.monotonic()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.zero_grad()
        fading = max(0.0, 1 - step / (recipe.lessons * recipe.steps))
        losses = []
        for name, batches, lesson in parts:
            loss, attention = losses_on(model, next(batches), lesson if fading else None)
            (loss + fading * attention).backward()  # type: ignore[no-untyped-call]
            losses.append(f"{name} {loss.item():.3f} ({attention.item():.3f})")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == recipe.steps - 1:
            _log(f"step {step:5d}  {'  '.join(losses)}  {time.monotonic() - started:.0f} s")


def _optimizer(model: GPTNeoXForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def save(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save in half precision, as the folder is shipped with the package."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    # A class name that older and newer versions of transformers both know.
    settings = {**json.loads(config.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    recipe = Recipe(steps=options.steps)
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(recipe, tokenizer)
    _log(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, recipe, options.seed)
    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
