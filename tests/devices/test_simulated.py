"""Tensors of the simulated device have the CPU's numbers, and are where they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from ..conftest import make_hf_model
from .conftest import same, seeded, six
from .simulated import SimulatedDevice, simulated_device

FACTORIES: dict[str, Callable[[Any], Tensor]] = {
    "zeros": lambda device: torch.zeros(2, 3, device=device),
    "arange": lambda device: torch.arange(4, device=device),
    "full": lambda device: torch.full((2,), 3.0, device=device),
    "eye": lambda device: torch.eye(3, device=device),
    "linspace": lambda device: torch.linspace(0, 1, 5, device=device),
    "tensor": lambda device: torch.tensor([[1.0], [2.0]], device=device),
    "as_tensor": lambda device: torch.as_tensor(numpy.ones(2), device=device),
    "to": lambda device: torch.ones(2).to(device),
    "to text": lambda device: torch.ones(2).to(str(device)),
    "to tensor": lambda device: torch.ones(2).to(torch.zeros(1, device=device)),
    "new_zeros": lambda device: six(device).new_zeros(4),
    "new_tensor": lambda device: six(device).new_tensor([4, 5]),
    "ones_like": lambda device: torch.ones_like(six(device)),
    "like the CPU's": lambda device: torch.zeros_like(torch.ones(2), device=device),
    "own device": lambda device: torch.arange(3, device=six(device).device),
    "random": lambda device: torch.rand(4, device=device, generator=seeded(device)),
    "context": lambda device: in_context(device),
}


def in_context(device: Any) -> Tensor:
    with torch.device(device):
        return torch.ones(2)


@pytest.mark.parametrize("name", FACTORIES)
def test_tensors_are_made_on_the_device(simulated: SimulatedDevice, name: str) -> None:
    for device in ("cuda", "cuda:0", torch.device("cuda"), simulated.device):
        made = FACTORIES[name](device)
        assert made.is_cuda
        assert same(made, FACTORIES[name]("cpu"))


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "bmm": lambda x: torch.bmm(x[None], x.T[None], out=x.new_empty(1, 2, 2)),
    "softmax": lambda x: x.softmax(-1).masked_fill(x > 3, -torch.inf),
    "functional": lambda x: torch.nn.functional.gelu(torch.nn.functional.layer_norm(x, (3,))),
    "linear": lambda x: torch.nn.functional.linear(x, x, x.sum(1)),
    "index_copy": lambda x: x.index_copy(1, x[0, :2].long(), x[:, 1:]),
    "lists": lambda x: x[[1, 0]][:, [2]],
    "cat": lambda x: torch.cat([x, x.flip(0)]).cumsum(0).repeat(2, 1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True).squeeze_(1).unsqueeze_(0),
    "numbers": lambda x: 2 * x / 3 - 1 + (x > 1) + x.sum() + x.logsumexp((0, 1)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_give_the_numbers_of_the_cpu(simulated: SimulatedDevice, name: str) -> None:
    assert same(OPERATIONS[name](six()), OPERATIONS[name](six("cpu")))


def written(x: Tensor) -> Tensor:
    view = x[:, 1:]
    view += x[:, :1]
    x[0] *= 2
    x[1, 2] = 7.0
    x[..., 0] -= 1
    x.view(-1)[1:3].mul_(3).clamp_(max=5)
    x[x == 0] = 9.0
    return x.t_()


def test_writing_through_views(simulated: SimulatedDevice) -> None:
    x = six()
    assert written(x) is x
    assert same(x, written(six("cpu")))
    with torch.inference_mode():
        y = six()
        assert y.mul_(1) is y
        assert torch.ops.aten.mul_(y, 1) is y
    numbers = torch.zeros(3, 2)
    assert torch.ops.aten.copy_(numbers, x) is numbers
    assert torch.equal(numbers, written(six("cpu")))


def test_a_result_that_is_too_small_is_not_made_larger(simulated: SimulatedDevice) -> None:
    with pytest.raises(NotImplementedError, match="changes the form"):
        torch.mm(six(), six().T, out=torch.empty(0, device="cuda"))


def gradients(device: str) -> list[Tensor]:
    x = six(device).requires_grad_()
    seen: list[Tensor] = []
    scaled = x * x.softmax(-1)
    scaled[:, 1] += x[:, 0]  # in place, through a view
    middle = scaled.view_as(scaled)
    middle.retain_grad()
    middle.register_hook(seen.append)
    (middle @ middle.T).masked_fill(middle.new_ones(2, 2).triu(1).bool(), 0).sum().backward()
    assert x.grad is not None
    assert middle.grad is not None
    with torch.no_grad():
        x -= x.grad
    return [x.grad, middle.grad, seen[0], x.detach()]


def test_gradients(simulated: SimulatedDevice) -> None:
    for gradient, expected in zip(gradients("cuda"), gradients("cpu")):
        assert same(gradient, expected)


def test_a_gradient_goes_from_the_device_to_the_cpu(simulated: SimulatedDevice) -> None:
    leaf = six("cpu").requires_grad_()
    leaf.to("cuda").square().sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, 2 * six("cpu"))


@pytest.mark.parametrize("change", [lambda x: 2 * x, lambda x: x[[0, 0, 1]], lambda x: x.T])
def test_data_is_set(simulated: SimulatedDevice, change: Callable[[Tensor], Tensor]) -> None:
    x = torch.nn.Parameter(six())
    x.data = change(x.data)
    assert same(x.detach(), change(six("cpu")))
    assert (type(x), x.requires_grad) == (type(six()), True)
    assert isinstance(x, torch.nn.Parameter)
    for other in (x.data.double(), six("cpu")):
        with pytest.raises(NotImplementedError, match="same kind"):
            x.data = other


def test_memory_is_pinned(simulated: SimulatedDevice) -> None:
    x = six("cpu")
    assert same(x.pin_memory().to("cuda", non_blocking=True), x)
    assert not simulated.uploads


def test_modules_move_with_buffers_and_shared_parameters(simulated: SimulatedDevice) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    module.append(torch.nn.Linear(3, 3))
    module[2].weight = module[0].weight
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    assert module.to(simulated.device) is module
    assert all(same(value, expected[name]) for name, value in module.state_dict().items())
    assert module[2].weight is module[0].weight
    assert isinstance(module[2].weight, torch.nn.Parameter)
    assert len(list(module.parameters())) == 5
    module.to("cpu")
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_transformers_give_the_logits_of_the_cpu(family: str) -> None:
    model = make_hf_model(family)
    model.set_attn_implementation("eager")
    tokens = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    with torch.no_grad():
        expected = model(tokens).logits
        with simulated_device() as simulated:
            model.to(simulated.device)
            logits = model(tokens.to(simulated.device)).logits
            assert same(logits, expected)
            with pytest.raises(RuntimeError, match="same device"):
                model(tokens)


def test_the_context_ends() -> None:
    generator = torch.Generator
    with simulated_device():
        x = six()
    assert torch.Generator is generator
    assert not torch.__future__.get_swap_module_params_on_conversion()
    with pytest.raises(RuntimeError, match="inside its context only"):
        x + 1
    assert repr(x) == f"DeviceTensor({six('cpu')!r})"
