"""One question to an LLM and what came back, good or bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..ids import content_id, plain

MOST_REPLY_TOKENS = 1000
_LATER = ("request_id", "cost_usd")  # fields that exchanges of the first stores do not have

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A rendered prompt with all that decides the reply: the same request is answered once."""

    template: str
    llm: str
    prompt: str
    schema: Mapping[str, Any]
    temperature: float = 0.0
    most_tokens: int = MOST_REPLY_TOKENS

    @property
    def id(self) -> str:
        return content_id("request", self)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A rendered prompt and the reply, or what went wrong, or both: a reply that was no use.

    `cost_usd` is None where the LLM's price or the tokens are not known.
    """

    template: str
    llm: str
    prompt: str
    reply: str | None
    error: str | None
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    request_id: str | None = None
    cost_usd: float | None = None

    @property
    def id(self) -> str:
        content = plain(self)
        return content_id(
            "exchange", {k: v for k, v in content.items() if k not in _LATER or v is not None}
        )


class UnusableReply(Exception):
    """An LLM gave no answer that can be used; the exchange says what it gave."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.error)
        self.exchange = exchange


class NotAsked(Exception):
    """The question was not put to the LLM, for a reason that lies with the user's wishes."""


class Waiting(NotAsked):
    """The question is to be put to the LLM by way of a file."""


class Ask(Protocol):
    """Renders a template and puts the question to an LLM."""

    @property
    def llm(self) -> str:
        """The name of the LLM asked."""
        ...

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """What was asked and answered for this question so far."""
        ...

    def render(self, template: str, /, **variables: Any) -> str:
        """The prompt a template gives. Raises UserError for a template with a mistake."""
        ...

    async def __call__(
        self, template: str, prompt: str, schema: Mapping[str, Any], read: Callable[[str], T]
    ) -> tuple[T, Exchange]:
        """What `read` makes of the reply; ValueError from it is put to the LLM once more.

        Raises UnusableReply if there is no reply that can be read, NotAsked if nobody was asked.
        """
        ...
