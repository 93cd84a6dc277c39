"""Putting questions to an LLM: nothing is asked twice, and every exchange is kept at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from anyio.from_thread import start_blocking_portal
from pydantic import ValidationError

from .exchange import Exchange, NotAsked, Request, UnusableReply
from .llm import REFUSED, Transport, speechless
from .prices import Prices, estimated_tokens
from .rendering import Templates
from .settings import DEFAULT_CONCURRENCY

REPAIR = "repair"  # the template that shows a bad reply and what is wrong with it
SHOWN = 2000  # characters of a bad reply
UNANSWERED = 3  # so many lost questions before the first reply, and the rest is not asked

T = TypeVar("T")
Judge: TypeAlias = Callable[[Exchange], str | None]
UNUSABLE = "unusable reply: "


class Shelf(Protocol):
    """Where exchanges are kept."""

    def find_replies(self, request_id: str) -> list[Exchange]: ...

    def add_exchange(self, run_id: str | None, exchange: Exchange) -> None: ...


@dataclass
class Desk:
    """Where all questions of a command go: one transport, one shelf, one purse.

    `again`: replies on the shelf that were of no use are not taken for an answer.
    """

    llm: str
    templates: Templates
    transport: Transport
    shelf: Shelf
    run_id: str | None
    prices: Prices = field(default_factory=Prices.read)
    max_cost: float | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    again: bool = False
    spent: float = 0.0
    _pledged: float = 0.0
    _answered: int = 0
    _lost: list[str] = field(default_factory=list)
    _limit: asyncio.Semaphore | None = None
    _turns: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def ask(self) -> Asking:
        """For one question, which may take several exchanges."""
        return Asking(self)

    async def exchange(self, request: Request, judge: Judge) -> Exchange:
        """From the shelf or from the LLM; with the error that `judge` finds in the reply."""
        if self._limit is None:
            self._limit = asyncio.Semaphore(self.concurrency)
        async with self._turns[request.id]:  # the same request at the same time is asked once
            held = [replace(h, error=judge(h)) for h in self.shelf.find_replies(request.id)]
            held.sort(key=lambda exchange: exchange.error is not None)
            if held and not (self.again and held[0].error):
                return await self._keep(held[0])
            async with self._limit:  # until it is kept: a kill loses no more than is under way
                exchange = await self._send(request)
                return await self._keep(replace(exchange, error=judge(exchange)))

    async def _keep(self, exchange: Exchange) -> Exchange:
        await asyncio.to_thread(self.shelf.add_exchange, self.run_id, exchange)
        return exchange

    async def _send(self, request: Request) -> Exchange:
        if self.nobody_answers:
            raise NotAsked(f"the first questions got no reply ({self.nobody_answers})")
        pledge = self._pledge(request)
        try:
            exchange = self.prices.priced(await self.transport(request))
        finally:
            self._pledged -= pledge
        if exchange.reply is not None:
            self._answered += 1
            uncounted = self._cost(request, estimated_tokens(exchange.reply))
            self.spent += uncounted if exchange.cost_usd is None else exchange.cost_usd
        elif not speechless(exchange):
            self._lost.append(exchange.error or "no reply")
        return exchange

    def _pledge(self, request: Request) -> float:
        """What the reply may cost at most, set aside. Raises NotAsked if it is not there."""
        most = self._cost(request, request.most_tokens)
        if self.max_cost is not None and self.spent + self._pledged + most > self.max_cost:
            raise NotAsked(f"it might have cost more than --max-cost {self.max_cost:g} allows")
        self._pledged += most
        return most

    def _cost(self, request: Request, tokens_out: int) -> float:
        return self.prices.cost(self.llm, estimated_tokens(request.prompt), tokens_out) or 0.0

    async def close(self) -> None:
        """At the end of an event loop: what is bound to it goes with it."""
        await self.transport.close()
        self._limit = None
        self._turns.clear()

    @property
    def nobody_answers(self) -> str | None:
        """What the first questions were lost for, if none at all was answered."""
        silent = len(self._lost) >= UNANSWERED and not self._answered
        return self._lost[0] if silent else None


class Asking:
    """An `Ask` for one question; remembers its exchanges, the bad ones too."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.exchanges: list[Exchange] = []

    @property
    def llm(self) -> str:
        return self._desk.llm

    def render(self, template: str, /, **variables: Any) -> str:
        return self._desk.templates.render(template, **variables)

    async def __call__(
        self, template: str, prompt: str, schema: Mapping[str, Any], read: Callable[[str], T]
    ) -> tuple[T, Exchange]:
        request = Request(template, self.llm, prompt, schema)
        answer, exchange = await self._once(request, read)
        if speechless(exchange):
            answer, exchange = await self._once(request, read)
        if answer is None and exchange.reply is not None and exchange.error != REFUSED:
            repair = self.render(
                REPAIR, question=prompt, reply=exchange.reply[:SHOWN], problem=exchange.error
            )
            answer, exchange = await self._once(Request(REPAIR, self.llm, repair, schema), read)
        if answer is None:
            raise UnusableReply(exchange)
        return answer, exchange

    async def _once(self, request: Request, read: Callable[[str], T]) -> tuple[T | None, Exchange]:
        def judge(exchange: Exchange) -> str | None:
            """What is wrong with it: what the transport found, or else what the reader finds."""
            found = exchange.error
            if exchange.reply is None or (found and not found.startswith(UNUSABLE)):
                return found
            try:
                read(json_in(exchange.reply))
            except ValueError as error:
                return UNUSABLE + one_line(error)
            return None

        exchange = await self._desk.exchange(request, judge)
        self.exchanges.append(exchange)
        if exchange.error is not None or exchange.reply is None:
            return None, exchange
        return read(json_in(exchange.reply)), exchange


def json_in(reply: str) -> str:
    """The JSON object of a reply, without the thoughts or the fence that some put around it."""
    said = reply.rpartition("</think>")[2]
    start, end = said.find("{"), said.rfind("}")
    return said[start : end + 1] if 0 <= start < end else said


def run_async(work: Callable[[], Awaitable[T]], desk: Desk | None) -> T:
    """In an event loop of its own thread: also where one runs already, in a notebook."""

    async def and_close() -> T:
        try:
            return await work()
        finally:
            if desk is not None:
                await desk.close()

    with start_blocking_portal() as portal:
        return portal.call(and_close)


def one_line(error: ValueError) -> str:
    """A complaint about a reply that a person or an LLM can act on."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        return f"{place}: {first['msg']}"
    return str(error)
