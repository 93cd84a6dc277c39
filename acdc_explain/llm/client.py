"""Any OpenAI-compatible server: send a request, again if it is lost, say what went wrong."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

from ..errors import UserError
from .exchange import Exchange, Request
from .key import api_key, base_url, check_key
from .reply import read_json, to_exchange

DEFAULT_TIMEOUT = 60.0
DEFAULT_LLM = "gpt-4.1-mini"

RETRIES = 4  # on 429, 5xx and lost connections
LONGEST_PAUSE = 120.0  # seconds that a server may ask to wait before the next
FORMS = ("bounded", "json_schema", "json_object", "text")  # of replies, the strictest first
_NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError",
             "LocalProtocolError")  # fmt: skip
"""Causes of lost connections by which it is known that the server never had the request."""

Lost: TypeAlias = Callable[[], bool]
"""Says that an attempt is lost which may be billed; whether another one can be paid."""


def key_present() -> bool:
    """Whether the environment has what it takes to ask an LLM: a key, or a server of one's own."""
    return bool(api_key() or base_url())


class Transport(Protocol):
    """Brings a request to an LLM, now or by way of a file."""

    longest: float
    """Seconds that a request may be under way, all attempts together; 0: nobody is asked."""

    async def __call__(self, request: Request, lost: Lost) -> Exchange:
        """Never raises for what the LLM or the network did: that is in the exchange.

        Raises NotAsked where nobody is asked now.
        """
        ...

    async def close(self) -> None: ...


