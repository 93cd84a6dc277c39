"""Any OpenAI-compatible server: send a request, take the reply, say what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from types import SimpleNamespace
from typing import Any, Protocol

from .errors import UserError
from .exchange import Exchange, Request
from .settings import DEFAULT_TIMEOUT

RETRIES = 4  # on 429, 5xx and lost connections; the client waits as Retry-After says, to 2 minutes
LONGEST_REPLY = 20_000  # characters
REFUSED = "the LLM refused"
FORMS = ("bounded", "json_schema", "json_object", "text")  # of replies, the strictest first


def key_present() -> bool:
    """Whether the environment has what it takes to ask an LLM: a key, or a server of one's own."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))


class Transport(Protocol):
    """Brings a request to an LLM, now or by way of a file."""

    async def __call__(self, request: Request) -> Exchange:
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
                "own, or use --labeler rules, which needs neither."
            )
        self._timeout = timeout
        own = os.environ.get("OPENAI_BASE_URL")  # grammars know lengths, OpenAI's strict mode not
        self._manners = Manners(FORMS[0] if own else FORMS[1])
        self._client: Any = None

    async def __call__(self, request: Request) -> Exchange:
        import openai

        started = time.monotonic()
        response, error = None, None
        try:
            response = await self._send(request)
        except openai.APITimeoutError:
            error = f"APITimeoutError: no reply within {self._timeout:g} s, {RETRIES + 1} times"
        except openai.OpenAIError as problem:
            error = f"{type(problem).__name__}: {problem}"
        except ValueError as problem:  # a reply that is no JSON at all
            error = f"the server's reply cannot be read: {problem}"
        seconds = round(time.monotonic() - started, 3)
        return to_exchange(request, response, error, seconds)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _send(self, request: Request) -> Any:
        """Asks again in simpler terms where the server refuses the terms."""
        import openai

        if self._client is None:  # in the event loop that will use it
            self._client = openai.AsyncOpenAI(
                api_key=os.environ.get("OPENAI_API_KEY") or "none",
                timeout=self._timeout,
                max_retries=RETRIES,
            )
        while True:
            manners = self._manners
            try:
                return await self._in_time(manners.body(request))
            except openai.BadRequestError as refusal:
                simpler = manners.simpler(str(refusal))
                if simpler is None:
                    raise
                if self._manners == manners:  # not learnt in the meantime from another reply
                    self._manners = simpler

    async def _in_time(self, body: dict[str, Any]) -> Any:
        """The client's own timeout is between two bytes; a server may also dribble for ever."""
        try:
            async with asyncio.timeout((RETRIES + 1) * self._timeout + 60):
                return await self._client.chat.completions.create(**body)
        except TimeoutError:
            import openai

            raise openai.APIConnectionError(message="the reply never ended", request=None) from None  # type: ignore[arg-type]


class Manners:
    """Which of the API's terms a server understands; it says so by refusing others."""

    def __init__(self, form: str = FORMS[1], dropped: frozenset[str] = frozenset()) -> None:
        self.form = form
        self.dropped = dropped

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manners) and vars(self) == vars(other)

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
            schema = request.schema if self.form == FORMS[0] else strict(request.schema)
            answer = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        elif self.form == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    def simpler(self, refusal: str) -> Manners | None:
        """Terms without what a server refused; None if there is nothing left to drop."""
        for term in ("temperature", "max_completion_tokens"):
            if term in refusal and term not in self.dropped:
                return Manners(self.form, self.dropped | {term})
        place = FORMS.index(self.form)
        if re.search(r"context|too long|maximum.*tokens", refusal) or place + 1 == len(FORMS):
            return None
        return Manners(FORMS[place + 1], self.dropped)


def strict(schema: Any) -> Any:
    """A schema in the words that all strict servers know: without lengths and bounds.

    Replies are checked against the whole of it when they come back.
    """
    unknown = {"minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"}
    if isinstance(schema, dict):
        return {
            key: strict(value)
            for key, value in schema.items()
            if key not in unknown | {"title", "default"} or isinstance(value, dict)
        }
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


def to_exchange(
    request: Request, response: Any, error: str | None = None, seconds: float = 0.0
) -> Exchange:
    """What a chat completion says; an error where it says nothing that can be used."""
    choices, usage = getattr(response, "choices", None), getattr(response, "usage", None)
    tokens = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    reply = None
    if error is None:
        if not isinstance(choices, list) or not choices or not hasattr(choices[0], "message"):
            error = "the reply has no choices"
        else:
            reply, error = _reply(choices[0])
    return Exchange(
        template=request.template,
        llm=request.llm,
        prompt=request.prompt,
        reply=None if reply is None else without_key(reply),
        error=None if error is None else without_key(error),
        tokens_in=tokens[0] if isinstance(tokens[0], int) else None,
        tokens_out=tokens[1] if isinstance(tokens[1], int) else None,
        seconds=seconds,
        request_id=request.id,
    )


def _reply(choice: Any) -> tuple[str | None, str | None]:
    """The text of a reply, and what is wrong with it."""
    content, refusal = (getattr(choice.message, name, None) for name in ("content", "refusal"))
    if refusal:
        return str(refusal)[:LONGEST_REPLY], REFUSED
    if not isinstance(content, str) or not content:
        return None, "the reply is empty"
    if len(content) > LONGEST_REPLY:
        told = f"the reply has {len(content)} characters, {LONGEST_REPLY} are kept"
        return content[:LONGEST_REPLY], told
    if getattr(choice, "finish_reason", None) == "length":
        return content, "the reply was cut off"
    return content, None


def speechless(exchange: Exchange) -> bool:
    """Whether a server answered and said nothing: asking once more often helps."""
    error = exchange.error or ""
    return exchange.reply is None and error.startswith(("the reply", "the server's reply"))


def from_batch(request: Request, body: Any) -> Exchange:
    """The exchange in a line of a batch file, however little of a chat completion it has."""
    response = json.loads(json.dumps(body), object_hook=lambda entry: SimpleNamespace(**entry))
    return to_exchange(request, response)


def without_key(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY")
    return text.replace(key, "[key]") if key else text
