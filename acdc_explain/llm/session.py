"""Sending questions to an LLM: nothing is sent twice, and every exchange is stored at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from anyio.from_thread import start_blocking_portal
from pydantic import ValidationError

from .client import Transport
from .exchange import DEFAULT_CONCURRENCY, Exchange, NotAsked, Request, UnusableReply
from .key import json_in
from .lease import Holder
from .prices import Prices, tokens_in
from .reply import REFUSED, is_empty
from .templates import Templates

REPAIR = "repair"  # the template that shows an unusable reply and what is wrong with it
SHOWN_CHARACTERS = 2000  # of an unusable reply
POLL_SECONDS = 0.5  # between two looks whether another command has the reply
GIVE_UP_AFTER = 3  # failed requests before the first reply; then no more are sent

T = TypeVar("T")
ReplyCheck: TypeAlias = Callable[[Exchange], str | None]
"""Returns what is wrong with an exchange, or None."""

UNUSABLE = "unusable reply: "


class ReplyCache(Protocol):
    """Where exchanges are stored, so that no request is sent twice."""

    def find_replies(self, request_id: str) -> list[Exchange]:
        """All stored exchanges of a request that have a reply, usable or not."""
        ...

    def add_exchange(self, exchange: Exchange) -> None:
        """Store an exchange."""
        ...

    def lease(self, request_id: str, holder: Holder, seconds: float) -> list[Exchange] | None:
        """Keep other commands from sending a request.

        Args:
            request_id: The request.
            holder: Who sends it.
            seconds: When the lease expires, if it is not released before.

        Returns:
            The replies stored by now; None if another command holds a lease on the request.
        """
        ...

    def release(self, request_id: str, holder: Holder) -> None:
        """End this holder's lease."""
        ...


