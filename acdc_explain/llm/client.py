"""A client for any OpenAI-compatible server: it sends, tries again, and reports what failed."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeAlias
from urllib.parse import urlsplit

from ..errors import UserError
from .exchange import DEFAULT_TIMEOUT, Exchange, Request
from .key import api_key, base_url, check_key
from .reply import exchange_of, read_json

RETRIES = 4  # on 429, 5xx and lost connections
LONGEST_PAUSE = 120.0  # seconds that a server may ask for before the next attempt
FORMS = ("bounded", "json_schema", "json_object", "text")  # of a reply, the strictest first
_NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError",
             "LocalProtocolError")  # fmt: skip
"""Causes of a connection error that prove that the server never got the request."""

OnLost: TypeAlias = Callable[[], bool]
"""Called when an attempt failed that may be billed; returns whether the budget allows another."""


def key_present() -> bool:
    """Whether the environment has a key or the address of a private server."""
    return bool(api_key() or base_url())


class Transport(Protocol):
    """Sends requests to an LLM, over the network or through a file."""

    max_seconds: float
    """The longest that a request may take, with all attempts; 0 if nothing is sent now."""

    async def __call__(self, request: Request, on_lost: OnLost) -> Exchange:
        """Send a request.

        Errors of the LLM or the network do not raise; they are in the exchange.

        Raises:
            NotAsked: if nothing is sent now.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class Llm:
    """A transport to a server. The key is read from the environment and stored nowhere.

    Raises UserError if no server is known, or if the key or the address is wrong.
    """

    def __init__(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        if not key_present():
            raise UserError(
                "No LLM can be asked: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your "
                'own, or use `labeler="rules"`, which needs neither.'
            )
        check_key()
        _check_address(base_url())
        self._timeout = timeout
        self.max_seconds = (RETRIES + 1) * (timeout + LONGEST_PAUSE) + 60
        # private servers enforce lengths by grammars; OpenAI's strict mode refuses them
        self._dialect = Dialect(FORMS[0] if base_url() else FORMS[1])
        self._client: Any = None

    async def __call__(self, request: Request, on_lost: OnLost) -> Exchange:
        import openai

        started = time.monotonic()
        response, error = None, None
        try:
            response = read_json(await self._send(request, on_lost))
        except openai.APITimeoutError:
            error = f"APITimeoutError: no reply within {self._timeout:g} s"
        except openai.OpenAIError as problem:
            error = f"{type(problem).__name__}: {problem}{_cause(problem)}"
        except (ValueError, RecursionError) as problem:  # no JSON, or nested too deeply
            error = f"the server's reply cannot be read: {type(problem).__name__}: {problem}"
        seconds = round(time.monotonic() - started, 3)
        return exchange_of(request, response, error, seconds)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _send(self, request: Request, on_lost: OnLost) -> str:
        """Send a request; send it in a simpler dialect if the server refuses a parameter."""
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
                return await self._send_with_retries(dialect.body(request), on_lost)
            except openai.BadRequestError as refusal:
                simpler = dialect.simpler(str(refusal))
                if simpler is None:
                    raise
                if self._dialect == dialect:  # no other request has changed it in the meantime
                    self._dialect = simpler

    async def _send_with_retries(self, body: dict[str, Any], on_lost: OnLost) -> str:
        """Try again after a failure, when the server says or after growing pauses."""
        import openai

        attempt = 0
        while True:
            try:
                return await self._send_once(body)
            except openai.OpenAIError as problem:
                affordable = not _may_be_billed(problem) or on_lost()
                pause = _pause(problem, attempt)
                if attempt >= RETRIES or pause is None or not affordable:
                    raise
                await asyncio.sleep(pause)
            attempt += 1

    async def _send_once(self, body: dict[str, Any]) -> str:
        """The body of the response as raw text, since openai's models would turn `true` into 1.

        The time of the whole response is bounded here; openai's timeout is between two bytes.
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
    """Whether the server may have processed a request whose reply did not arrive."""
    status = getattr(problem, "status_code", None)
    if isinstance(status, int):
        return status >= 500 and status != 503
    return type(problem.__cause__).__name__ not in _NOT_SENT


def _pause(problem: Exception, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None if another attempt cannot help."""
    import openai

    if not isinstance(problem, (openai.APIConnectionError, openai.APIStatusError)):
        return None
    if isinstance(problem, openai.APIStatusError):
        if problem.status_code < 500 and problem.status_code not in (408, 409, 429):
            return None
        seconds = _retry_after(problem.response.headers)
        if seconds is not None:
            return seconds if seconds <= LONGEST_PAUSE else None
    return float(min(0.5 * 2**attempt, 8.0)) * random.uniform(0.75, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds until the time in a Retry-After header, which is a number or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _cause(problem: BaseException) -> str:
    """The innermost cause of a "Connection error.", such as a refused connection or TLS."""
    text = ""
    while (cause := problem.__cause__ or problem.__context__) is not None:
        problem = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause
        if str(problem):
            text = f" ({type(problem).__name__}: {problem})"
    return text


@dataclass(frozen=True)
class Dialect:
    """The parameters of the API that a server accepts.

    `form` is one of FORMS. `dropped` are the parameters that the server refused.
    """

    form: str = FORMS[1]
    dropped: frozenset[str] = frozenset()

    def body(self, request: Request) -> dict[str, Any]:
        """The request as the API's JSON."""
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
        """The dialect without what a server refused; None if nothing can be dropped."""
        for name in ("temperature", "max_completion_tokens"):
            if name in refusal and name not in self.dropped:
                return Dialect(self.form, self.dropped | {name})
        next_form = FORMS.index(self.form) + 1
        if re.search(r"context|too long|maximum.*tokens", refusal) or next_form == len(FORMS):
            return None
        return Dialect(FORMS[next_form], self.dropped)


def strict_schema(schema: Any) -> Any:
    """A JSON schema without lengths and bounds, as every strict server accepts it.

    Replies are checked against the full schema when they come back.
    """
    unknown = {"minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"}
    if isinstance(schema, dict):
        return {
            key: strict_schema(value)
            for key, value in schema.items()
            if key not in unknown | {"title", "default"} or isinstance(value, dict)
        }
    return [strict_schema(item) for item in schema] if isinstance(schema, list) else schema
