"""Options of a search and their defaults, importable without torch."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

Ablation = Literal["corrupt", "mean", "zero"]
"""What a cut edge carries: the corrupted activation, its mean, or zero."""


ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)


DEFAULT_MEMORY = 4.0  # gigabytes


DEFAULT_MODEL = "mini"


Dtype = Literal["float32", "bfloat16", "float16", "float64"]
"""The type of a model's weights and activations."""


DTYPES: tuple[Dtype, ...] = get_args(Dtype)


DEFAULT_DTYPE: Dtype = "float32"


DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")  # N: a number; auto: cuda or else cpu


DEFAULT_DEVICE = "auto"


class Checkpoints(Protocol):
    """JSON values by name that outlive the process, so that a long search can be resumed."""

    def read(self, name: str, /) -> Any:
        """What was written under the name; None if nothing was."""
        ...

    def write(self, name: str, content: Any, /) -> None: ...


class NoCheckpoints:
    """Checkpoints that are not kept."""

    def read(self, name: str, /) -> Any:
        return None

    def write(self, name: str, content: Any, /) -> None:
        pass
