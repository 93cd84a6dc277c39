"""A second device that computes on the CPU, under the rules that PyTorch has for CUDA.

`with simulated_device() as simulated:` makes `torch.device("cuda")` usable without a GPU. Tensors
on it hold a tensor of the CPU and give exactly the CPU's numbers, but an operation that mixes them
with tensors of the CPU fails as on CUDA, and what would wait for a GPU is counted by the line of
the package that caused it. See `SimulatedDevice`, and `rules` for what fails and what is counted.

PyTorch itself sees the tensors on a device of the type "lazy": autograd accepts one without a
driver, and nothing else uses it. `DeviceTensor.device` and the calls to PyTorch translate. The key
"Meta" beside it gives the tensors the kernels that change their form in place.

What it does not do: other processes and threads, `copy.deepcopy` and pickles of its tensors,
`torch.cuda.is_available()`, and calls with `device=` in those parts of PyTorch that are Python.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import acdc_explain_plugins
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import acdc_explain

from . import rules

CUDA = torch.device("cuda", 0)  # what everyone sees
CPU = torch.device("cpu")
STAND_IN = torch.device("lazy", 0)  # what PyTorch sees
PACKAGES = [Path(package.__path__[0]) for package in (acdc_explain, acdc_explain_plugins)]
TESTS = Path(__file__).parents[1]
OWN_FILES = {str(Path(__file__)), str(Path(rules.__file__))}


class SimulatedDevice:
    """What happened on the device.

    Places are written as "acdc_explain/models/model.py:12": the innermost line of the package or
    the plugins, or else of a test.

    Attributes:
        device: To pass to PyTorch; `"cuda"` and `"cuda:0"` do as well.
        waits: How often a place waited for results: `.item()`, `if tensor:`, `.tolist()`, `.cpu()`,
            `.nonzero()`, a boolean mask as an index, and the rest of `rules.WAITS`.
        uploads: How often a place sent numbers from the CPU, for which CUDA waits as well.
        mixed: How often a place mixed devices, where that does not raise.
        operations: By place, which operations were counted there.
    """

    def __init__(self, *, raise_on_mixing: bool = True) -> None:
        self.device = CUDA
        self.raise_on_mixing = raise_on_mixing
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.operations: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def clear(self) -> None:
        """Start counting again."""
        for counts in (self.waits, self.uploads, self.mixed, self.operations):
            counts.clear()

    def count(self, counter: Counter[str], operation: str) -> None:
        """Count an operation at the present place."""
        place = _place()
        counter[place] += 1
        self.operations[place][operation] += 1

    def mix(self, operation: str, message: str) -> None:
        """Raise RuntimeError, or count the place."""
        if self.raise_on_mixing:
            raise RuntimeError(f"{message} ({operation})")
        self.count(self.mixed, operation)


@contextmanager
def simulated_device(*, raise_on_mixing: bool = True) -> Iterator[SimulatedDevice]:
    """Make `torch.device("cuda")` usable, until the context ends. Its tensors end with it.

    Args:
        raise_on_mixing: Whether an operation on tensors of both devices raises RuntimeError. If
            not, it is computed and counted: to list all such places at once.
    """
    simulated = SimulatedDevice(raise_on_mixing=raise_on_mixing)

    def synchronize(device: object = None) -> None:
        simulated.count(simulated.waits, "synchronize")

    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "Generator", DeviceGenerator))
        stack.enter_context(mock.patch.object(torch.cuda, "synchronize", synchronize))
        # Module.to keeps parameters that are shared, as it does on CUDA.
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.enter_context(_Calls())
        stack.enter_context(_Operations(simulated))
        yield simulated


class DeviceTensor(torch.Tensor):
    """A tensor on the simulated device. `numbers` has what it holds, on the CPU."""

    numbers: Tensor
    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, device=STAND_IN, requires_grad=False,
            _extra_dispatch_keys=torch._C.DispatchKeySet(torch._C.DispatchKey.Meta),
        )  # fmt: skip
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # while the context lasts, `_Operations` comes first
        raise RuntimeError("tensors of a simulated device live inside its context only")

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def data(self) -> DeviceTensor:
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, DeviceTensor) or new.dtype != self.dtype:
            raise NotImplementedError("the simulated device sets data of the same kind only")
        other = DeviceTensor(new.numbers)
        vars(other).update(vars(self), numbers=new.numbers)  # a parameter says so there
        torch.utils.swap_tensors(self, other.requires_grad_(self.requires_grad))

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CUDA, **options})

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"DeviceTensor({self.numbers!r})"


class DeviceGenerator(torch.Generator):
    """A source of random numbers for the simulated device, the CPU's numbers."""

    device = CUDA

    def __new__(cls, device: Any = "cpu") -> Any:
        if _translated(device) == STAND_IN:
            return super().__new__(cls)
        return DeviceGenerator.__base__(device)


