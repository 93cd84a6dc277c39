"""`mini` and its tasks on a device, and how often a place waits there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from acdc_explain.models import loading
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins

from .simulated import SimulatedDevice

PLUGINS = load_plugins()
JUDGES = ("claims", "prediction", "sufficiency", "role_card", "transfer", "interchange")
MEASURING = ("acdc_explain/evidence/", "acdc_explain_plugins/", "plugins/")
OTHERS = ("acdc_explain/models/network/", "acdc_explain/models/functional/")
"""What is found out about a model once, whatever is asked about it."""


def on_device(name: str) -> Any:
    """A model on the simulated device."""
    return loading.load_model(name, device="cuda", sources=PLUGINS.models())


def prompts(model: Any, task: str = "ioi", n: int = 3, *, times: int = 1) -> Contrast:
    """A model on `n` prompts of a task, each of them `times` times."""
    built = PLUGINS.tasks()[task](model, examples=n, seed=0)
    return Contrast(model, built, built.discover * times)


def waits_of(simulated: SimulatedDevice, work: Callable[[], object]) -> Counter[str]:
    """How often each place waited for the device, or sent something to it, during some work."""
    simulated.clear()
    work()
    both = simulated.waits + simulated.uploads
    return Counter({place: n for place, n in both.items() if not place.startswith(OTHERS)})


def most(waits: Counter[str]) -> int:
    """The most waits of one place of measures, collectors and judges."""
    return max((n for place, n in waits.items() if place.startswith(MEASURING)), default=0)
