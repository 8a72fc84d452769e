"""Group work: while one batch is under way the next gathers, and it leaves as soon as the lane is free.

An idle lane adds no delay, a busy one runs hundreds of items in one statement.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from protocol.codes import AppError, store_unavailable
from storage.database import BadData, Conflict

Item = TypeVar("Item")
Result = TypeVar("Result")

# Past this the next item would wait longer than its caller does; it is refused at once.
MAX_WAITING = 20_000


class Batcher(Generic[Item, Result]):
    """One lane of batches.

    :param run: takes a list of items, returns one result each, in order; an ``AppError`` among the results is
        raised to that item's caller. It must be idempotent: a batch that fails for one bad row is run again in halves.
    :param deadline_s: seconds from ``submit`` to a result; an item that has waited longer is not run any more.
    :param max_batch: most items run at once.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | AppError]]],
        *,
        deadline_s: float,
        max_batch: int = 500,
    ) -> None:
        self._run = run
        self._deadline_s = deadline_s
        self._max_batch = max_batch
        self._gathering: list[tuple[Item, asyncio.Future[Result]]] = []
        self._lane: asyncio.Task[None] | None = None
        self._under_way: asyncio.Future[None] | None = None
        # One timer for all: deadlines come in the order of the items.
        self._deadlines: collections.deque[tuple[float, asyncio.Future[Result]]] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Put ``item`` in the next batch; the future has its result, or STORE_UNAVAILABLE past the deadline.

        Callers' order is the lane's order. Raises STORE_UNAVAILABLE at once when too many wait.
        """
        if len(self._gathering) >= MAX_WAITING:
            raise store_unavailable()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._gathering.append((item, future))
        if self._lane is None:
            self._lane = loop.create_task(self._drain())
        deadline = loop.time() + self._deadline_s
        self._deadlines.append((deadline, future))
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire)
        return future

    async def settled(self) -> None:
        """Wait until the batch that is under way now, if any, has ended."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])

    @property
    def waiting(self) -> int:
        """Items that wait for a batch to leave with."""
        return len(self._gathering)

    async def _drain(self) -> None:
        try:
            while self._gathering:
                batch = self._gathering[: self._max_batch]
                del self._gathering[: self._max_batch]
                self._under_way = asyncio.get_running_loop().create_future()
                try:
                    await self._settle([entry for entry in batch if not entry[1].done()])
                finally:
                    self._under_way.set_result(None)
                    self._under_way = None
        finally:
            self._lane = None

    async def _settle(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        if not batch:
            return
        try:
            results: Sequence[Result | Exception] = await self._run([item for item, _ in batch])
        except (BadData, Conflict) as error:
            if len(batch) > 1:  # one row fails its whole batch: find it, and let the others through
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            results = [error]
        except Exception as error:  # whatever it was, each caller has to hear of it
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller gave up
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        while self._deadlines and self._deadlines[0][1].done():
            self._deadlines.popleft()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while self._deadlines and (self._deadlines[0][1].done() or self._deadlines[0][0] <= loop.time()):
            _, future = self._deadlines.popleft()
            if not future.done():
                future.set_exception(store_unavailable())
        self._timer = loop.call_at(self._deadlines[0][0], self._expire) if self._deadlines else None
