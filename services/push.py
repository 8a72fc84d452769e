"""Pushes to people who are away: a worker that takes what the outbox owes through the rules to Expo.

Any number of servers may run it on one database. What one holds is bounded by the requests that Expo is sent at a
time, so a slow Expo costs no memory; what waits, waits in the database.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import Struct

from connections.registry import Registry
from protocol.codes import AppError
from services import push_rules
from services.expo import (
    DEVICE_NOT_REGISTERED,
    MAX_MESSAGES,
    MAX_RECEIPTS,
    Expo,
    Message,
    Outcome,
    Refused,
    Unavailable,
)
from services.push_rules import Drop, Rules, Send, Wait
from storage.push import LEASE_S, Due, Pushes

log = structlog.get_logger()

_LOOK_S = 1.0
# Says that it lives this often, if nobody comes or goes; a third of the lease.
_ALIVE_S = LEASE_S / 3
_RETRY_S = 0.5
# Passes over outbox and queue a look: the rest waits for the next, so that presence stays fresh.
_PASSES = 50
# Rows of the outbox a statement. One is as many devices as a conversation may have: five thousand take a tenth of a
# second, and two hundred times that more than a statement may.
_OUTBOX_ROWS = 200
# Receipts, and the queue's depth, are looked after this often.
_RECEIPTS_LOOK_S = 5.0
# Expo keeps receipts for a day.
_RECEIPT_KEPT_S = 24 * 3600.0
# What is under way when the server stops gets this long; what is not answered by then is sent again by another.
_STOP_S = 3.0


class _Push(Struct):
    """One message to Expo and the rows that it is for."""

    ids: list[int]
    claimed_at: float
    badge: int
    message: Message


class Push:
    """The worker.

    :param coalesce_s: seconds in which the messages of one sender in one conversation become one push.
    :param receipts_after_s: seconds from a ticket to asking for its receipt.
    """

    def __init__(
        self,
        pushes: Pushes,
        expo: Expo,
        registry: Registry,
        rules: Rules,
        *,
        coalesce_s: float,
        receipts_after_s: float,
    ) -> None:
        self._pushes = pushes
        self._expo = expo
        self._registry = registry
        self._rules = rules
        self._coalesce_s = coalesce_s
        self._receipts_after_s = receipts_after_s
        self._look_s = max(0.05, min(_LOOK_S, coalesce_s / 5))
        # Who others were told is connected here.
        self._present: set[str] = set()
        self._alive_at = -_ALIVE_S
        self._outbox_rows = _OUTBOX_ROWS
        self._in_hand: set[int] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._receiving: asyncio.Task[None] | None = None
        self._receipts_at = 0.0
        # Since when the database has answered without a break: before that, others may seem dead who are not.
        self._steady_since = time.monotonic()
        # Counted since the start.
        self.sent = 0
        self.failed: collections.Counter[str] = collections.Counter()
        self.dropped: collections.Counter[str] = collections.Counter()
        self.tokens_removed = 0
        # Rows on their way, as of the last look.
        self.depth = 0

    @property
    def healthy(self) -> bool:
        """Whether Expo answers, as far as is known."""
        return self._expo.healthy

    @property
    def latency_ms(self) -> float | None:
        """How long Expo's last answer took."""
        return self._expo.latency_ms

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self._look()
            except AppError:  # the database is away
                self._steady_since = time.monotonic()
            await asyncio.sleep(self._look_s)

    async def stop(self) -> None:
        """Wait a moment for what is under way, then let go. ``run`` has to be cancelled by then."""
        working = {*self._sending, *([self._receiving] if self._receiving else [])}
        if working:
            await asyncio.wait(working, timeout=_STOP_S)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        self._expo.close()
        if self._present:
            with contextlib.suppress(AppError):
                await self._pushes.disappear(deadline_s=_STOP_S)

    async def _look(self) -> None:
        await self._appear()
        for _ in range(_PASSES):
            if not await self._resolve():
                break
        for _ in range(_PASSES):
            if not await self._take():
                break
        now = time.monotonic()
        if now >= self._receipts_at and self._receiving is None:
            self._receipts_at = now + min(_RECEIPTS_LOOK_S, self._receipts_after_s)
            self.depth = await self._pushes.depth()
            if self._expo.room:
                self._receiving = _begin(self._receive(), self._received)

    async def _resolve(self) -> bool:
        """Take some of the outbox further; fewer the next time, where so many devices took more than their time."""
        try:
            is_more = await self._pushes.resolve(self._outbox_rows, coalesce_s=self._coalesce_s)
        except AppError:
            self._outbox_rows = max(1, self._outbox_rows // 2)
            raise
        self._outbox_rows = min(_OUTBOX_ROWS, self._outbox_rows * 2)
        return is_more

    async def _appear(self) -> None:
        """Tell the other servers who is connected here."""
        people = set(self._registry.people)
        came, went = people - self._present, self._present - people
        now = time.monotonic()
        if not came and not went and now - self._alive_at < _ALIVE_S:
            return
        was_unknown, self._expo.servers = await self._pushes.appear(came, went)
        # Others forgot this server, and its people with it: they are told all of them the next time.
        self._present = set() if was_unknown and self._present else people
        self._alive_at = now

    async def _take(self) -> bool:
        """Claim and send as much as Expo takes now; return whether there may be more."""
        limit = (self._expo.room - len(self._sending)) * MAX_MESSAGES
        if limit <= 0:
            return False
        is_steady = time.monotonic() - self._steady_since > LEASE_S
        dues = await self._pushes.claim(limit, self._in_hand, from_the_dead=is_steady)
        ids = {due.id for due in dues}
        self._in_hand |= ids
        handed_on: set[int] = set()
        try:
            pushes = await self._settle(dues)
            for start in range(0, len(pushes), MAX_MESSAGES):
                chunk = pushes[start : start + MAX_MESSAGES]
                handed_on |= _ids(chunk)
                self._sending.add(_begin(self._send(chunk), self._sending.discard))
        finally:
            self._in_hand -= ids - handed_on  # claimed all the same, and so claimed again
        return len(dues) == limit

    async def _settle(self, dues: list[Due]) -> list[_Push]:
        """Judge what was claimed: forget and put off, and return what is to be sent."""
        now = datetime.now(UTC)
        groups: dict[tuple[str | None, ...], list[Due]] = {}
        drops, waits = [], []
        for due in dues:
            verdict = self._judge(due, now)
            if isinstance(verdict, Drop):
                drops.append((due.id, verdict.reason))
            elif isinstance(verdict, Wait):
                waits.append((due.id, verdict.time))
            else:
                groups.setdefault(push_rules.key(due), []).append(due)
        if drops:
            await self._pushes.drop([row for row, _ in drops])
            self.dropped.update(reason for _, reason in drops)
        if waits:
            await self._pushes.release(waits)
        badges = await self._pushes.show({group[0].token for group in groups.values()}) if groups else {}
        return [
            _Push([due.id for due in group], group[0].claimed_at, badge, push_rules.compose(group, self._rules, badge))
            for group in groups.values()
            if (badge := badges.get(group[0].token)) is not None  # else it is gone, and the next claim will say so
        ]

    def _judge(self, due: Due, now: datetime) -> Drop | Wait | Send:
        try:
            return push_rules.verdict(due, self._rules, now)
        except Exception:  # a fault of ours, and it would keep back all that were claimed with it, again and again
            log.exception("push.not_judged", row=due.id)
            return Drop("withdrawn")

    async def _send(self, pushes: list[_Push]) -> None:
        try:
            outcomes = await self._expo.send([push.message for push in pushes])
        except Unavailable:
            wait = self._expo.wait
            await self._surely(lambda: self._pushes.release([(row, wait) for row in _ids(pushes)]))
        except Refused as refusal:
            await self._refused(pushes, refusal.code)
        else:
            await self._answered(pushes, outcomes)
        finally:
            self._in_hand -= _ids(pushes)

    async def _refused(self, pushes: list[_Push], code: str) -> None:
        """Find the message that Expo does not take, and let the others through."""
        if len(pushes) > 1:
            middle = len(pushes) // 2
            await self._send(pushes[:middle])
            await self._send(pushes[middle:])
            return
        self._count_failure(code)
        await self._surely(lambda: self._pushes.drop(pushes[0].ids))

    async def _answered(self, pushes: list[_Push], outcomes: Sequence[Outcome]) -> None:
        tickets: list[tuple[str | None, str, int]] = []
        gone: list[tuple[str, float]] = []
        for push, outcome in zip(pushes, outcomes, strict=True):
            token, error = push.message.to, outcome.error
            tickets.append((outcome.ticket, token, push.badge))
            if error is None:
                self.sent += 1
            else:
                self._count_failure(error)
            if error == DEVICE_NOT_REGISTERED:
                gone.append((token, push.claimed_at))
        await self._surely(lambda: self._pushes.record(_ids(pushes), tickets, receipts_after_s=self._receipts_after_s))
        await self._forget(gone)

    async def _receive(self) -> None:
        """Ask what became of what Expo accepted a while ago."""
        tickets = await self._pushes.due_tickets(MAX_RECEIPTS, again_after_s=self._receipts_after_s)
        if not tickets:
            return
        try:
            receipts = await self._expo.receipts([ticket.id for ticket in tickets])
        except Unavailable:
            return
        except Refused as refusal:  # of one of them, and there is no telling which: those of a day ago go all the same
            self._count_failure(refusal.code)
            receipts = {}
        done: list[str] = []
        gone: list[tuple[str, float]] = []
        for ticket in tickets:
            receipt = receipts.get(ticket.id)
            if receipt is not None and receipt.error is not None:
                self._count_failure(receipt.error)
                if receipt.error == DEVICE_NOT_REGISTERED:
                    gone.append((ticket.token, ticket.created_at))
            if receipt is not None or ticket.age_s > _RECEIPT_KEPT_S:
                done.append(ticket.id)
        await self._forget(gone)
        await self._pushes.forget_tickets(done)
        if len(tickets) == MAX_RECEIPTS:
            self._receipts_at = 0.0

    def _received(self, _task: "asyncio.Task[None]") -> None:
        self._receiving = None

    async def _forget(self, gone: list[tuple[str, float]]) -> None:
        if gone:
            self.tokens_removed += await self._surely(lambda: self._pushes.forget_tokens(gone))

    def _count_failure(self, error: str) -> None:
        self.failed[error] += 1
        log.warning("push.refused", error=error)

    async def _surely(self, write: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Write what Expo's answer means, however long the database is away: the answer is not had twice."""
        while True:
            try:
                return await write()
            except AppError:
                await asyncio.sleep(_RETRY_S)


def _begin(work: Coroutine[Any, Any, None], ended: "Callable[[asyncio.Task[None]], None]") -> "asyncio.Task[None]":
    task = asyncio.create_task(work)
    task.add_done_callback(ended)
    task.add_done_callback(_report)
    return task


def _ids(pushes: list[_Push]) -> set[int]:
    return {row for push in pushes for row in push.ids}


def _report(task: "asyncio.Task[None]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, AppError):
        log.error("push.failed", exc_info=error)