@dataclass
class Session:
    """All questions of a command go through one session: one transport, one cache, one budget.

    Amounts are in USD. `again`: a stored reply that could not be used is not taken as the answer;
    the request is sent again.
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
    exchanges: dict[str, Exchange] = field(default_factory=dict)  # stored by this command, by id
    _reserved: float = 0.0
    _n_replies: int = 0
    _errors: list[str] = field(default_factory=list)  # of requests without any reply
    _semaphore: asyncio.Semaphore | None = None
    _locks: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _holder: Holder = field(default_factory=Holder.new)

    def ask(self) -> Conversation:
        """An `Ask` for one question, which may take several exchanges."""
        return Conversation(self)

    async def exchange(self, request: Request, problem_of: ReplyCheck) -> Exchange:
        """Get a request's exchange, from the cache or from the LLM.

        Args:
            request: What to send.
            problem_of: Says what is wrong with a reply; the exchange's error is set to it.

        Raises:
            NotAsked: if the request is not sent.
        """
        if self._semaphore is None:
            self._semaphore = asyncio.Semaphore(self.concurrency)
        async with self._locks[request.id]:  # equal requests at the same time are sent once
            stored = self.cache.find_replies(request.id)
            if (best := self._best(stored, problem_of)) is not None:
                return await self._store(best)
            if not self.transport.max_seconds:  # it sends nothing, and raises the reason
                return await self.transport(request, lambda: False)
            async with self._semaphore:  # until it is stored: a kill loses only what is under way
                known_ids = {exchange.id for exchange in stored}
                return await self._send_leased(request, problem_of, known_ids)

    def _best(self, stored: Sequence[Exchange], problem_of: ReplyCheck) -> Exchange | None:
        """The first usable exchange; or an unusable one, unless these are to be sent again."""
        checked = [replace(exchange, error=problem_of(exchange)) for exchange in stored]
        checked.sort(key=lambda exchange: exchange.error is not None)
        return checked[0] if checked and not (self.again and checked[0].error) else None

    async def _send_leased(
        self, request: Request, problem_of: ReplyCheck, known_ids: AbstractSet[str]
    ) -> Exchange:
        """Send a request, or wait for the reply of another command that has sent the same."""
        self._check_budget(request)
        while True:
            stored = self.cache.lease(request.id, self._holder, self.transport.max_seconds)
            if stored is not None:
                break
            await asyncio.sleep(POLL_SECONDS)
        try:
            new = [exchange for exchange in stored if exchange.id not in known_ids]
            exchange = new[0] if new else await self._send(request)
            return await self._store(replace(exchange, error=problem_of(exchange)))
        finally:
            self.cache.release(request.id, self._holder)

    async def _store(self, exchange: Exchange) -> Exchange:
        await asyncio.to_thread(self.cache.add_exchange, exchange)
        self.exchanges[exchange.id] = exchange
        return exchange

    # --- the budget ----------------------------------------------------------------------------

    async def _send(self, request: Request) -> Exchange:
        with self.reserve(request) as most:

            def on_lost() -> bool:
                self.spent += most
                return self._fits(0.0)  # the money set aside now pays for the next attempt

            exchange = self.prices.with_cost(await self.transport(request, on_lost))
        self._charge(request, exchange)
        return exchange

    @contextmanager
    def reserve(self, request: Request) -> Iterator[float]:
        """Set aside the most that a request may cost, and yield that amount.

        Raises NotAsked if the budget does not allow it, or if the LLM cannot be reached.
        """
        most = self._check_budget(request)
        self._reserved += most
        try:
            yield most
        finally:
            self._reserved -= most

    def _check_budget(self, request: Request) -> float:
        """The most that a request may cost. Raises NotAsked if it cannot be sent."""
        if self.unreachable:
            raise NotAsked(f"the first questions got no reply ({self.unreachable})")
        most = self.prices.cost(self.llm, tokens_in(request), request.most_tokens) or 0.0
        if not self._fits(most):
            raise NotAsked(f"it might have cost more than max_cost ({self.max_cost:g} USD) allows")
        return most

    def _fits(self, cost: float) -> bool:
        return self.max_cost is None or self.spent + self._reserved + cost <= self.max_cost

    def _charge(self, request: Request, exchange: Exchange) -> None:
        """Charge whatever a server answered, usable or not."""
        if exchange.reply is not None:
            self._n_replies += 1
        elif not is_empty(exchange):
            self._errors.append(exchange.error or "no reply")
            return
        self.spent += self.prices.charge(request, exchange)

    async def close(self) -> None:
        """Free what is bound to the running event loop. The session can be used in another one."""
        await self.transport.close()
        self._semaphore = None
        self._locks.clear()

    @property
    def unreachable(self) -> str | None:
        """Why the first requests failed, if no request was ever answered; else None."""
        failed = len(self._errors) >= GIVE_UP_AFTER and not self._n_replies
        return self._errors[0] if failed else None


class Conversation:
    """An `Ask` for one question. It remembers all exchanges, also those with unusable replies."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.exchanges: list[Exchange] = []

    @property
    def llm(self) -> str:
        return self._session.llm

    def render(self, template: str, /, **variables: Any) -> str:
        return self._session.templates.render(template, **variables)

    async def __call__(
        self, template: str, prompt: str, schema: Mapping[str, Any], read: Callable[[str], T]
    ) -> tuple[T, Exchange]:
        request = Request(template, self.llm, prompt, schema)
        answer, exchange = await self._once(request, read)
        if is_empty(exchange):
            answer, exchange = await self._once(request, read)
        if answer is None and exchange.reply is not None and exchange.error != REFUSED:
            repair = self.render(
                REPAIR,
                question=prompt,
                reply=exchange.reply[:SHOWN_CHARACTERS],
                problem=exchange.error,
            )
            answer, exchange = await self._once(Request(REPAIR, self.llm, repair, schema), read)
        if answer is None:
            raise UnusableReply(exchange)
        return answer, exchange

    async def _once(self, request: Request, read: Callable[[str], T]) -> tuple[T | None, Exchange]:
        def problem_of(exchange: Exchange) -> str | None:
            """What the transport found wrong, or else what `read` finds wrong."""
            error = exchange.error
            if exchange.reply is None or (error and not error.startswith(UNUSABLE)):
                return error
            try:
                read(json_in(exchange.reply))
            except RecursionError:
                return f"{UNUSABLE}it is nested too deeply"
            except ValueError as problem:
                return UNUSABLE + one_line(problem)
            return None

        exchange = await self._session.exchange(request, problem_of)
        self.exchanges.append(exchange)
        if exchange.error is not None or exchange.reply is None:
            return None, exchange
        return read(json_in(exchange.reply)), exchange


def run_async(work: Callable[[], Awaitable[T]], session: Session | None) -> T:
    """Run a coroutine in an event loop in a thread of its own, then close the session.

    This works in a notebook, too, where an event loop runs already.
    """

    async def work_and_close() -> T:
        try:
            return await work()
        finally:
            if session is not None:
                await session.close()

    with start_blocking_portal() as portal:
        return portal.call(work_and_close)


def one_line(error: ValueError) -> str:
    """The message of an error about a reply, short enough for a person or an LLM to act on."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        return f"{place}: {first['msg']}"
    return str(error).encode("utf-8", "replace").decode()
