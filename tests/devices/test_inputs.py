"""What goes to the device is sent in one piece, and what is read there is read once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from acdc_explain.evidence.effects import ablation
from acdc_explain.evidence.measurement import Measurement
from acdc_explain.models.activations import Batch
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.metrics import TokenSets
from acdc_explain.models.model import Model
from acdc_explain.models.positions import Positions
from acdc_explain.models.tokens import Tokens
from acdc_explain.records.circuit import Node
from acdc_explain.records.task import Example

from ..conftest import make_tokenizer, word_task
from .conftest import same
from .placed import on_device, waits_of
from .simulated import SimulatedDevice


class TestSent:
    @pytest.mark.parametrize("n", [1, 5])
    def test_prompts(self, simulated: SimulatedDevice, n: int) -> None:
        tokens = Tokens(make_tokenizer(), "words", context_length=32)
        rows = [[*range(2, 4 + row)] for row in range(n)]
        here = tokens.batch(rows, torch.device("cpu"))
        there = tokens.batch(rows, simulated.device)
        assert (simulated.uploads.total(), simulated.waits.total()) == (2, 0)
        assert same(there.tokens, here.tokens)
        assert same(there.end, here.end)

    @pytest.mark.parametrize("n", [1, 5])
    def test_token_sets(self, simulated: SimulatedDevice, n: int) -> None:
        sets = [[*range(row)] for row in range(n)]
        here, there = (TokenSets.of(sets, device) for device in ("cpu", simulated.device))
        assert (simulated.uploads.total(), simulated.waits.total()) == (2, 0)
        assert same(there.ids, here.ids)
        assert same(there.present, here.present)

    @pytest.mark.parametrize("names", ["A", "A B C D"])
    def test_positions(self, simulated: SimulatedDevice, names: str) -> None:
        at = {name: number for number, name in enumerate(names.split())}
        examples = [Example("x", "y", ("a",), ("b",), at)] * 3
        found = []
        for device in (torch.device("cpu"), simulated.device):
            batch = Batch(*(x.to(device) for x in (torch.zeros(3, 6), torch.full((3,), 5))))
            simulated.clear()
            positions = Positions("task", examples, batch, 1)
            found.append([positions.mask(name) for name in (*at, *at)])
        assert simulated.uploads.total() == 1
        assert all(same(there, here) for here, there in zip(*found))


class TestRead:
    def measurement(self, device: Any, n: int, **given: Any) -> Measurement:
        nodes = tuple(Node("head", 0, head) for head in range(n))
        samples = torch.rand(n, 8, generator=torch.Generator().manual_seed(0)).to(device)
        return Measurement("m", nodes, samples, **{k: f(samples) for k, f in given.items()})

    @pytest.mark.parametrize("n", [1, 6])
    @pytest.mark.parametrize("control", [None, torch.zeros_like])
    def test_a_measurement(self, simulated: SimulatedDevice, n: int, control: Any) -> None:
        def everything(device: Any) -> list[Any]:
            given = {} if control is None else {"control": control, "gaps": lambda x: x[0] + 1}
            found = self.measurement(device, n, **given)
            return [
                (found.facts(x), found.interval(x), found.beyond_chance(x), found.chance(x))
                for x in found.nodes
            ]

        here = everything("cpu")
        simulated.clear()
        assert everything(simulated.device) == here
        assert simulated.waits.total() == (1 if control is None else 3)

    def test_a_measurement_is_on_the_cpu(self, simulated: SimulatedDevice) -> None:
        found = self.measurement(
            simulated.device, 2, control=torch.zeros_like, gaps=torch.ones_like
        )
        assert {x.device.type for x in (found.samples, found.control, found.gaps)} == {"cpu"}


class TestMean:
    """Ablation by the mean over all tokens, padding left out."""

    def effects(self, model: Any, n: int) -> list[Tensor]:
        task = word_task(4)
        contrast = Contrast(model, task, task.discover)
        return [ablation(contrast, node, "mean") for node in model.graph.heads[:n]]

    def test_the_tokens_are_counted_once(
        self, simulated: SimulatedDevice, small_model: Any, model_folder: Any
    ) -> None:
        here, model = small_model("neox"), on_device(str(model_folder("neox")))
        self.effects(model, 1)  # the proof that layers can be run as functions is made once
        few = waits_of(simulated, lambda: self.effects(model, 1))
        assert waits_of(simulated, lambda: self.effects(model, 4)) == few
        for one, other in zip(self.effects(model, 4), self.effects(here, 4), strict=True):
            assert same(one, other)


def test_a_timed_pass_waits_for_its_end(simulated: SimulatedDevice) -> None:
    """Else the time of starting it would be taken."""
    output = SimpleNamespace(logits=torch.zeros(1, 1, 1, device=simulated.device))
    model = SimpleNamespace(hf_model=lambda tokens, use_cache: output)
    Model.forward_seconds(model, Batch(output.logits, output.logits), repeats=5)  # type: ignore[arg-type]
    assert simulated.waits.total() == 5
