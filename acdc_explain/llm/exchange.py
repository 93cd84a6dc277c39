"""A request to an LLM, and the exchange that records what came back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..ids import content_id, plain

DEFAULT_LLM = "gpt-4.1-mini"
DEFAULT_TIMEOUT = 60.0  # seconds
DEFAULT_CONCURRENCY = 4  # requests at once

MOST_REPLY_TOKENS = 1000
_ADDED_LATER = ("request_id", "cost_usd")  # fields that exchanges in the first stores lack

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A rendered prompt and everything else that decides the reply.

    Two equal requests have the same `id`, and only one of them is sent.
    """

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
    """A rendered prompt with the reply, with what went wrong, or with both.

    Both are there where a reply came and could not be used. `seconds` includes all attempts.
    `cost_usd` is None where the LLM's price or the number of tokens is not known.
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
            "exchange", {k: v for k, v in content.items() if k not in _ADDED_LATER or v is not None}
        )


class UnusableReply(Exception):
    """The LLM gave no usable reply. `exchange` holds what it gave."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.error)
        self.exchange = exchange


class NotAsked(Exception):
    """The question was not sent to the LLM; the message says why."""


class Waiting(NotAsked):
    """The question goes to the LLM through a batch file, and has no reply yet."""


class Ask(Protocol):
    """Sends one question to an LLM, after rendering it from a template."""

    @property
    def llm(self) -> str:
        """The name of the LLM."""
        ...

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """All exchanges of this question so far, in order."""
        ...

    def render(self, template: str, /, **variables: Any) -> str:
        """Render a prompt.

        Args:
            template: The template's name, without `.j2`.
            variables: The template's variables, as JSON can hold them.

        Returns:
            The prompt.

        Raises:
            UserError: if the template does not exist or has a mistake.
        """
        ...

    async def __call__(
        self, template: str, prompt: str, schema: Mapping[str, Any], read: Callable[[str], T]
    ) -> tuple[T, Exchange]:
        """Send a prompt and read the reply.

        Args:
            template: The name of the template that gave the prompt, for the record.
            prompt: The rendered prompt.
            schema: The JSON schema of the reply.
            read: Turns the reply into a value. It raises ValueError if the reply cannot be used;
                the LLM is then shown the message and asked once more.

        Returns:
            The value that `read` returned, and the exchange with the reply.

        Raises:
            UnusableReply: if no usable reply came.
            NotAsked: if the question was not sent.
        """
        ...
