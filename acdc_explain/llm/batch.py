"""Questions to an LLM in a file, and replies from one: OpenAI's batch format.

Requests are written to a file instead of being sent. The replies of the file are put into the same
cache as replies over the network, and labeling goes on as if it had sent the requests itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..output.files import check_output
from .client import Dialect, OnLost
from .exchange import Exchange, Request, Waiting
from .lease import Holder
from .prices import Prices, tokens_in
from .reply import exchange_of, exchange_of_batch, storable
from .session import ReplyCache

URL = "/v1/chat/completions"


class RecordingTransport:
    """A transport that sends nothing and records the requests."""

    max_seconds = 0.0

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}  # by id

    async def __call__(self, request: Request, on_lost: OnLost) -> Exchange:
        self.requests[request.id] = request
        raise Waiting("it waits for an answer from a batch file")

    async def close(self) -> None:
        pass


class CacheOverlay:
    """A cache with replies of its own on top of another cache, which stays unchanged."""

    def __init__(self, cache: ReplyCache) -> None:
        self._cache = cache
        self.added: dict[str, Exchange] = {}  # by the request's id

    def find_replies(self, request_id: str) -> list[Exchange]:
        stored, added = self._cache.find_replies(request_id), self.added.get(request_id)
        return [*stored, added] if added is not None and added.reply is not None else stored

    def add_exchange(self, exchange: Exchange) -> None:
        pass

    def lease(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        return self.find_replies(request_id)

    def release(self, request_id: str, holder: Holder) -> None:
        pass


def write_requests(file: Path, requests: Iterable[Request]) -> int:
    """Write one request a line, and return how many. Raises UserError."""
    lines = [
        {"custom_id": r.id, "method": "POST", "url": URL, "body": Dialect().body(r)}
        for r in requests
    ]
    check_output(file)
    try:
        with file.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
    return len(lines)


def read_answers(file: Path) -> dict[str, Mapping[str, Any]]:
    """The lines of a file of replies, by custom_id. Raises UserError that names the line."""
    answers: dict[str, Mapping[str, Any]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not in UTF-8 ({error.reason}).") from error
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            custom_id = line["custom_id"]
            if not isinstance(custom_id, str) or not isinstance(line.get("response") or {}, dict):
                raise TypeError("custom_id must be a text and response an object")
            if not storable(custom_id):
                raise ValueError("custom_id has characters that are no text")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file}, line {number} is no answer of a batch ({type(error).__name__}: {error}); "
                "nothing was taken."
            ) from error
        if custom_id in answers:
            raise UserError(
                f"{file}, line {number} answers {custom_id[:80]!r} again; nothing was taken."
            )
        answers[custom_id] = line
    return answers


def take(
    file: Path,
    cache: CacheOverlay,
    prices: Prices,
    open_requests: Callable[[], Mapping[str, Request]],
) -> list[Exchange]:
    """Take the replies in a file into a cache.

    Args:
        file: Replies in the batch format.
        cache: Gets the replies.
        prices: What they cost.
        open_requests: Returns, by id, the requests that would be sent with what is in the cache
            now. It is called again after each reply that was taken: an unusable reply leads to a
            repair request, and the file may have its reply too.

    Returns:
        The exchanges, one for each line that was taken.

    Raises:
        UserError: if the file cannot be read, or has a reply to any other request.
    """
    lines = read_answers(file)
    while True:
        requests = open_requests()
        new = [r for name, r in requests.items() if name in lines and name not in cache.added]
        if not new:
            break
        cache.added |= {r.id: _exchange_of_line(r, lines[r.id], prices) for r in new}
    unknown = [name for name in lines if name not in cache.added and not cache.find_replies(name)]
    if unknown:
        raise UserError(
            f"{file} answers {unknown[0][:80]!r}, which this run does not ask; nothing was taken. "
            "Give the labeler, LLM and settings with which the questions were written."
        )
    return list(cache.added.values())


def _exchange_of_line(request: Request, line: Mapping[str, Any], prices: Prices) -> Exchange:
    """The exchange of a request that a line answers, with a reply or with an error."""
    response = line.get("response") or {}
    body, problem = response.get("body"), line.get("error")
    status = response.get("status_code", 200)
    if problem or status != 200 or not isinstance(body, dict):
        reason = _short_json(problem or body)
        return exchange_of(request, None, f"the batch answered with status {status}: {reason}")
    return prices.with_cost(exchange_of_batch(request, body), batch=True)


def _short_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:500]
    except RecursionError:
        return "something that is nested too deeply"


def bill(requests: Sequence[Request], prices: Prices, llm: str) -> dict[str, Any]:
    """The most that requests may cost, as JSON.

    Tokens of prompts are estimated, and every reply is taken to be as long as allowed.
    """
    lines = [
        {
            "id": r.id,
            "template": r.template,
            "tokens_in": tokens_in(r),
            "tokens_out_at_most": r.most_tokens,
            "prompt": r.prompt,
        }
        for r in requests
    ]
    sent = sum(map(tokens_in, requests))
    received = sum(request.most_tokens for request in requests)
    return {
        "llm": llm,
        "n": len(lines),
        "tokens_in": sent,
        "tokens_out_at_most": received,
        "cost_usd_at_most": prices.cost(llm, sent, received),
        "batch_usd_at_most": prices.cost(llm, sent, received, batch=True),
        "requests": lines,
    }