class Llm:
    """A server that answers now. The key comes from the environment and is kept nowhere else."""

    def __init__(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        if not key_present():
            raise UserError(
                "No LLM can be asked: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your "
                'own, or use `labeler="rules"`, which needs neither.'
            )
        check_key()
        _check_address(base_url())
        self._timeout = timeout
        self.longest = (RETRIES + 1) * (timeout + LONGEST_PAUSE) + 60
        # grammars know lengths, OpenAI's strict mode not
        self._dialect = Dialect(FORMS[0] if base_url() else FORMS[1])
        self._client: Any = None

    async def __call__(self, request: Request, lost: Lost) -> Exchange:
        import openai

        started = time.monotonic()
        response, error = None, None
        try:
            response = read_json(await self._send(request, lost))
        except openai.APITimeoutError:
            error = f"APITimeoutError: no reply within {self._timeout:g} s"
        except openai.OpenAIError as problem:
            error = f"{type(problem).__name__}: {problem}{_cause(problem)}"
        except (ValueError, RecursionError) as problem:  # no JSON at all, or without end
            error = f"the server's reply cannot be read: {type(problem).__name__}: {problem}"
        seconds = round(time.monotonic() - started, 3)
        return to_exchange(request, response, error, seconds)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _send(self, request: Request, lost: Lost) -> str:
        """Asks again in simpler terms where the server refuses the terms."""
        import openai

        if self._client is None:  # in the event loop that will use it
            self._client = openai.AsyncOpenAI(
                api_key=api_key() or "none",
                base_url=base_url() or None,
                timeout=self._timeout,
                max_retries=0,  # each attempt may be billed, so it is counted here
            )
        while True:
            dialect = self._dialect
            try:
                return await self._patiently(dialect.body(request), lost)
            except openai.BadRequestError as refusal:
                simpler = dialect.simpler(str(refusal))
                if simpler is None:
                    raise
                if self._dialect == dialect:  # not learnt in the meantime from another reply
                    self._dialect = simpler

    async def _patiently(self, body: dict[str, Any], lost: Lost) -> str:
        """Tries again what was lost on the way, as the server says or with growing pauses."""
        import openai

        attempt = 0
        while True:
            try:
                return await self._in_time(body)
            except openai.OpenAIError as problem:
                paid = not _may_be_billed(problem) or lost()
                pause = _pause(problem, attempt)
                if attempt >= RETRIES or pause is None or not paid:
                    raise
                await asyncio.sleep(pause)
            attempt += 1

    async def _in_time(self, body: dict[str, Any]) -> str:
        """The text of the reply, as the server wrote it: the client would make `true` a number.

        The client's own timeout is between two bytes; a server may also dribble for ever.
        """
        try:
            async with asyncio.timeout((RETRIES + 1) * self._timeout + 60):
                raw = await self._client.chat.completions.with_raw_response.create(**body)
                return str(raw.text)
        except TimeoutError:
            import openai

            raise openai.OpenAIError("the reply never ended") from None


def _check_address(url: str) -> None:
    """Raises UserError."""
    try:
        parts = urlsplit(url)
        good = not url or (parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        good = False
    if not good:
        raise UserError(
            f"OPENAI_BASE_URL is {url[:200]!r}, which is no address; it looks like "
            "http://localhost:8000/v1."
        )


def _may_be_billed(problem: Exception) -> bool:
    """Whether the server may have worked on a request whose reply was lost."""
    status = getattr(problem, "status_code", None)
    if isinstance(status, int):
        return status >= 500 and status != 503
    return type(problem.__cause__).__name__ not in _NOT_SENT


def _pause(problem: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None if another would be of no use."""
    import openai

    if not isinstance(problem, (openai.APIConnectionError, openai.APIStatusError)):
        return None
    if isinstance(problem, openai.APIStatusError):
        if problem.status_code < 500 and problem.status_code not in (408, 409, 429):
            return None
        asked = _retry_after(problem.response.headers)
        if asked is not None:
            return asked if asked <= LONGEST_PAUSE else None
    return float(min(0.5 * 2**attempt, 8.0)) * random.uniform(0.75, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, as a number or as a date."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _cause(problem: BaseException) -> str:
    """What is behind "Connection error.": refused, no such name, TLS."""
    found, told = problem, ""
    while (deeper := found.__cause__ or found.__context__) is not None:
        found = deeper.exceptions[0] if isinstance(deeper, BaseExceptionGroup) else deeper
        if str(found):
            told = f" ({type(found).__name__}: {found})"
    return told


class Dialect:
    """Which of the API's terms a server understands; it says so by refusing others."""

    def __init__(self, form: str = FORMS[1], dropped: frozenset[str] = frozenset()) -> None:
        self.form = form
        self.dropped = dropped

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dialect) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def body(self, request: Request) -> dict[str, Any]:
        """The request in the API's own words."""
        limit = "max_tokens" if "max_completion_tokens" in self.dropped else "max_completion_tokens"
        body: dict[str, Any] = {
            "model": request.llm,
            "messages": [{"role": "user", "content": request.prompt}],
            limit: request.most_tokens,
        }
        if "temperature" not in self.dropped:
            body["temperature"] = request.temperature
        if self.form in FORMS[:2]:
            schema = request.schema if self.form == FORMS[0] else strict_schema(request.schema)
            answer = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        elif self.form == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def simpler(self, refusal: str) -> Dialect | None:
        """Terms without what a server refused; None if there is nothing left to drop."""
        for term in ("temperature", "max_completion_tokens"):
            if term in refusal and term not in self.dropped:
                return Dialect(self.form, self.dropped | {term})
        place = FORMS.index(self.form)
        if re.search(r"context|too long|maximum.*tokens", refusal) or place + 1 == len(FORMS):
            return None
        return Dialect(FORMS[place + 1], self.dropped)


def strict_schema(schema: Any) -> Any:
    """A schema in the words that all strict servers know: without lengths and bounds.

    Replies are checked against the whole of it when they come back.
    """
    unknown = {"minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"}
    if isinstance(schema, dict):
        return {
            key: strict_schema(value)
            for key, value in schema.items()
            if key not in unknown | {"title", "default"} or isinstance(value, dict)
        }
    return [strict_schema(item) for item in schema] if isinstance(schema, list) else schema
