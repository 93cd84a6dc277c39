"""Checks of a model: is cutting edges exact on it, and how long does a forward pass take?"""

from __future__ import annotations

from typing import Any

import torch

from ..discovery.engine.fast import fast_trouble
from ..discovery.engine.reference import ReferenceEngine
from ..models.contrast import Contrast
from ..models.model import Model
from ..records.task import Example, Task

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Anna and Paul went to the store, Lisa gave a drink to"


def examine(model: Model) -> dict[str, Any]:
    """Check a model and time it.

    Args:
        model: The model.

    Returns:
        What was loaded, whether the engine's self-check passes, and the seconds of a forward pass.
    """
    task = _any_task(model)
    contrast = Contrast(model, task, task.discover, "kl")
    not_fast = fast_trouble(contrast)  # why the fast engine cannot run this model
    trouble = ReferenceEngine(contrast).self_check() if not_fast is not None else None
    graph = model.graph
    size = " x ".join(map(str, contrast.clean.tokens.shape))
    return {
        "model": model.name,
        "id": model.id,
        "architecture": model.cfg.architecture,
        "parameters": model.n_parameters,
        "layers": graph.n_layers,
        "heads_per_layer": graph.n_heads,
        "edges": graph.n_edges,
        "special_tokens_before_a_prompt": "".join(model.piece(i) for i in model.prefix) or "none",
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "engine": "fast" if not_fast is None else f"reference (a forward pass an edge): {not_fast}",
        "self_check": trouble or "passed",
        "forward_seconds": model.forward_seconds(contrast.clean),
        "forward_batch": f"{size} tokens",
        "threads": torch.get_num_threads(),
    }


def _any_task(model: Model) -> Task:
    """A task with one pair of prompts of equal length, which is all that the self-check needs."""
    length = min(len(model.token_ids(CLEAN)), len(model.token_ids(CORRUPT)))
    clean, corrupt = (
        model.tokenizer.decode(model.token_ids(text)[:length]) for text in (CLEAN, CORRUPT)
    )
    word = model.piece(model.token_ids(CLEAN)[0])
    example = Example(clean, corrupt, (word,), ())
    return Task("doctor", "", "kl", (example,) * 8, ())
