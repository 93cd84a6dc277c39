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
from tokenizers import Regex, decoders, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from . import corpus

UNSCORED = -100
BOS, UNK, PAD = "<bos>", "<unk>", "<pad>"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned, next to the corpus."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    mlp: int = 256
    longest: int = 128  # tokens of a text
    rotary_base: float = 1000.0  # texts are short; slower rotations would hardly move
    weights: float = 0.06  # standard deviation of the first weights
    embeddings: float = 0.5  # of the first embeddings: larger than what the blocks first add
    biases: float = 1.0  # of the first biases of queries and keys
    steps: int = 2600
    lessons: float = 0.6  # share of the steps in which they fade out
    texts: int = 24  # per step
    questions: int = 32  # per step
    sequences: int = 32  # per step, of random words
    length: int = 48  # of those sequences
    first_words: int = 32  # questions and sequences begin with so few different words
    doubling: float = 0.1  # share of the steps in which their number doubles
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05


@dataclass(frozen=True)
class Batch:
    ids: torch.Tensor
    labels: torch.Tensor  # the ids again, and UNSCORED where nothing is to be learned


@dataclass(frozen=True)
class Lesson:
    """Early in training, where one head should look: it fades out, and the loss has to keep it."""

    layer: int
    head: int
    goal: Callable[[Batch], torch.Tensor]  # rows x to x from: true where it should look


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words with the space before them, and each digit for itself."""
    tokens = [BOS, UNK, PAD, *corpus.vocabulary()]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Backend(WordLevel(vocab, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(corpus.PIECES), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, vocab[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=BOS,  # a text ends where the next one would begin
        unk_token=UNK,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=Recipe.longest,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    """A small decoder whose blocks read the stream one after the other (no parallel residual).

    The first weights are chosen such that heads form soon. Biases of queries and keys give each
    head a taste for some distance, of which a previous-token head can grow. The unembedding
    begins as the embedding (they are not tied), and heads after the first block begin by writing
    back what they read, so that copying is easy to find.
    """
    model = GPTNeoXForCausalLM(_config(recipe, tokenizer))
    model.set_attn_implementation("eager")  # shows the attention, which lessons need
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        embedding.weight.normal_(std=recipe.embeddings)
        unembedding.weight.copy_(0.1 * embedding.weight)
        for i, layer in enumerate(model.gpt_neox.layers):
            attention = layer.attention
            attention.query_key_value.bias.view(recipe.heads, 3, -1)[:, :2].normal_(
                std=recipe.biases
            )
            values = attention.query_key_value.weight.view(recipe.heads, 3, -1, recipe.width)[:, 2]
            if i == 0:
                attention.dense.weight.mul_(0.3)
            else:
                attention.dense.weight.copy_(values.flatten(0, 1).T)
            layer.mlp.dense_4h_to_h.weight.mul_(0.3)
    return model


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.mlp,
        max_position_embeddings=recipe.longest,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": recipe.rotary_base,
            "partial_rotary_factor": 1.0,
        },
        use_parallel_residual=False,
        initializer_range=recipe.weights,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def text_batches(
    tokenizer: PreTrainedTokenizerFast, number: int, rng: random.Random
) -> Iterator[Batch]:
    """Sentences, every token scored, and the end of the text as well."""
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
    """Who is not named twice? Only the answer is scored, which drowns in whole texts."""
    for known in _known_words(recipe, rng):
        drawn = [corpus.question(rng, known) for _ in range(recipe.questions)]
        rows = tokenizer([prompt + answer for prompt, answer in drawn]).input_ids
        scored = [[False] * (len(row) - 1) + [True] for row in rows]
        yield _padded(rows, scored, tokenizer.pad_token_id)


def sequence_batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, rng: random.Random
) -> Iterator[Batch]:
    """Random words; only what can be known from earlier in the sequence is scored."""
    for known in _known_words(recipe, rng):
        words = tokenizer.convert_tokens_to_ids(known)
        rows = []
        for i in range(recipe.sequences):
            make = corpus.repeat if i % 4 == 0 else corpus.walk
            rows.append([tokenizer.bos_token_id, *make(rng, words, recipe.length - 1)])
        yield _padded(rows, [corpus.predictable(row) for row in rows], tokenizer.pad_token_id)


def _known_words(recipe: Recipe, rng: random.Random) -> Iterator[list[str]]:
    """The words to draw from in each step: few at first, all of them in the end.

    Comparing words is found much sooner with few of them, and then holds for the others as well.
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
        [token if keep else UNSCORED for token, keep in zip(row, kept)]
        + [UNSCORED] * (longest - len(row))
        for row, kept in zip(rows, scored)
    ]
    return Batch(torch.tensor(ids), torch.tensor(labels))


def same_word_before(batch: Batch) -> torch.Tensor:
    """Where a word of a random sequence stood before."""
    same = batch.ids[:, :, None] == batch.ids[:, None, :]
    scored = (batch.labels != UNSCORED)[:, :, None]
    return (same & scored).tril(-1)


def answer_before(batch: Batch) -> torch.Tensor:
    """At the end of a question: where its answer stands."""
    following, scored = batch.ids.roll(-1, 1), batch.labels.roll(-1, 1) != UNSCORED
    same = following[:, :, None] == batch.ids[:, None, :]
    return (same & scored[:, :, None]).tril()


DUPLICATE = Lesson(layer=0, head=0, goal=same_word_before)
MOVER = Lesson(layer=2, head=0, goal=answer_before)


def losses_on(
    model: GPTNeoXForCausalLM, batch: Batch, lesson: Lesson | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """How badly tokens are predicted, and how little the lesson's head looks where it should."""
    output = model(batch.ids, use_cache=False, output_attentions=lesson is not None)
    predictions, following = output.logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
    loss = cross_entropy(predictions, following, ignore_index=UNSCORED)
    if lesson is None:
        return loss, torch.zeros(())
    goal = lesson.goal(batch)
    looking = (output.attentions[lesson.layer][:, lesson.head] * goal).sum(-1)[goal.any(-1)]
    return loss, -(looking + 1e-3).log().mean()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int
) -> None:
    """Texts, questions and random sequences weigh the same in every step.

    Says now and then how badly each is predicted, and (in brackets) how badly lessons are kept.
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
        shown = []
        for name, batches, lesson in parts:
            loss, attention = losses_on(model, next(batches), lesson if fading else None)
            (loss + fading * attention).backward()  # type: ignore[no-untyped-call]
            shown.append(f"{name} {loss.item():.3f} ({attention.item():.3f})")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == recipe.steps - 1:
            _say(f"step {step:5d}  {'  '.join(shown)}  {time.monotonic() - started:.0f} s")


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def save(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Half precision: the folder is shipped with the package."""
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    # The name that older and newer versions of transformers both know.
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
    _say(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, recipe, options.seed)
    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
