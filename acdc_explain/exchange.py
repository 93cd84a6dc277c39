"""One question to an LLM and what came back, good or bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .ids import content_id


@dataclass(frozen=True, slots=True)
class Exchange:
    """A rendered prompt and the reply, or the error that took its place."""

    template: str
    llm: str
    prompt: str
    reply: str | None
    error: str | None
    tokens_in: int | None
    tokens_out: int | None
    seconds: float

    @property
    def id(self) -> str:
        return content_id("exchange", self)


class UnusableReply(Exception):
    """An LLM gave no answer that can be used; the exchange says what it gave."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.error)
        self.exchange = exchange


class Ask(Protocol):
    """Renders a template and puts the question to an LLM."""

    @property
    def llm(self) -> str:
        """The name of the LLM asked."""
        ...

    def render(self, template: str, /, **variables: Any) -> str:
        """The prompt a template gives. Raises jinja2.UndefinedError for a misspelt variable."""
        ...

    def __call__(self, template: str, prompt: str, schema: dict[str, Any]) -> Exchange:
        """The exchange with a reply in JSON. Never raises for what the LLM or network did."""
        ...
