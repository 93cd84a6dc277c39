"""Prompt templates: jinja2 in its sandbox, where a misspelt variable is an error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Templates:
    """Templates by name, from several folders; the first folder that has one wins."""

    def __init__(self, folders: Iterable[Path]) -> None:
        loaders = [FileSystemLoader(folder) for folder in folders]
        self._environment = ImmutableSandboxedEnvironment(
            loader=ChoiceLoader(loaders),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
            autoescape=False,  # prompts are plain text
        )
        self._environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)

    def render(self, name: str, /, **variables: Any) -> str:
        """Raises jinja2.TemplateNotFound and jinja2.UndefinedError."""
        return self._environment.get_template(f"{name}.j2").render(**variables)
