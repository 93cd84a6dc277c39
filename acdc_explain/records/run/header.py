"""What a run was asked, its id, and which results this code gives."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from ...ids import content_id

RESULTS = 2
"""Raised whenever the same question gets another answer than before: what older code found is not
reused then. `tests/pipeline/test_results.py` notices."""


def run_id(
    task_id: str, model_id: str, resolved: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """The same question to programs that give the same results has the same id.

    Raises KeyError where `versions` does not say what program it was.
    """
    content = {
        "task_id": task_id,
        "model_id": model_id,
        "settings": resolved,
        "version": results_of(versions),
    }
    return content_id("run", content)


def results_of(versions: Mapping[str, str]) -> str:
    """Which results a program gives; programs from before these were counted say their version."""
    return f"results {versions['results']}" if "results" in versions else versions["acdc-explain"]


def versions() -> dict[str, str]:
    """What the result may depend on."""
    packages = ("acdc-explain", "torch", "transformer-lens", "transformers", "duckdb")
    return {
        "python": platform.python_version(),
        "results": str(RESULTS),
        **{package: _version(package) for package in packages},
    }


@cache
def _version(package: str) -> str:
    """Looking it up reads files."""
    return version(package)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What was asked for. The id is a hash of the task, the model and all settings."""

    id: str
    task: str
    task_id: str
    model: str
    model_id: str
    circuit_id: str | None
    status: str  # "unfinished"; "incomplete": not all labels could be had; "done"
    created_at: str  # UTC, ISO 8601
    seed: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    origin: str | None = None  # the file it was imported from and when; None: it was made here
    name: str | None = None
    note: str | None = None
