"""The history: what this process did in each minute, written once the minute is over, and read back for the dashboard.

Several processes may share the database: each writes rows of its own, reading adds them up. What is not written yet
(the running minute, or more while the store is away) is lost with a ``kill -9``, and nothing else.
"""

import asyncio
import collections
import hashlib
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from connections.registry import Registry
from measures import quantile
from protocol.codes import AppError
from protocol.dashboard import History, HistoryPoint
from protocol.outbound import timestamp
from services.vitals import Totals, Vitals
from storage import analytics
from storage.analytics import PEOPLE_BITS, WAITS_S, Minute, Step, Waits
from storage.database import StoreError

log = structlog.get_logger()

_MINUTE_S = 60
# {span: (steps, seconds a step)}
SPANS = {"hour": (60, 60), "day": (24, 3600), "month": (30, 86_400)}
# Four whole weeks: each weekday counts as often as the others.
_BUSIEST_OVER = timedelta(weeks=4)
# Kept while the store is away: a day.
_MAX_PENDING = 1440
# People looked at before the loop gets its turn.
_PEOPLE_A_TURN = 500
# A stopping server does not wait long for its last row.
_STOP_S = 2.0
# Several people may look at once; the rows change once a minute.
_FRESH_S = 5.0


class Analytics:
    """The history.

    :param instance: this process's own id.
    :param retention_days: how long history is kept.
    """

    def __init__(
        self, store: analytics.Analytics, vitals: Vitals, registry: Registry, *, instance: str, retention_days: int
    ) -> None:
        self._store = store
        self._vitals = vitals
        self._registry = registry
        self._instance = instance
        self._retention = timedelta(days=retention_days)
        self._before = vitals.read()
        self._minute = _floor(datetime.now(UTC), _MINUTE_S)
        self._peak_connections = self._peak_people = 0
        self._pending: collections.deque[Minute] = collections.deque(maxlen=_MAX_PENDING)
        # By hour: who was there, and has not been told to the store yet.
        self._people: dict[datetime, bytearray] = {}
        self._seen_hour: datetime | None = None
        self._read: dict[str, tuple[float, History]] = {}

    async def run(self) -> None:
        """Write once a minute until cancelled."""
        while True:
            await asyncio.sleep(_MINUTE_S - time.time() % _MINUTE_S)
            try:
                await self.turn(datetime.now(UTC))
            except AppError:
                log.warning("analytics.not_written", minutes=len(self._pending))

    def note(self) -> None:
        """Look at how many there are; a minute remembers the most. Called once a second."""
        self._peak_connections = max(self._peak_connections, len(self._registry.connections))
        self._peak_people = max(self._peak_people, len(self._registry.people))

    def arrived(self, user_id: str) -> None:
        """Somebody has come; whoever stays is noted again in every hour."""
        self._see(_floor(datetime.now(UTC), 3600), user_id)

    async def turn(self, now: datetime) -> None:
        """Close the minute, if it is over, and write what is not written. Raises ``AppError`` STORE_UNAVAILABLE."""
        minute = _floor(now, _MINUTE_S)
        if minute == self._minute:  # woken a moment too early
            return
        self._close(minute)
        hour = _floor(now, 3600)
        is_new_hour, self._seen_hour = hour != self._seen_hour, hour
        if is_new_hour:
            await self._see_everybody(hour)
        await self._write()
        if is_new_hour:
            await self._store.forget(now - self._retention)

    async def stop(self) -> None:
        """Write what there is of the running minute."""
        self._close(self._minute)
        try:
            await self._write(deadline_s=_STOP_S)
        except (AppError, StoreError):
            log.warning("analytics.not_written", minutes=len(self._pending))

    async def history(self, span: str) -> History:
        """Return one of SPANS up to now, or a moment ago. Raises ``AppError`` STORE_UNAVAILABLE."""
        read_at, history = self._read.get(span, (0.0, None))
        if history is None or time.monotonic() - read_at >= _FRESH_S:
            history = await self.load(span, datetime.now(UTC))
            self._read[span] = time.monotonic(), history
        return history

    async def load(self, span: str, now: datetime) -> History:
        """Return one of SPANS up to ``now``, as the store has it. Raises ``AppError`` STORE_UNAVAILABLE."""
        count, step_s = SPANS[span]
        until = _floor(now, step_s) + timedelta(seconds=step_s)
        since = until - timedelta(seconds=count * step_s)
        # One after another: the pool is there for messages.
        steps = await self._store.steps(since, until, step_s)
        waits = await self._store.waits(since, until, step_s)
        people = await self._store.people(_floor(since, 3600), until, max(step_s, 3600))
        busiest = await self._store.busiest(_floor(now, 3600) - _BUSIEST_OVER, now)
        found = {step.at: step for step in steps}
        places = [since + timedelta(seconds=place * step_s) for place in range(count)]
        points = [
            _point(found.get(at) or _nothing(at), waits.get(at), people.get(at, 0) if step_s >= 3600 else None)
            for at in places
        ]
        table = [[0] * 24 for _ in range(7)]
        for weekday, hour, messages in busiest:
            table[weekday][hour] = messages
        total = _point(_sum(since, steps), _sum_waits(waits.values()), people[None])
        return History(span=span, step_s=step_s, total=total, points=points, busiest=table)

    def _close(self, next_minute: datetime) -> None:
        self.note()
        now = self._vitals.read()
        gained, self._before = now.since(self._before), now
        minute, self._minute = self._minute, next_minute
        connections, people = self._peak_connections, self._peak_people
        self._peak_connections = self._peak_people = 0
        if connections or not gained.idle:
            self._pending.append(_row(minute, gained, connections, people))

    async def _write(self, *, deadline_s: float | None = None) -> None:
        minutes = list(self._pending)
        if minutes:
            await self._store.write(self._instance, minutes, deadline_s=deadline_s)
            for _ in minutes:
                self._pending.popleft()
        for hour in list(self._people):
            people = self._people.pop(hour)
            try:
                await self._store.add_people(hour, bytes(people), deadline_s=deadline_s)
            except AppError:
                later = self._people.setdefault(hour, bytearray(len(people)))
                later[:] = (one | other for one, other in zip(later, people, strict=True))
                raise

    async def _see_everybody(self, hour: datetime) -> None:
        user_ids = list(self._registry.people)
        for start in range(0, len(user_ids), _PEOPLE_A_TURN):
            for user_id in user_ids[start : start + _PEOPLE_A_TURN]:
                self._see(hour, user_id)
            await asyncio.sleep(0)

    def _see(self, hour: datetime, user_id: str) -> None:
        people = self._people.get(hour)
        if people is None:
            people = self._people[hour] = bytearray(PEOPLE_BITS // 8)
        place = place_of(user_id)
        people[place >> 3] |= 1 << (place & 7)


def place_of(user_id: str) -> int:
    """Return a person's bit: the same in every process and for ever, which `hash` is not."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest()) % PEOPLE_BITS


def _floor(moment: datetime, step_s: int) -> datetime:
    """Return the beginning of the step that ``moment`` is in; hours and days are UTC's."""
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step_s, UTC)


