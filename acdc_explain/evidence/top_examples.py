"""The tokens of a text at which components write most, and the text to look in.

The text is a user's file or data set, or else sampled from the model itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..models.activations import Batch, head_index, pattern_hooks, writer_hooks
from ..models.model import Model
from ..records.circuit import Node

TEXTS = 16
LENGTH = 24  # tokens
MOST_ROWS = 1000  # of a data set
SHOWN = 12  # tokens shown before a top token, or more if the head attends further back
MARKS = "«", "»"  # around the token that a head attends to
FROM_DATASETS = "datasets:"
OPENINGS = "The In When It This There After She He We I Then".split()


def corpus_batch(model: Model, corpus: str, *, seed: int = 0) -> Batch:
    """A seeded sample of lines of a text.

    Args:
        model: Whose tokenizer cuts the lines.
        corpus: A UTF-8 text file, or `datasets:NAME` for a Hugging Face data set or folder.
        seed: Of the sample.

    Raises:
        UserError: The corpus cannot be read or has no usable line.
    """
    if corpus.startswith(FROM_DATASETS):
        texts = _from_datasets(corpus.removeprefix(FROM_DATASETS))
    else:
        texts = _from_file(corpus)
    lines = [line for text in texts for line in text.splitlines() if len(line.split()) >= 5]
    if not lines:
        raise UserError(f"The corpus {corpus} has no line of five words or more; give more text.")
    chosen = random.Random(seed).sample(lines, min(TEXTS, len(lines)))
    rows = [row for line in chosen if (row := model.token_ids(line)[: _length(model)])]
    if not rows:
        raise UserError(f"The corpus {corpus} has no token of this model; use another.")
    return model.batch_ids(list(dict.fromkeys(map(tuple, rows))))


def _length(model: Model) -> int:
    """The most tokens of a text, no more than fit the model's context."""
    return min(LENGTH, model.context_length - len(model.prefix))


def _from_file(path: str) -> list[str]:
    try:
        return [Path(path).read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The corpus {path} cannot be read ({error}); give a UTF-8 file."
        ) from error


def _from_datasets(name: str) -> list[str]:
    """The first texts of a data set: its column `text`, or else its first column of strings."""
    from datasets import load_dataset

    try:
        rows = list(islice(load_dataset(name, split="train", streaming=True), MOST_ROWS))
    except Exception as error:  # whatever a hub, a script or a file makes it raise
        raise UserError(f"The data set {name!r} cannot be read ({_line(error)}).") from error
    columns = [key for key, value in rows[0].items() if isinstance(value, str)] if rows else []
    if not columns:
        raise UserError(f"The data set {name!r} has no column of text; use another.")
    column = "text" if "text" in columns else columns[0]
    return [row[column] for row in rows]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@torch.no_grad()
def generated_text(model: Model, *, seed: int = 0) -> Batch | None:
    """Texts sampled from the model at temperature 1, beginning with common first words.

    If the vocabulary has no such word, they begin with any of its tokens.

    Returns:
        The texts without duplicates; None if the vocabulary has no ordinary token.
    """
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same text on every device
    ordinary = _ordinary(model)
    if not len(ordinary):
        return None
    rows = [[start] for start in _starts(model, ordinary, seed)]
    while len(rows[0]) < _length(model):
        probabilities = model.forward(model.batch_ids(rows)).float().softmax(-1).cpu()
        allowed = torch.zeros_like(probabilities)
        allowed[:, ordinary] = probabilities[:, ordinary]
        allowed[allowed.sum(-1) == 0] = torch.zeros_like(allowed[0]).index_fill(0, ordinary, 1.0)
        sampled = torch.multinomial(allowed, 1, generator=generator)[:, 0].tolist()
        rows = [[*row, token] for row, token in zip(rows, sampled)]
    return model.batch_ids(list(dict.fromkeys(map(tuple, rows))))


