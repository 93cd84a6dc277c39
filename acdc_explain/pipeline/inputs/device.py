"""Where a model runs and in which type: what there is, and what there is here."""

from __future__ import annotations

import re

from ...errors import UserError, WrongUsage
from ...models.options import DEVICES, DTYPES

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?|mps")


def check_names(device: str, dtype: str, revision: str | None) -> None:
    """Whether a device, a type and a revision can exist at all; torch is not needed for that.

    Raises:
        WrongUsage: if one cannot, or if the device has no such type.
    """
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise WrongUsage(f"There is no device {device!r}; choose one of {', '.join(DEVICES)}.")
    if dtype not in DTYPES:
        raise WrongUsage(f"There is no dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    if device == "mps" and dtype == "float64":
        raise WrongUsage(
            "The device mps has no float64; use `dtype=float32`, or compute on `device=cpu`."
        )
    if revision is not None and not _is_revision(revision):
        raise WrongUsage(
            f"`revision=` is {revision!r}; give a commit, a branch or a tag of the model's "
            "repository on the Hugging Face hub."
        )


def _is_revision(revision: object) -> bool:
    return isinstance(revision, str) and re.fullmatch(r"[^\s-]\S*", revision) is not None


def device_here(device: str) -> str:
    """The device as torch names it; for `auto`, cuda if there is one here, else cpu.

    Raises:
        UserError: if this machine or this torch does not have it.
    """
    if device == "cpu":
        return device
    import torch  # only when it is needed

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "mps":
        if not torch.backends.mps.is_available():
            raise UserError(
                "There is no MPS device here (it needs a Mac with Apple silicon); use `device=cpu`."
            )
        return device
    if not torch.cuda.is_available():
        raise UserError(
            "There is no CUDA device here (torch was built without CUDA, or there is no driver); "
            "use `device=cpu`."
        )
    number, there = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= there:
        raise UserError(
            f"There is no device {device} here: CUDA devices are counted from 0, and there "
            f"{'is 1' if there == 1 else f'are {there}'}; use `device=cuda:{there - 1}`."
        )
    return device
