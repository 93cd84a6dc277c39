"""What a run was asked to do."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

from .errors import UserError
from .ids import content_id

Ablation = Literal["corrupt", "mean", "zero"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)
DEFAULT_MEMORY = 4.0  # gigabytes
DEFAULT_MODEL = "mini"
DEFAULT_EXAMPLES = 16
DEFAULT_LLM = "gpt-4.1-mini"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run's result besides the task's text and the model's weights.

    `discoverer_settings`: what the discoverer takes (tau, max_edges, steps ...).
    `labeler` None: `llm` if the environment has a key, else `rules`.
    `metric` None: the task's own. `ablation`: what a cut edge carries. `memory`: gigabytes that
    discovery may take; it decides nothing but the size of batches.
    """

    discoverer: str = "acdc"
    discoverer_settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    ablation: str = "corrupt"
    memory: float = DEFAULT_MEMORY
    collectors: tuple[str, ...] | None = None
    labeler: str | None = None
    llm_model: str = DEFAULT_LLM
    judges: tuple[str, ...] | None = None
    examples: int | None = None
    seed: int = 0
    prompts: str | None = None
    corpus: str | None = None

    def check(self) -> None:
        """Raises UserError for what can be refused before anything is loaded."""
        if self.examples is not None and self.examples < 1:
            raise UserError(f"--examples is {self.examples}; at least 1 is needed.")
        if self.ablation not in ABLATIONS:
            raise UserError(
                f"There is no ablation {self.ablation!r}; choose one of {', '.join(ABLATIONS)}."
            )


def run_id(task_id: str, model_id: str, resolved: Mapping[str, Any]) -> str:
    """The same question to the same version of this program has the same id."""
    content = {
        "task_id": task_id,
        "model_id": model_id,
        "settings": resolved,
        "version": version("acdc-explain"),
    }
    return content_id("run", content)


def versions() -> dict[str, str]:
    """What the result may depend on."""
    packages = ("acdc-explain", "torch", "transformer-lens", "transformers", "duckdb")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}
