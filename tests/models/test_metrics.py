from __future__ import annotations

import math

import pytest
import torch

from acdc_explain.errors import UserError
from acdc_explain.models.metrics import METRICS, Targets, TokenSets, metric_named

LOGITS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 0.0]])
CPU = torch.device("cpu")
CLEAN = LOGITS + torch.arange(4) / 7
TARGETS = Targets(TokenSets.of([[3], [2]], CPU), TokenSets.of([[0, 1], [0]], CPU), lambda: CLEAN)


def test_logit_diff():
    assert METRICS["logit_diff"](LOGITS, TARGETS).tolist() == [4.0 - 1.5, 5.0]


def test_prob_diff():
    p = LOGITS.softmax(-1)
    expected = [float(p[0, 3] - p[0, 0] - p[0, 1]), float(p[1, 2] - p[1, 0])]
    assert METRICS["prob_diff"](LOGITS, TARGETS).tolist() == pytest.approx(expected)


def test_nll():
    p = LOGITS.softmax(-1)
    expected = [-math.log(p[0, 3]), -math.log(p[1, 2])]
    assert METRICS["nll"](LOGITS, TARGETS).tolist() == pytest.approx(expected, rel=1e-5)


def test_kl():
    expected = torch.nn.functional.kl_div(
        LOGITS.log_softmax(-1), CLEAN.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert METRICS["kl"](LOGITS, TARGETS).tolist() == pytest.approx(expected.tolist())
    assert METRICS["kl"](CLEAN, TARGETS).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_differentiable(name):
    logits = LOGITS.clone().double().requires_grad_(True)
    targets = Targets(TARGETS.answers, TARGETS.foils, CLEAN.double)
    assert torch.autograd.gradcheck(lambda x: METRICS[name](x, targets), logits)


def test_unknown_metric():
    with pytest.raises(UserError, match="There is no metric 'accuracy'; there are kl, logit_diff"):
        metric_named("accuracy")
