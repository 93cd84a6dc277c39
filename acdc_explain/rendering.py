"""Prompt templates: jinja2 in its sandbox, where a misspelt variable is an error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import UserError
from .ids import content_id


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
        self._environment.filters["json"] = lambda value: _fenced(value)

    def render(self, name: str, /, **variables: Any) -> str:
        """Raises UserError for a template that is not there or has a mistake."""
        try:
            return self._environment.get_template(f"{name}.j2").render(**variables)
        except TemplateError as error:
            place = getattr(error, "name", None) or f"{name}.j2"
            line = getattr(error, "lineno", None)
            where = f"{place}, line {line}" if line else place
            raise UserError(f"The template {where}: {error}; mend it.") from error

    @property
    def digest(self) -> str:
        """Of all templates, so that a changed prompt is a changed run."""
        loader, names = self._environment.loader, self._environment.list_templates()
        assert loader is not None
        return content_id(
            "templates", {n: loader.get_source(self._environment, n)[0] for n in names}
        )


def _fenced(value: Any) -> str:
    """Data as JSON that cannot close the tags around it."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
