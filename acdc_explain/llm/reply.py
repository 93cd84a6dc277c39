"""A server's response as an exchange: the text of the reply, its tokens, and what is wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from .exchange import Exchange, Request
from .key import without_key

LONGEST_REPLY = 20_000  # characters
MOST_TOKENS = 10_000_000  # of one exchange: no LLM reads or writes as many
REFUSED = "the LLM refused"


def exchange_of(
    request: Request, response: Any, error: str | None = None, seconds: float = 0.0
) -> Exchange:
    """The exchange of a request.

    Args:
        request: What was sent.
        response: A chat completion with JSON objects as namespaces; it may lack any of its parts.
        error: What went wrong, if no response came.
        seconds: How long it took, with all attempts.

    Returns:
        The exchange. Its error says what is wrong with the response, if anything is.
    """
    choices, usage = getattr(response, "choices", None), getattr(response, "usage", None)
    reply = None
    if error is None:
        if not isinstance(choices, list) or not choices or not hasattr(choices[0], "message"):
            error = "the reply has no choices"
        else:
            reply, error = _reply_and_error(choices[0])
    return Exchange(
        template=request.template,
        llm=request.llm,
        prompt=request.prompt,
        reply=None if reply is None else _clean(reply),
        error=None if error is None else _clean(error),
        tokens_in=_token_count(usage, "prompt_tokens", 1),
        tokens_out=_token_count(usage, "completion_tokens", 1 if reply else 0),
        seconds=seconds,
        request_id=request.id,
    )


def exchange_of_batch(request: Request, body: Any) -> Exchange:
    """The exchange of a request that a line of a batch file answers with this body."""
    try:
        response = read_json(json.dumps(body))
    except RecursionError:
        return exchange_of(request, None, "the reply is nested too deeply")
    return exchange_of(request, response)


def read_json(text: str) -> Any:
    """JSON with objects as namespaces. Raises ValueError and RecursionError."""
    return json.loads(text, object_hook=lambda entry: SimpleNamespace(**entry))


def is_empty(exchange: Exchange) -> bool:
    """Whether a server responded without a reply. Sending the request once more often helps."""
    error = exchange.error or ""
    return exchange.reply is None and error.startswith(("the reply", "the server's reply"))


def storable(text: str) -> bool:
    """Whether a text can be encoded: JSON may hold halves of characters (surrogates)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _token_count(usage: Any, name: str, least: int) -> int | None:
    """The number of tokens that a server counted; None if there is none that can be true."""
    value = getattr(usage, name, None)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= MOST_TOKENS else None


def _reply_and_error(choice: Any) -> tuple[str | None, str | None]:
    content, refusal = (getattr(choice.message, name, None) for name in ("content", "refusal"))
    if refusal:
        return str(refusal)[:LONGEST_REPLY], REFUSED
    if not isinstance(content, str) or not content:
        return None, "the reply is empty"
    if not storable(content):
        return content[:LONGEST_REPLY], "the reply has characters that are no text (surrogates)"
    if len(content) > LONGEST_REPLY:
        error = f"the reply has {len(content)} characters, {LONGEST_REPLY} are kept"
        return content[:LONGEST_REPLY], error
    if getattr(choice, "finish_reason", None) == "length":
        return content, "the reply was cut off"
    return content, None


def _clean(text: str) -> str:
    """A text that can be stored: without the key and without surrogates."""
    return without_key(text.encode("utf-8", "replace").decode())
