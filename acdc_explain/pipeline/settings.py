"""What a run was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import WrongUsage
from ..llm.exchange import DEFAULT_CONCURRENCY, DEFAULT_LLM, DEFAULT_TIMEOUT
from ..models.options import ABLATIONS, DEFAULT_MEMORY

DEFAULT_EXAMPLES = 16  # to discover on, and twice as many held out
CHEAP_EXAMPLES = 32  # where a forward pass is cheap: verdicts are steadier (docs/labels.md)
CHEAP_PARAMETERS = 20_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run's result besides the task's text and the model's weights.

    `discoverer_settings`: what the discoverer takes (tau, max_edges, steps ...).
    `labeler` None: `llm` if the environment has a key, else `rules`.
    `judges` None: the usual ones; `more_judges` are asked beside them.
    `metric` None: the task's own. `ablation`: what a cut edge carries. `memory`: gigabytes that
    discovery may take; it decides nothing but the size of batches.
    `labeler_settings`: what the labeler takes (reveal ...). `templates`: a folder whose prompts go
    before the built-in ones. The others decide nothing of the result: how an LLM is asked
    (`max_cost` in USD, `timeout` in seconds, `retry` to ask again what got no usable reply), and
    `anyway` to go on where the model does not surely do the task.
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
    more_judges: tuple[str, ...] = ()
    examples: int | None = None
    seed: int = 0
    prompts: str | None = None
    corpus: str | None = None
    labeler_settings: Mapping[str, Any] = field(default_factory=dict)
    templates: str | None = None
    prices: str | None = None
    max_cost: float | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    timeout: float = DEFAULT_TIMEOUT
    retry: bool = False
    anyway: bool = False

    def check(self) -> None:
        """Raises UserError for what can be refused before anything is loaded."""
        if self.examples is not None and self.examples < 1:
            raise WrongUsage(f"`examples=` is {self.examples}; at least 1 is needed.")
        if self.concurrency < 1:
            raise WrongUsage(f"`concurrency=` is {self.concurrency}; at least 1 is needed.")
        if not self.timeout > 0:
            raise WrongUsage(f"`timeout=` is {self.timeout:g}; give seconds, more than 0.")
        if self.templates is not None and not any(Path(self.templates).glob("**/*.j2")):
            raise WrongUsage(
                f"`templates={self.templates}` is no folder with templates (*.j2); copy those you "
                "want to change from the folder prompts/ and keep their names."
            )
        if self.ablation not in ABLATIONS:
            raise WrongUsage(
                f"There is no ablation {self.ablation!r}; choose one of {', '.join(ABLATIONS)}."
            )
