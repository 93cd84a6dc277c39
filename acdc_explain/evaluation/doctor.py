"""What a model is, whether cutting edges is exact on it, and what a search would cost."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict
from typing import Any

import torch

from ..discovery.acdc import Search, SearchResult
from ..discovery.attribution import score_edges
from ..discovery.engine.choose import AnyEngine
from ..discovery.engine.fast import Engine
from ..discovery.engine.proof import Proof, prove
from ..discovery.engine.reference import ReferenceEngine
from ..models.activations import search_bytes
from ..models.contrast import Contrast
from ..models.model import Model
from ..progress import silent
from ..records.task import Example, Task

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Anna and Paul went to the store, Lisa gave a drink to"
PROMPTS = 8
TAU = 0.01  # nats, of the search whose first seconds are timed
SECONDS = 3.0  # how long it is timed


def examine(model: Model) -> dict[str, Any]:
    """Check a model and time it.

    Args:
        model: The model.

    Returns:
        What was loaded, every check with its number, the engine and why, and what a forward pass
        and a search take.
    """
    task = _any_task(model)
    contrast = Contrast(model, task, task.discover, "kl")
    proof = prove(contrast)
    checks = [*model.checks, *proof.checks]
    return {
        **_shape(model),
        "engine": _engine_name(proof),
        "self_check": "passed" if proof.is_exact else f"failed: {proof.trouble('reference')}",
        "checks": [{**asdict(check), "passed": check.passed} for check in checks],
        "forward_seconds": model.forward_seconds(contrast.clean),
        "forward_batch": " x ".join(map(str, contrast.clean.tokens.shape)) + " tokens",
        "threads": torch.get_num_threads(),
        **(_costs(contrast, proof) if proof.is_exact else {}),
    }


def _shape(model: Model) -> dict[str, Any]:
    graph = model.graph
    return {
        "model": model.name,
        "id": model.id,
        "architecture": model.architecture,
        "parameters": model.n_parameters,
        "device": str(model.device),
        "dtype": model.dtype_name,
        "layers": graph.n_layers,
        "heads_per_layer": graph.n_heads,
        "edges": graph.n_edges,
        "context_tokens": model.context_length,
        "special_tokens_before_a_prompt": "".join(model.piece(i) for i in model.prefix) or "none",
        "norms_after_heads": "scaled as in the present run" if model.has_post_norms else "none",
    }


def _engine_name(proof: Proof) -> str:
    reason = proof.not_fast or proof.trouble("fast")
    return "fast" if reason is None else f"reference (a forward pass an edge): {reason}"


# --- costs ---------------------------------------------------------------------------------------


def _costs(contrast: Contrast, proof: Proof) -> dict[str, Any]:
    """Memory by formula, and the measured seconds of the methods of discovery."""
    model = contrast.model
    stream = contrast.clean.tokens.numel() * model.d_model
    memory = search_bytes(model.graph, stream, model.dtype.itemsize, model.has_post_norms)
    engine = Engine(contrast, in_groups=True) if proof.is_fast else ReferenceEngine(contrast)
    per_edge, n_timed = _seconds_per_edge(engine)
    started = time.perf_counter()
    score_edges(contrast, silent)
    return {
        "weights_gigabytes": round(model.weight_bytes / 1e9, 3),
        "search_gigabytes": round(memory / 1e9, 3),
        "eap_seconds": round(time.perf_counter() - started, 3),
        "acdc_seconds_per_tested_edge": round(per_edge, 6),
        "acdc_edges_timed": n_timed,
        "acdc_seconds_if_every_edge_is_tested": round(per_edge * model.graph.n_edges, 1),
    }


class _Enough(Exception):
    """The search has been timed long enough."""


def _seconds_per_edge(engine: AnyEngine) -> tuple[float, int]:
    """Seconds for each edge tested in the first seconds of a search, and how many were tested."""
    started, tested = time.perf_counter(), 0

    def report(done: int, total: int, result: SearchResult) -> None:
        nonlocal tested
        tested = result.n_tested
        if time.perf_counter() - started > SECONDS:
            raise _Enough

    with contextlib.suppress(_Enough):
        Search(engine, report).run(TAU)
    return (time.perf_counter() - started) / max(tested, 1), tested


def _any_task(model: Model) -> Task:
    """A task with one pair of prompts of equal length, which is all that the checks need."""
    length = min(len(model.token_ids(CLEAN)), len(model.token_ids(CORRUPT)))
    clean, corrupt = (
        model.tokenizer.decode(model.token_ids(text)[:length]) for text in (CLEAN, CORRUPT)
    )
    word = model.piece(model.token_ids(CLEAN)[0])
    example = Example(clean, corrupt, (word,), ())
    return Task("doctor", "", "kl", (example,) * PROMPTS, ())
