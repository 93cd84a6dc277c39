"""Questions to an LLM as a file, and answers from one: OpenAI's batch format.

Whatever would be asked now is written down instead; the answers go on the same shelf on which
replies over the network are kept, so that labeling goes on as if it had asked itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..output.files import check_output
from .client import Dialect, Lost
from .exchange import Exchange, Request, Waiting
from .lease import Holder
from .prices import Prices, tokens_in
from .reply import from_batch, storable, to_exchange
from .session import ReplyCache

URL = "/v1/chat/completions"


class RecordingTransport:
    """A transport that asks nobody: it notes what would be asked."""

    longest = 0.0

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}

    async def __call__(self, request: Request, lost: Lost) -> Exchange:
        self.requests[request.id] = request
        raise Waiting("it waits for an answer; --batch-out writes what is still to be asked")

    async def close(self) -> None:
        pass


class CacheOverlay:
    """A shelf on which nothing is changed: what is added is seen here alone."""

    def __init__(self, cache: ReplyCache) -> None:
        self._shelf = cache
        self.added: dict[str, Exchange] = {}  # by request

    def find_replies(self, request_id: str) -> list[Exchange]:
        own = self.added.get(request_id)
        found = self._shelf.find_replies(request_id)
        return [*found, own] if own is not None and own.reply is not None else found

    def add_exchange(self, exchange: Exchange) -> None:
        pass

    def lease(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        return self.find_replies(request_id)

    def release(self, request_id: str, holder: Holder) -> None:
        pass


def write_requests(file: Path, requests: Iterable[Request]) -> int:
    """One line a request. Raises UserError."""
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
    """The lines by custom_id. Raises UserError that names the line."""
    found: dict[str, Mapping[str, Any]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8 ({error.reason}).") from error
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
        if custom_id in found:
            raise UserError(
                f"{file}, line {number} answers {custom_id[:80]!r} again; nothing was taken."
            )
        found[custom_id] = line
    return found


def answered(request: Request, line: Mapping[str, Any], prices: Prices) -> Exchange:
    """What a line of answers says to a request: a reply, or an error."""
    response = line.get("response") or {}
    body, problem = response.get("body"), line.get("error")
    status = response.get("status_code", 200)
    if problem or status != 200 or not isinstance(body, dict):
        told = short_json(problem or body)
        return to_exchange(request, None, f"the batch answered with status {status}: {told}")
    return prices.priced(from_batch(request, body), batch=True)


def short_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:500]
    except RecursionError:
        return "something that is nested too deeply"


def take(
    file: Path,
    cache: CacheOverlay,
    prices: Prices,
    asked_now: Callable[[], Mapping[str, Request]],
) -> list[Exchange]:
    """The exchanges in a file of answers, each to a question that is asked.

    `asked_now` says what would be asked with what is on the shelf: an answer that is no use asks
    for its repair, which the file may hold too. Raises UserError for an answer to anything else.
    """
    lines = read_answers(file)
    while True:
        wanted = asked_now()
        new = [r for name, r in wanted.items() if name in lines and name not in cache.added]
        if not new:
            break
        cache.added |= {r.id: answered(r, lines[r.id], prices) for r in new}
    strange = [name for name in lines if name not in cache.added and not cache.find_replies(name)]
    if strange:
        raise UserError(
            f"{file} answers {strange[0][:80]!r}, which this run does not ask; nothing was taken. "
            "Give the labeler, LLM and settings with which the questions were written."
        )
    return list(cache.added.values())


def bill(requests: Sequence[Request], prices: Prices, llm: str) -> dict[str, Any]:
    """What asking would cost at most: tokens are estimated, replies taken as long as allowed."""
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
    tokens_out = sum(request.most_tokens for request in requests)
    return {
        "llm": llm,
        "n": len(lines),
        "tokens_in": sent,
        "tokens_out_at_most": tokens_out,
        "cost_usd_at_most": prices.cost(llm, sent, tokens_out),
        "batch_usd_at_most": prices.cost(llm, sent, tokens_out, batch=True),
        "requests": lines,
    }
