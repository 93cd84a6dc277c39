"""Putting questions to an LLM: nothing is asked twice, and every exchange is kept at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from anyio.from_thread import start_blocking_portal
from pydantic import ValidationError

from .client import Transport
from .exchange import Exchange, NotAsked, Request, UnusableReply
from .key import json_in
from .lease import Holder
from .prices import Prices, tokens_in
from .reply import REFUSED, is_empty
from .templates import Templates

DEFAULT_CONCURRENCY = 4

REPAIR = "repair"  # the template that shows a bad reply and what is wrong with it
SHOWN = 2000  # characters of a bad reply
WAIT = 0.5  # seconds until it is looked again whether another command has its reply
UNANSWERED = 3  # so many lost questions before the first reply, and the rest is not asked

T = TypeVar("T")
ReplyCheck: TypeAlias = Callable[[Exchange], str | None]
UNUSABLE = "unusable reply: "


class ReplyCache(Protocol):
    """Where exchanges are kept."""

    def find_replies(self, request_id: str) -> list[Exchange]: ...

    def add_exchange(self, exchange: Exchange) -> None: ...

    def lease(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        """Keep others from asking the same. The replies there are; None: another asks just now."""
        ...

    def release(self, request_id: str, holder: Holder) -> None: ...


@dataclass
class Session:
    """Where all questions of a command go: one transport, one shelf, one purse.

    `again`: replies on the shelf that were of no use are not taken for an answer.
    """

    llm: str
    templates: Templates
    transport: Transport
    cache: ReplyCache
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
    _holder: Holder = field(default_factory=Holder.new)

    def ask(self) -> Conversation:
        """For one question, which may take several exchanges."""
        return Conversation(self)

    async def exchange(self, request: Request, problem_of: ReplyCheck) -> Exchange:
        """From the shelf or from the LLM; with the error that `problem_of` finds in the reply."""
        if self._limit is None:
            self._limit = asyncio.Semaphore(self.concurrency)
        async with self._turns[request.id]:  # the same request at the same time is asked once
            found = self.cache.find_replies(request.id)
            if (held := self._best(found, problem_of)) is not None:
                return await self._keep(held)
            if not self.transport.longest:  # it asks nobody, and says why
                return await self.transport(request, lambda: False)
            async with self._limit:  # until it is kept: a kill loses no more than is under way
                return await self._leased(request, problem_of, {exchange.id for exchange in found})

    def _best(self, found: Sequence[Exchange], problem_of: ReplyCheck) -> Exchange | None:
        held = [replace(exchange, error=problem_of(exchange)) for exchange in found]
        held.sort(key=lambda exchange: exchange.error is not None)
        return held[0] if held and not (self.again and held[0].error) else None

    async def _leased(
        self, request: Request, problem_of: ReplyCheck, known: AbstractSet[str]
    ) -> Exchange:
        """Asked by this command, or by another one that asks the same at the same time."""
        self._check(request)
        while True:
            found = self.cache.lease(request.id, self._holder, self.transport.longest)
            if found is not None:
                break
            await asyncio.sleep(WAIT)
        try:
            new = [exchange for exchange in found if exchange.id not in known]
            exchange = new[0] if new else await self._send(request)
            return await self._keep(replace(exchange, error=problem_of(exchange)))
        finally:
            self.cache.release(request.id, self._holder)

    async def _keep(self, exchange: Exchange) -> Exchange:
        await asyncio.to_thread(self.cache.add_exchange, exchange)
        return exchange

    async def _send(self, request: Request) -> Exchange:
        most = self._check(request)

        def lost() -> bool:
            self.spent += most
            return self._affords(0.0)  # what is set aside is for the next attempt now

        self._pledged += most
        try:
            exchange = self.prices.priced(await self.transport(request, lost))
        finally:
            self._pledged -= most
        self._count(request, exchange)
        return exchange

    def _check(self, request: Request) -> float:
        """What the reply may cost at most. Raises NotAsked if it cannot be had."""
        if self.nobody_answers:
            raise NotAsked(f"the first questions got no reply ({self.nobody_answers})")
        most = self.prices.cost(self.llm, tokens_in(request), request.most_tokens) or 0.0
        if not self._affords(most):
            raise NotAsked(f"it might have cost more than --max-cost {self.max_cost:g} allows")
        return most

    def _affords(self, cost: float) -> bool:
        return self.max_cost is None or self.spent + self._pledged + cost <= self.max_cost

    def _count(self, request: Request, exchange: Exchange) -> None:
        """Everything that a server answered is paid, also what was of no use."""
        if exchange.reply is not None:
            self._answered += 1
        elif not is_empty(exchange):
            self._lost.append(exchange.error or "no reply")
            return
        self.spent += self.prices.bill(request, exchange)

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


class Conversation:
    """An `Ask` for one question; remembers its exchanges, the bad ones too."""

    def __init__(self, session: Session) -> None:
        self._desk = session
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
        if is_empty(exchange):
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
        def problem_of(exchange: Exchange) -> str | None:
            """What is wrong with it: what the transport found, or else what the reader finds."""
            found = exchange.error
            if exchange.reply is None or (found and not found.startswith(UNUSABLE)):
                return found
            try:
                read(json_in(exchange.reply))
            except RecursionError:
                return f"{UNUSABLE}it is nested too deeply"
            except ValueError as error:
                return UNUSABLE + one_line(error)
            return None

        exchange = await self._desk.exchange(request, problem_of)
        self.exchanges.append(exchange)
        if exchange.error is not None or exchange.reply is None:
            return None, exchange
        return read(json_in(exchange.reply)), exchange


def run_async(work: Callable[[], Awaitable[T]], session: Session | None) -> T:
    """In an event loop of its own thread: also where one runs already, in a notebook."""

    async def and_close() -> T:
        try:
            return await work()
        finally:
            if session is not None:
                await session.close()

    with start_blocking_portal() as portal:
        return portal.call(and_close)


def one_line(error: ValueError) -> str:
    """A complaint about a reply that a person or an LLM can act on."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        return f"{place}: {first['msg']}"
    return str(error).encode("utf-8", "replace").decode()