class _Calls(TorchFunctionMode):
    """Sees the calls to PyTorch as they are written."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = _translated(kwargs["device"])
        if kwargs.get("generator") is not None:
            asked = kwargs.get(
                "device", args[0].device if args and isinstance(args[0], Tensor) else None
            )
            rules.check_generator(kwargs["generator"], CUDA if asked in (STAND_IN, CUDA) else CPU)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == STAND_IN:
            return _from_numbers(func, args, kwargs)
        if func is torch.Tensor.cuda:
            return args[0].to(STAND_IN)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = _indexed(*args)
        as_text = func is torch.Tensor.to  # elsewhere, a text is no device
        args = tuple(
            _translated(x) if isinstance(x, torch.device) or (as_text and isinstance(x, str)) else x
            for x in args
        )
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Sees the elementary operations: checks, counts, and computes them on the CPU."""

    def __init__(self, simulated: SimulatedDevice) -> None:
        super().__init__()
        self.simulated = simulated

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = [x for x in tensors if isinstance(x, DeviceTensor)]
        to_device = asked == STAND_IN or (asked is None and bool(ours))
        if not ours and asked != STAND_IN:
            return func(*args, **kwargs)
        call = rules.Call(func, args, kwargs, tensors, DeviceTensor, to_device)
        rules.check(call, self.simulated.mix)
        for operation in rules.waits(call):
            self.simulated.count(self.simulated.waits, operation)
        for operation in rules.uploads(call):
            self.simulated.count(self.simulated.uploads, operation)
        return _computed(call, ours)


def _computed(call: rules.Call, ours: list[DeviceTensor]) -> Any:
    """The result of an operation; what it changes in place and returns is the same object."""
    args, kwargs = tree_map_only(DeviceTensor, lambda x: x.numbers, (call.args, dict(call.kwargs)))
    if call.kwargs.get("device") == STAND_IN:
        kwargs["device"] = CPU
    same = {id(x): x for x in call.tensors} | {id(x.numbers): x for x in ours}
    result = call.func(*args, **kwargs)
    if torch.Tag.inplace_view in call.func.tags:  # the wrapper takes on the new form as well
        with torch._C._DisableTorchDispatch():
            call.func(*call.args, **call.kwargs)
    if any(rules.form(x) != rules.form(x.numbers) for x in ours):
        raise NotImplementedError(f"{call.func} changes the form of a tensor in place")

    def outer(x: Tensor) -> Tensor:
        if id(x) in same:
            return same[id(x)]
        return DeviceTensor(x) if call.to_device else x

    return tree_map_only(Tensor, outer, result)


def _from_numbers(func: Callable[..., Tensor], args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A tensor of the device, made on the CPU first, as PyTorch makes it for CUDA."""
    del kwargs["device"]
    with_gradient = kwargs.pop("requires_grad", False)
    return func(*args, **kwargs).to(STAND_IN).requires_grad_(with_gradient)


def _indexed(target: Tensor, index: Any, *values: Any) -> tuple[Any, ...]:
    """What PyTorch makes of `target[index]` and `target[index] = value` on CUDA.

    Lists in an index are tensors, and a number to write is a tensor, all of the CPU.
    """
    if not isinstance(target, DeviceTensor):
        return target, index, *values
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)
    numbers = (bool, int, float, complex)
    values = tuple(
        torch.tensor(v, dtype=target.dtype) if isinstance(v, numbers) else v for v in values
    )
    return target, parts if isinstance(index, tuple) else parts[0], *values


def _translated(device: Any) -> Any:
    """The stand-in for the simulated device; anything else as it is."""
    if isinstance(device, (str, torch.device)) and str(device) in ("cuda", "cuda:0"):
        return STAND_IN
    return device


def _place() -> str:
    """The innermost line of the package or its plugins, or else of a test, as file:line."""
    in_tests = "elsewhere"
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        for package in PACKAGES:
            if path.is_relative_to(package):
                return f"{path.relative_to(package.parent)}:{frame.f_lineno}"
        if in_tests == "elsewhere" and path.is_relative_to(TESTS) and str(path) not in OWN_FILES:
            in_tests = f"{path.relative_to(TESTS.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return in_tests
