"""From a behavior of a language model to a labeled, tested and searchable circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import UserError
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .draws import stability
    from .loading import load_model
    from .pipeline import explain, sweep
    from .store import Store

__all__ = ["Store", "UserError", "explain", "hookimpl", "load_model", "stability", "sweep"]

_LATE = {
    "Store": "store",
    "explain": "pipeline",
    "load_model": "loading",
    "stability": "draws",
    "sweep": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import what is slow (duckdb, torch) when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATE[name]}", __name__), name)
