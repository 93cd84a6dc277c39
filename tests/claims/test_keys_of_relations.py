"""The keys that claims name by a relation."""

from __future__ import annotations

from typing import Any

import torch

from acdc_explain.claims.keys import KEYS, continuation, last_same, previous
from acdc_explain.models.activations import Batch
from acdc_explain.models.contrast import Contrast
from acdc_explain.records.claim import RELATIONS

from ..conftest import word_task


def subject_of(model: Any) -> Contrast:
    task = word_task(4)
    return Contrast(model, task, task.discover)


def batch_of(*rows: list[int]) -> Batch:
    tokens = torch.tensor(rows)
    return Batch(tokens, torch.full((len(rows),), tokens.shape[1] - 1))


class TestKeys:
    """Keys by their relation to the query; off by one is another claim."""

    def test_the_last_earlier_occurrence(self):
        found = last_same(batch_of([1, 5, 6, 5, 7, 5]))[0].nonzero().tolist()
        assert found == [[3, 1], [5, 3]]

    def test_the_token_after_it(self, small_model):
        contrast = subject_of(small_model("gpt2"))
        contrast.clean = batch_of([1, 5, 6, 5, 7, 5])
        assert continuation(contrast)[0].nonzero().tolist() == [[3, 2], [5, 4]]

    def test_the_token_before(self, small_model):
        contrast = subject_of(small_model("gpt2"))
        contrast.clean = batch_of([1, 5, 6, 7])
        assert previous(contrast)[0].nonzero().tolist() == [[1, 0], [2, 1], [3, 2]]

    def test_every_relation_has_keys(self):
        assert tuple(KEYS) == RELATIONS
