"""From a behavior of a language model to a labeled, tested and searchable circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import UserError
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .evaluation.stability import stability
    from .pipeline.flow import explain, sweep
    from .pipeline.prepare import load_model
    from .store.store import Store

__all__ = ["Store", "UserError", "explain", "hookimpl", "load_model", "stability", "sweep"]

_LATE = {
    "Store": "store.store",
    "explain": "pipeline.flow",
    "load_model": "pipeline.prepare",
    "stability": "evaluation.stability",
    "sweep": "pipeline.flow",
}


def __getattr__(name: str) -> Any:
    """Import what is slow (duckdb, torch) when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATE[name]}", __name__), name)
