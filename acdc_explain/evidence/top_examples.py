"""Running text to find top-activating places in: a user's file, or what the model itself writes."""

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
from ..models.model import Batch, Hook, Model, head_index
from ..records.circuit import Node

TEXTS = 16
LENGTH = 24  # tokens
MOST_ROWS = 1000  # of a data set
SHOWN = 12  # tokens shown before the place, or more if it reads something further back
MARKS = "«", "»"  # around the token that a head reads
FROM_DATASETS = "datasets:"
OPENINGS = "The In When It This There After She He We I Then".split()


def corpus_batch(model: Model, corpus: str, *, seed: int = 0) -> Batch:
    """A seeded sample of lines of a UTF-8 text file or of `datasets:NAME`. Raises UserError."""
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
    """Tokens of a text: no more than the model reads."""
    return min(LENGTH, int(model.cfg.n_ctx) - len(model.prefix))


def _from_file(path: str) -> list[str]:
    try:
        return [Path(path).read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The corpus {path} cannot be read ({error}); give a UTF-8 file."
        ) from error


def _from_datasets(name: str) -> list[str]:
    """The first texts of a Hugging Face data set, by name or folder: its column `text`, or else
    its first one of text."""
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
def own_text(model: Model, *, seed: int = 0) -> Batch | None:
    """Texts the model writes by itself, sampled at temperature 1 from common first words.

    A vocabulary without such words is begun with any of its tokens; None: it has no ordinary one.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    ordinary = _ordinary(model)
    if not len(ordinary):
        return None
    rows = [[start] for start in _starts(model, ordinary, seed)]
    while len(rows[0]) < _length(model):
        probabilities = model.forward(model.batch_ids(rows)).float().softmax(-1)
        allowed = torch.zeros_like(probabilities)
        allowed[:, ordinary] = probabilities[:, ordinary]
        allowed[allowed.sum(-1) == 0] = torch.zeros_like(allowed[0]).index_fill(0, ordinary, 1.0)
        drawn = torch.multinomial(allowed, 1, generator=generator)[:, 0].tolist()
        rows = [[*row, token] for row, token in zip(rows, drawn)]
    return model.batch_ids(list(dict.fromkeys(map(tuple, rows))))


def _ordinary(model: Model) -> Tensor:
    """The tokens that can stand in a text; some models pad their vocabulary."""
    tokenizer = model.tokenizer
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    no_words = {tokenizer.unk_token_id, tokenizer.pad_token_id} - ends - {None}
    size = min(len(tokenizer), int(model.cfg.d_vocab))
    ids = [i for i in range(size) if i not in no_words]
    return torch.tensor(ids if set(ids) - ends else [], dtype=torch.long, device=model.device)


def _starts(model: Model, ordinary: Tensor, seed: int) -> list[int]:
    known = [ids[0] for word in OPENINGS if len(ids := model.token_ids(word)) == 1]
    starts = [i for i in known if i in ordinary] or [
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
    """For each node the places where what it writes is largest, one for each pair of tokens."""
    sizes, patterns = _sizes_and_patterns(model, batch)
    first = max(1, len(model.prefix))  # the first token is where heads rest: large and dull
    inside = torch.arange(batch.tokens.shape[1], device=model.device) <= batch.end[:, None]
    places: dict[Node, list[dict[str, Any]]] = {}
    for node in nodes:
        size = sizes[model.graph.writer_index[node]].masked_fill(~inside, 0.0)
        size[:, :first] = 0.0
        found: dict[tuple[str, str | None], dict[str, Any]] = {}
        for flat in size.flatten().argsort(descending=True)[: 20 * most].tolist():
            row, at = divmod(flat, size.shape[1])
            source = None
            if node.kind == "head":
                layer, head = head_index(node)
                source = int(patterns[layer, row, head, at, : at + 1].argmax())
            place = _place(model, batch, row, at, source)
            place["size"] = round(float(size[row, at]), 3)
            found.setdefault((place["token"], place.get("attends_to")), place)
            if len(found) == most:
                break
        places[node] = list(found.values())
    return places


def _place(model: Model, batch: Batch, row: int, at: int, source: int | None) -> dict[str, Any]:
    """The token, the text before it, and the token a head reads there, marked in the text."""
    ids = batch.tokens[row].tolist()
    start = max(len(model.prefix), min(at - SHOWN, at if source is None else source))
    pieces = {i: model.piece(ids[i]) for i in range(start, at + 1)}
    if source is not None and source in pieces:
        pieces[source] = MARKS[0] + pieces[source] + MARKS[1]
    place: dict[str, Any] = {"text": "".join(pieces.values()), "token": model.piece(ids[at])}
    if source is not None:
        place["attends_to"] = model.piece(ids[source])
        place["distance"] = at - source
    return place


@torch.no_grad()
def _sizes_and_patterns(
    model: Model, batch: Batch
) -> tuple[Float[Tensor, "writer batch pos"], Float[Tensor, "layer batch head query key"]]:
    """The norm of every writer's output, without keeping the outputs, and where heads attend."""
    sizes = torch.zeros(len(model.graph.writers), *batch.tokens.shape, device=model.device)
    patterns: list[Tensor] = []

    def record(writers: slice, value: Tensor) -> None:
        sizes[writers] = value.norm(dim=-1).to(sizes.dtype)

    hooks: list[Hook] = model.writer_hooks(record)
    hooks += [
        (f"blocks.{layer}.attn.hook_pattern", lambda value, hook: patterns.append(value))
        for layer in range(model.graph.n_layers)
    ]
    model.forward(batch, hooks)
    return sizes, torch.stack(patterns)