def _ordinary(model: Model) -> Tensor:
    """The ids of tokens that can occur in a text; some models pad their vocabulary."""
    tokenizer = model.tokenizer
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    no_words = {tokenizer.unk_token_id, tokenizer.pad_token_id} - ends - {None}
    ids = [i for i in range(model.n_tokens) if i not in no_words]
    return torch.tensor(ids if set(ids) - ends else [], dtype=torch.long)


def _starts(model: Model, ordinary: Tensor, seed: int) -> list[int]:
    """TEXTS first tokens: common openings, or else " a", or else random tokens."""
    openings = [ids[0] for word in OPENINGS if len(ids := model.token_ids(word)) == 1]
    starts = [i for i in openings if i in ordinary] or [
        i for i in model.token_ids(" a")[:1] if i in ordinary
    ]
    if not starts:
        special = set(model.tokenizer.all_special_ids)
        words = [i for i in ordinary.tolist() if i not in special] or ordinary.tolist()
        starts = random.Random(seed).sample(words, min(TEXTS, len(words)))
    return [starts[i % len(starts)] for i in range(TEXTS)]


def strongest_places(
    model: Model, batch: Batch, nodes: Sequence[Node], most: int
) -> dict[Node, list[dict[str, Any]]]:
    """For each node, up to `most` tokens at which the norm of its output is largest.

    Each token comes once; for a head, each pair of the token and the one it attends to most.

    Returns:
        By node, the largest first: `text` up to the token, the `token`, the `size` of the output;
        for heads also the token it `attends_to` and its `distance`.
    """
    sizes, patterns = _sizes_and_patterns(model, batch)
    ids = batch.tokens.tolist()
    first = max(1, len(model.prefix))  # the first token is an attention sink: large everywhere
    inside = torch.arange(batch.tokens.shape[1]) <= batch.end.cpu()[:, None]
    places: dict[Node, list[dict[str, Any]]] = {}
    for node in nodes:
        size = sizes[model.graph.writer_index[node]].masked_fill(~inside, 0.0)
        size[:, :first] = 0.0
        distinct: dict[tuple[str, str | None], dict[str, Any]] = {}
        for flat in size.flatten().argsort(descending=True)[: 20 * most].tolist():
            row, query = divmod(flat, size.shape[1])
            key = None
            if node.kind == "head":
                layer, head = head_index(node)
                key = int(patterns[layer, row, head, query, : query + 1].argmax())
            place = _place(model, ids[row], query, key)
            place["size"] = round(float(size[row, query]), 3)
            distinct.setdefault((place["token"], place.get("attends_to")), place)
            if len(distinct) == most:
                break
        places[node] = list(distinct.values())
    return places


def _place(model: Model, ids: Sequence[int], query: int, key: int | None) -> dict[str, Any]:
    """The token at `query`, the text before it, and the token at `key`, marked in the text."""
    start = max(len(model.prefix), min(query - SHOWN, query if key is None else key))
    pieces = {i: model.piece(ids[i]) for i in range(start, query + 1)}
    if key is not None and key in pieces:
        pieces[key] = MARKS[0] + pieces[key] + MARKS[1]
    place: dict[str, Any] = {"text": "".join(pieces.values()), "token": model.piece(ids[query])}
    if key is not None:
        place["attends_to"] = model.piece(ids[key])
        place["distance"] = query - key
    return place


@torch.no_grad()
def _sizes_and_patterns(
    model: Model, batch: Batch
) -> tuple[Float[Tensor, "writer batch pos"], Float[Tensor, "layer batch head query key"]]:
    """The norm of every node's output, and attention patterns, on the CPU. Outputs are not kept."""
    sizes = torch.zeros(len(model.graph.writers), *batch.tokens.shape, device=model.device)
    patterns: list[Tensor] = []

    def record(writers: slice, value: Tensor) -> None:
        sizes[writers] = value.norm(dim=-1).to(sizes.dtype)

    hooks = [*writer_hooks(model.graph, record), *pattern_hooks(model.graph, patterns.append)]
    model.forward(batch, hooks)
    return sizes.cpu(), torch.stack(patterns).cpu()
