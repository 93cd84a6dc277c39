"""What a server sent back, as an exchange: the text of the reply, its tokens, what is wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from .exchange import Exchange, Request
from .key import without_key

LONGEST_REPLY = 20_000  # characters
MOST_TOKENS = 10_000_000  # of one exchange: no LLM reads or writes as many
REFUSED = "the LLM refused"


def to_exchange(
    request: Request, response: Any, error: str | None = None, seconds: float = 0.0
) -> Exchange:
    """What a chat completion says; an error where it says nothing that can be used."""
    choices, usage = getattr(response, "choices", None), getattr(response, "usage", None)
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
        reply=None if reply is None else _kept(reply),
        error=None if error is None else _kept(error),
        tokens_in=_counted(usage, "prompt_tokens", 1),
        tokens_out=_counted(usage, "completion_tokens", 1 if reply else 0),
        seconds=seconds,
        request_id=request.id,
    )


def _counted(usage: Any, name: str, least: int) -> int | None:
    """How many tokens a server counted; None if it says so in no way that can be true."""
    value = getattr(usage, name, None)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= MOST_TOKENS else None


def _reply(choice: Any) -> tuple[str | None, str | None]:
    """The text of a reply, and what is wrong with it."""
    content, refusal = (getattr(choice.message, name, None) for name in ("content", "refusal"))
    if refusal:
        return str(refusal)[:LONGEST_REPLY], REFUSED
    if not isinstance(content, str) or not content:
        return None, "the reply is empty"
    if not storable(content):
        return content[:LONGEST_REPLY], "the reply has characters that are no text (surrogates)"
    if len(content) > LONGEST_REPLY:
        told = f"the reply has {len(content)} characters, {LONGEST_REPLY} are kept"
        return content[:LONGEST_REPLY], told
    if getattr(choice, "finish_reason", None) == "length":
        return content, "the reply was cut off"
    return content, None


def storable(text: str) -> bool:
    """Whether a text can be written at all: JSON may hold halves of characters (surrogates)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kept(text: str) -> str:
    return without_key(text.encode("utf-8", "replace").decode())


def is_empty(exchange: Exchange) -> bool:
    """Whether a server answered and said nothing: asking once more often helps."""
    error = exchange.error or ""
    return exchange.reply is None and error.startswith(("the reply", "the server's reply"))


def read_json(text: str) -> Any:
    """JSON with objects as records. Raises ValueError and RecursionError."""
    return json.loads(text, object_hook=lambda entry: SimpleNamespace(**entry))


def from_batch(request: Request, body: Any) -> Exchange:
    """The exchange in a line of a batch file, however little of a chat completion it has."""
    try:
        response = read_json(json.dumps(body))
    except RecursionError:
        return to_exchange(request, None, "the reply is nested too deeply")
    return to_exchange(request, response)