def _row(minute: datetime, gained: Totals, connections: int, people: int) -> Minute:
    return Minute(
        minute=minute,
        messages=gained.messages,
        recipients=gained.recipients,
        delivered=gained.delivered,
        read=gained.read,
        delivered_after=gained.delivered_after,
        read_after=gained.read_after,
        conversations=gained.conversations,
        connects=gained.connects,
        disconnects=gained.disconnects,
        errors=gained.errors,
        peak_connections=connections,
        peak_people=people,
    )


_SUMMED = ("messages", "recipients", "delivered", "read", "conversations", "connects", "disconnects", "errors")
_PEAKS = ("peak_connections", "peak_people")


def _nothing(at: datetime) -> Step:
    return Step(at=at, **dict.fromkeys((*_SUMMED, *_PEAKS), 0))


def _sum(at: datetime, steps: Sequence[Step]) -> Step:
    sums = {name: sum(getattr(step, name) for step in steps) for name in _SUMMED}
    peaks = {name: max((getattr(step, name) for step in steps), default=0) for name in _PEAKS}
    return Step(at=at, **sums, **peaks)


def _sum_waits(waits: Collection[Waits]) -> Waits:
    delivered, read = zip(*waits, strict=True) if waits else ((), ())
    return [sum(counts) for counts in zip(*delivered, strict=True)], [sum(counts) for counts in zip(*read, strict=True)]


def _point(step: Step, waits: Waits | None, active_people: int | None) -> HistoryPoint:
    delivered_after, read_after = waits or ([], [])
    return HistoryPoint(
        at=timestamp(step.at),
        messages=step.messages,
        active_people=active_people,
        new_conversations=step.conversations,
        delivery_rate=_share(step.delivered, step.recipients),
        read_rate=_share(step.read, step.recipients),
        delivered_after_s=quantile(WAITS_S, delivered_after, 0.5),
        read_after_s=quantile(WAITS_S, read_after, 0.5),
        connects=step.connects,
        disconnects=step.disconnects,
        errors=step.errors,
        peak_connections=step.peak_connections,
        peak_people=step.peak_people,
    )


def _share(part: int, whole: int) -> float | None:
    """Return the share; what arrives late counts in the step in which it does, so there may be more than was sent."""
    return min(1.0, part / whole) if whole else None
