"""What CUDA allows between its tensors and those of the CPU, and for what the CPU waits for it.

The rules follow the source of PyTorch. An operation is elementary here: autograd, einsum, matmul
and the like have been taken apart by PyTorch before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

COPIES = {"_to_copy", "copy_"}
INDEXING = {"index", "_unsafe_index"}
INDEX_WRITING = {"index_put", "index_put_", "_unsafe_index_put", "_index_put_impl_"}
FILLING = {"fill", "fill_", "masked_fill", "masked_fill_"}  # the value may be a scalar of the CPU
NUMBERS_DECIDE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
WAITS = {"multinomial", "_linalg_check_errors", "_linalg_svd", "_linalg_eigh", "linalg_lstsq"}
"""Operations that wait, beside those whose result's size or value depends on the numbers."""

SAME_DEVICE = "Expected all tensors to be on the same device, but found cuda:0 and cpu!"
WRONG_INDICES = "indices should be either on cpu or on the same device as the indexed tensor (cpu)"


@dataclass(frozen=True)
class Call:
    """A call of an elementary operation.

    Attributes:
        func: The operation, of `torch.ops`.
        tensors: Those among its arguments.
        kind: The class of the device's tensors.
        to_device: Whether the result is on the device.
    """

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    tensors: Sequence[Tensor]
    kind: type[Tensor]
    to_device: bool

    @property
    def name(self) -> str:
        return str(self.func.overloadpacket.__name__)

    def on_device(self, value: Any) -> bool:
        return isinstance(value, self.kind)

    def on_cpu(self, value: Any) -> bool:
        return isinstance(value, Tensor) and not self.on_device(value)

    @property
    def indices(self) -> list[Tensor]:
        return [index for index in self.args[1] if index is not None]

    @property
    def written(self) -> list[Tensor]:
        """The tensors that the operation writes into."""
        arguments = self.func._schema.arguments
        given = [*zip(arguments, self.args), *((a, self.kwargs.get(a.name)) for a in arguments)]
        return [
            value
            for argument, values in given
            if argument.alias_info is not None and argument.alias_info.is_write
            for value in tree_leaves(values)
            if isinstance(value, Tensor)
        ]


def form(tensor: Tensor) -> tuple[Any, ...]:
    """What a wrapped tensor and its wrapper have in common."""
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


# --- what fails --------------------------------------------------------------------------------


def check(call: Call, complain: Callable[[str, str], None]) -> None:
    """Complain, with name and message, of tensors that are not where CUDA needs them.

    Raises NotImplementedError for an operation that only the CPU has.
    """
    if call.func.namespace != "aten":
        raise NotImplementedError(f"Could not run {call.func} with arguments from 'CUDA'")
    cpu = [tensor for tensor in call.tensors if call.on_cpu(tensor)]
    if not cpu or len(cpu) == len(call.tensors) or call.name in COPIES:
        return
    if call.name in INDEXING | INDEX_WRITING:
        if message := _index_trouble(call):
            complain(call.name, message)
        return
    if call.name in FILLING:
        misplaced = [x for x in cpu if x.ndim or x is not call.args[-1]]
    elif torch.Tag.pointwise in call.func.tags:
        written = {id(tensor) for tensor in call.written}
        misplaced = [x for x in cpu if x.ndim or id(x) in written]
    else:
        misplaced = cpu
    if misplaced:
        complain(call.name, SAME_DEVICE)


def _index_trouble(call: Call) -> str | None:
    target = call.args[0]
    if not call.on_device(target) and any(map(call.on_device, call.indices)):
        return WRONG_INDICES
    if call.name in INDEXING:
        return None
    values = call.args[2]  # a scalar is moved
    return SAME_DEVICE if values.ndim and call.on_device(values) != call.on_device(target) else None


def check_generator(generator: torch.Generator, device: torch.device) -> None:
    """Raise RuntimeError if it is not the generator of the device where numbers are drawn."""
    if generator.device.type != device.type:
        raise RuntimeError(
            f"Expected a '{device.type}' device type for generator but found "
            f"'{generator.device.type}'"
        )


# --- what waits --------------------------------------------------------------------------------


def waits(call: Call) -> Iterator[str]:
    """The names of what waits for numbers of the device."""
    name, tags = call.name, set(call.func.tags)
    if name in COPIES:
        source = call.args[1] if name == "copy_" else call.args[0]
        target_on_device = call.on_device(call.args[0]) if name == "copy_" else call.to_device
        if call.on_device(source) and not target_on_device and not _non_blocking(call):
            yield "copy to the CPU"
    elif name in INDEXING | INDEX_WRITING:
        if not _fills(call) and any(call.on_device(i) and _is_mask(i) for i in call.indices):
            yield "boolean mask as an index"
        if name in INDEX_WRITING and call.on_cpu(call.args[0]) and call.on_device(call.args[2]):
            yield "value from the device"
    elif name in FILLING:
        if name.startswith("masked") and call.on_device(call.args[-1]):
            yield f"{name} with a value on the device"
    elif (tags & NUMBERS_DECIDE or name in WAITS) and call.kwargs.get("output_size") is None:
        yield name


def uploads(call: Call) -> Iterator[str]:
    """The names of what sends numbers from the CPU and waits until the device has them."""
    name = call.name
    if not call.to_device:
        return
    if name in COPIES:
        source = call.args[1] if name == "copy_" else call.args[0]
        if call.on_cpu(source) and not _non_blocking(call):
            yield "copy to the device"
    elif name in INDEXING | INDEX_WRITING and call.on_device(call.args[0]):
        if any(call.on_cpu(index) and not _is_mask(index) for index in call.indices):
            yield "index from the CPU"
        if name in INDEX_WRITING and call.on_cpu(call.args[2]) and not _fills(call):
            yield "value from the CPU"
    elif name == "where" and any(map(call.on_cpu, call.tensors)):
        yield "where with a value from the CPU"


def _non_blocking(call: Call) -> bool:
    positional = call.args[2] if call.name == "copy_" and len(call.args) > 2 else False
    return bool(call.kwargs.get("non_blocking", positional))


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _fills(call: Call) -> bool:
    """Whether writing at an index is `masked_fill`, for which nothing waits."""
    if call.name not in INDEX_WRITING or any(call.args[3:4]):
        return False
    (mask, *others), value = call.indices, call.args[2]
    one_mask = not others and _is_mask(mask) and call.on_device(mask)
    return one_mask and call.on_cpu(value) and value.numel() == 1
