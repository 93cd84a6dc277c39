"""The device of each test, and tensors on it or on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from .simulated import SimulatedDevice, simulated_device


@pytest.fixture
def simulated() -> Iterator[SimulatedDevice]:
    with simulated_device() as device:
        yield device


def six(device: str = "cuda") -> Tensor:
    """Six numbers, which no wait and no upload makes."""
    return torch.arange(6.0, device=device).view(2, 3)


def rows(*numbers: int, device: str = "cuda") -> Tensor:
    return torch.tensor(numbers, device=device)


def seeded(device: Any) -> torch.Generator:
    return torch.Generator(device).manual_seed(1)


def same(tensor: Tensor, expected: Tensor) -> bool:
    """Whether a tensor of the device has the CPU's numbers."""
    return tensor.device == torch.device("cuda", 0) and torch.equal(tensor.cpu(), expected)
