"""Both engines against an independent way to cut edges, on every family that is accepted."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from acdc_explain.discovery.engine.fast import Engine
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.errors import UserError
from acdc_explain.models.activations import Batch
from acdc_explain.models.contrast import Contrast
from acdc_explain.records.task import Task

from ..conftest import word_task
from .family_oracle import FamilyOracle
from .test_families import recorded

TOLERANCE = 1e-4
CIRCUITS = ((0, 0.95), (1, 0.7), (2, 0.4), (3, 0.1), (4, 0.02))
"""Seeds, and the share of edges that is kept."""

ACCEPTED = [name for name, outcome in recorded().items() if outcome.engine != "refused"]
FIRST = ["gemma2", "falcon-40b", "nanochat"]


def tasks(name: str) -> Task:
    """Prompts longer than the windows (4 tokens), and some short ones beside them."""
    long, short = word_task(3, length=9), word_task(2, length=7 if "longrope" in name else 2)
    return Task("words", "", "kl", (*long.discover, *short.discover), ())


def ids(batch: Batch) -> list[list[int]]:
    """Each prompt's tokens without padding."""
    return [row[: end + 1].tolist() for row, end in zip(batch.tokens, batch.end.tolist())]


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected logit of the prompt."""
    return float(((found - expected).abs().amax(1) / expected.abs().amax(1)).max())


@pytest.fixture
def plain(model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """A family's model as transformers loads it."""

    def load(name: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            model_folder(name), attn_implementation="eager"
        ).eval()

    return load


@pytest.mark.slow_after(3)
@pytest.mark.parametrize("name", [*FIRST, *(name for name in ACCEPTED if name not in FIRST)])
def test_random_circuits(name, small_model, plain):
    oracle, model, task = FamilyOracle(plain(name)), small_model(name), tasks(name)
    contrast = Contrast(model, task, task.discover)
    pairs = list(zip(ids(contrast.clean), ids(contrast.corrupt)))
    assert len({len(clean) for clean, _ in pairs}) > 1

    def expected(cut: set[str]) -> Tensor:
        return torch.stack([oracle.logits(clean, corrupt, cut) for clean, corrupt in pairs])

    with torch.no_grad():
        own = torch.stack([oracle.model(torch.tensor([x])).logits[0, -1] for x, _ in pairs])
    assert error(expected(set()), own) <= TOLERANCE  # the oracle has found every part
    reference = ReferenceEngine(contrast)
    fast = Engine(contrast) if recorded()[name].engine == "fast" else None
    edges = list(model.graph.edges())
    for seed, share in CIRCUITS:
        kept = [edge for edge in edges if random.Random(f"{seed} {edge}").random() < share]
        wanted = expected({str(edge) for edge in edges} - {str(edge) for edge in kept})
        assert error(wanted, own) > 0.01  # the cuts matter
        assert error(reference.logits(reference.cut_except(kept)), wanted) <= TOLERANCE
        if fast is not None:
            assert error(fast.logits(kept), wanted) <= TOLERANCE


@torch.no_grad()
def test_padding_must_not_make_a_short_prompt_a_long_one(small_model, plain):
    """Phi 3 with other rotary positions for more than 6 tokens reads the two apart."""
    model, hf_model = small_model("phi3-longrope"), plain("phi3-longrope")
    short, long = [5, 6, 7], [5, 6, 7, 8, 9, 10, 11]
    for rows in ([short, short], [long, long]):
        (own,) = hf_model(model.batch_ids(rows[:1]).tokens).logits[:, -1]
        assert error(model.forward(model.batch_ids(rows))[:1], own[None]) <= TOLERANCE
    with pytest.raises(UserError, match="more than 6 tokens, and some prompts have more"):
        model.batch_ids([short, long])
