"""The simulated device has CUDA's rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from .conftest import rows, same, seeded, six
from .simulated import PACKAGES, SimulatedDevice, simulated_device

# --- what fails --------------------------------------------------------------------------------

MIXED: dict[str, Callable[[], Any]] = {
    "add": lambda: six() + six("cpu"),
    "add to the CPU": lambda: six("cpu") + six(),
    "add a scalar of the device to the CPU": lambda: six("cpu") + six().sum(),
    "write into a scalar of the CPU": lambda: torch.tensor(1.0).add_(six().sum()),
    "write into the CPU": lambda: six("cpu").mul_(six()),
    "matmul": lambda: six() @ six("cpu").T,
    "einsum": lambda: torch.einsum("ij,ij->i", six(), six("cpu")),
    "cat": lambda: torch.cat([six(), six("cpu")]),
    "stack of scalars": lambda: torch.stack([six().sum(), six("cpu").sum()]),
    "where": lambda: torch.where(six("cpu") > 1, six(), six()),
    "masked_fill": lambda: six().masked_fill(six("cpu") > 1, 0.0),
    "masked_fill a scalar": lambda: six().sum().masked_fill(torch.tensor(True), 0.0),
    "embedding": lambda: torch.nn.functional.embedding(rows(0, device="cpu"), six()),
    "gather": lambda: six().gather(0, rows(0, device="cpu")[None]),
    "scatter": lambda: six().scatter_add(0, rows(0)[None], six("cpu")),
    "index_select": lambda: six().index_select(0, rows(0, device="cpu")),
    "index_select by a scalar": lambda: six().index_select(0, torch.tensor(0)),
    "index_copy": lambda: six().index_copy(0, rows(0, device="cpu"), six()[:1]),
    "out": lambda: torch.mm(six(), six().T, out=torch.empty(2, 2)),
    "write at an index": lambda: six().index_put_((rows(0),), six("cpu")[:1]),
    "write to the CPU at an index": lambda: six("cpu").index_put_((rows(0, device="cpu"),), six()),
    "linear": lambda: torch.nn.Linear(3, 2)(six()),
}


@pytest.mark.parametrize("name", MIXED)
def test_tensors_of_both_devices_do_not_mix(simulated: SimulatedDevice, name: str) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        MIXED[name]()


def test_the_cpu_is_not_indexed_by_the_device(simulated: SimulatedDevice) -> None:
    for index in (rows(0), six() > 1):
        with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same"):
            six("cpu")[index]
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same"):
        six("cpu")[rows(0)] = 1.0


def test_scalars_of_the_cpu_mix(simulated: SimulatedDevice) -> None:
    scalar = torch.tensor(2.0)
    assert same(six() * scalar, six("cpu") * 2)
    assert same(scalar - six(), 2 - six("cpu"))
    assert same(six().masked_fill(six() > 1, scalar), six("cpu").masked_fill(six("cpu") > 1, 2))
    assert same(six().clone().fill_(scalar), torch.full((2, 3), 2.0))
    assert same(torch.maximum(six(), scalar), torch.maximum(six("cpu"), scalar))


def test_mixing_is_counted_where_it_does_not_raise() -> None:
    with simulated_device(raise_on_mixing=False) as simulated:
        assert same(six() + six("cpu"), 2 * six("cpu"))
        (place,) = simulated.mixed
        assert simulated.operations[place]["add"] == 1


def test_numpy_reads_the_cpu_only(simulated: SimulatedDevice) -> None:
    for read in (lambda: six().numpy(), lambda: numpy.asarray(six())):
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            read()
    assert six().cpu().numpy().tolist() == six("cpu").tolist()


def test_random_numbers_come_from_the_generator_of_the_device(simulated: SimulatedDevice) -> None:
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(2, device="cuda", generator=seeded("cpu"))
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.multinomial(six(), 1, generator=seeded("cpu"))
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator"):
        torch.randperm(2, generator=seeded("cuda"))
    assert seeded("cuda").device == simulated.device


def test_operations_of_the_cpu_alone_fail(simulated: SimulatedDevice) -> None:
    linear = torch.ops.mkldnn._linear_pointwise
    linear(six("cpu"), six("cpu"), None, "none", [], "")
    with pytest.raises(NotImplementedError, match="Could not run"):
        linear(six(), six(), None, "none", [], "")


# --- what waits --------------------------------------------------------------------------------

WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 1]),
    "int": lambda x: range(5)[x[0, 1].long()],
    "bool": lambda x: bool((x > 1).all()),
    "if": lambda x: 1 if x.sum() else 2,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy_": lambda x: torch.empty(2, 3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 1),
    "mask": lambda x: x[x > 1],
    "mask of rows": lambda x: x[:, x[0] > 1],
    "write at a mask": lambda x: x.clone().index_put_((x > 5,), x[:1, 0]),
    "write a scalar to the CPU at an index": lambda x: six("cpu").index_put_(
        (torch.tensor([0]),), x.sum()
    ),
    "masked_select": lambda x: x.masked_select(x > 1),
    "fill with a value of the device": lambda x: x.masked_fill(x > 1, x.sum()),
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(x[:, 1].long(), 0),
    "multinomial": lambda x: x.multinomial(1, generator=seeded("cuda")),
    "solve": lambda x: torch.linalg.solve(torch.eye(2, device="cuda"), x),
    "synchronize": lambda x: torch.cuda.synchronize(),
}
NOT_WAITING: dict[str, Callable[[Tensor], Any]] = {
    "mask with a number": lambda x: x.masked_fill(x > 1, 0.0),
    "write a number at a mask": lambda x: x.__setitem__(x > 1, 0.0),
    "write a number in a slice": lambda x: x.__setitem__((0, slice(2)), 0.0),
    "where": lambda x: torch.where(x > 1, x, 0.0),
    "a scalar of the CPU": lambda x: x * torch.tensor(2.0),
    "non-blocking from the device": lambda x: x.to("cpu", non_blocking=True),
    "non-blocking to the device": lambda x: six("cpu").to("cuda", non_blocking=True),
    "known size": lambda x: x.repeat_interleave((x[:, 1] * 0 + 1).long(), 0, output_size=2),
    "index": lambda x: x[x[0].long() // 2, 0],
    "mask of the CPU": lambda x: x[six("cpu") > 1],
    "copy": lambda x: x.clone().copy_(x).to(torch.float64).to("cuda"),
    "the CPU": lambda x: (six("cpu").tolist(), six("cpu")[six("cpu") > 1], six("cpu").numpy()),
    "backward": lambda x: x.requires_grad_().square().sum().backward(),
}
UPLOADING: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: torch.tensor([1], device="cuda"),
    "to": lambda x: six("cpu").to("cuda"),
    "cuda": lambda x: six("cpu").cuda(),
    "copy_": lambda x: x.copy_(six("cpu")),
    "write a row": lambda x: x.__setitem__(0, torch.ones(3)),
    "write a number at one place": lambda x: x.__setitem__((0, 0), 1.0),
    "index": lambda x: x[torch.tensor([0])],
    "list as an index": lambda x: x[[0, 1]],
    "write a number at an index": lambda x: x.__setitem__(x[0, :1].long(), 0.0),
    "where": lambda x: torch.where(x > 1, x, torch.tensor(1.0)),
}


@pytest.mark.parametrize("name", WAITING)
def test_waits_are_counted(simulated: SimulatedDevice, name: str) -> None:
    x = six()
    for number in (1, 2):
        WAITING[name](x)
        assert sum(simulated.waits.values()) == number
    assert not simulated.uploads


@pytest.mark.parametrize("name", NOT_WAITING)
def test_nothing_else_is_counted(simulated: SimulatedDevice, name: str) -> None:
    NOT_WAITING[name](six())
    assert not simulated.operations


@pytest.mark.parametrize("name", UPLOADING)
def test_uploads_are_counted(simulated: SimulatedDevice, name: str) -> None:
    x = six()
    for number in (1, 2):
        UPLOADING[name](x)
        assert sum(simulated.uploads.values()) == number
    assert not simulated.waits


def test_adding_at_a_mask_is_no_filling(simulated: SimulatedDevice) -> None:
    six().index_put_((six() > 1,), torch.tensor(1.0), accumulate=True)
    assert sum(simulated.waits.values()) == sum(simulated.uploads.values()) == 1


def test_waits_are_counted_by_place(simulated: SimulatedDevice) -> None:
    frame = inspect.currentframe()
    assert frame is not None
    for _ in range(3):
        line, _value = frame.f_lineno, six().sum().item()
    assert simulated.waits == {f"tests/devices/test_rules.py:{line}": 3}
    assert simulated.operations[next(iter(simulated.waits))] == {"_local_scalar_dense": 3}
    simulated.clear()
    assert not simulated.waits
    inner = compile("\n\ntotal.item()", str(PACKAGES[0] / "models" / "model.py"), "exec")
    exec(inner, {"total": six().sum()})
    assert simulated.waits == {"acdc_explain/models/model.py:3": 1}
