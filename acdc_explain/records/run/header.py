"""What was asked of a run, its id, and the version of the results of this code."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from ...ids import content_id

RESULTS = 6
"""The version of the results. It is raised when the same question gets another answer than before,
so that older runs are not reused. `tests/pipeline/test_results.py` fails when that is necessary."""

USUAL_DEVICE = "cpu"


def run_id(
    task_id: str, model_id: str, resolved: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """The id of a run: the same for the same question and the same version of the results.

    Args:
        task_id: The task.
        model_id: The model.
        resolved: All settings, with the defaults filled in.
        versions: See `versions`.

    Returns:
        The id.

    Raises:
        KeyError: `versions` does not name the program.
    """
    content = {
        "task_id": task_id,
        "model_id": model_id,
        "settings": resolved,
        "version": results_of(versions),
    }
    return content_id("run", content)


def results_of(versions: Mapping[str, str]) -> str:
    """The version of the results; of older programs without one, their own version."""
    return f"results {versions['results']}" if "results" in versions else versions["acdc-explain"]


def versions(device: str = USUAL_DEVICE) -> dict[str, str]:
    """The versions of everything on which a result may depend, and the device if it is no CPU."""
    packages = ("acdc-explain", "torch", "transformer-lens", "transformers", "duckdb")
    return {
        "python": platform.python_version(),
        "results": str(RESULTS),
        **{package: _version(package) for package in packages},
        **({} if device == USUAL_DEVICE else {"device": device}),
    }


@cache
def _version(package: str) -> str:
    """Looking it up reads files."""
    return version(package)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What was asked of a run.

    Attributes:
        id: A hash of the task, the model and all settings.
        task, task_id: The task's name and id.
        model, model_id: The model's name and id.
        circuit_id: The circuit; None if it was not found yet.
        status: "unfinished", "incomplete" (a label is still missing) or "done".
        created_at: UTC, ISO 8601.
        seed: Of the task's prompts.
        settings: All settings, with the defaults filled in.
        versions: Of the programs on which the result may depend; `device` is where the run was
            begun, if not on the CPU.
        origin: The file from which it was imported, and when; None: it was made here.
        name: A name given by the user.
        note: A note by the user.
    """

    id: str
    task: str
    task_id: str
    model: str
    model_id: str
    circuit_id: str | None
    status: str
    created_at: str
    seed: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    origin: str | None = None
    name: str | None = None
    note: str | None = None

    @property
    def model_as_loaded(self) -> str:
        """The model's name, and in brackets its revision and type where they are not the usual."""
        special = [str(self.settings[x]) for x in ("revision", "dtype") if self.settings.get(x)]
        return f"{self.model} ({', '.join(special)})" if special else self.model

    @property
    def device(self) -> str:
        """Where the run was begun: `cpu`, `cuda:0`."""
        return str(self.versions.get("device", USUAL_DEVICE))
