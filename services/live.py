"""What the dashboard shows as it happens: a sample of this process a second, sent to whoever looks."""

import asyncio
import collections
import time
from typing import NamedTuple

import structlog

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from connections.registry import Registry
from connections.traffic import Traffic
from measures import LATENCY_S, quantile
from protocol.answers import Part
from protocol.dashboard import DashboardHello, DashboardUpdate, Inside, Sample
from protocol.outbound import encode, timestamp
from services.analytics import Analytics
from services.loop_lag import LoopLag
from services.status import Status
from services.vitals import Totals, Vitals
from storage.database import Database
from storage.message_writer import MessageWriter

log = structlog.get_logger()

_EVERY_S = 1.0
# Seconds kept, and the seconds over which latencies are taken: one alone may have had no message.
KEPT, _WINDOW = 300, 10


class _Reading(NamedTuple):
    """The counters at one moment."""

    totals: Totals
    frames_sent: int
    commits: list[int]
    batches: list[int]
    batched: float
    errors: dict[str, int]
    closes: dict[str, int]


class Live:
    """Samples once a second, whether anybody looks or not; what costs more is done only when somebody does."""

    def __init__(
        self,
        registry: Registry,
        broadcaster: Broadcaster,
        traffic: Traffic,
        vitals: Vitals,
        analytics: Analytics,
        status: Status,
        database: Database,
        writer: MessageWriter,
        loop_lag: LoopLag,
        *,
        version: str,
        environment: str,
        instance: str,
    ) -> None:
        self._registry = registry
        self._broadcaster = broadcaster
        self._traffic = traffic
        self._vitals = vitals
        self._analytics = analytics
        self._status = status
        self._database = database
        self._writer = writer
        self._loop_lag = loop_lag
        self._about = {
            "version": version, "environment": environment, "instance": instance, "started_at": timestamp(),
        }  # fmt: skip
        self._samples: collections.deque[Sample] = collections.deque(maxlen=KEPT)
        self._readings: collections.deque[_Reading] = collections.deque([self._reading()], maxlen=KEPT + 1)
        self._parts: dict[str, Part] = {}
        self._asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Sample and send until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                due = max(due + _EVERY_S, loop.time())
                await asyncio.sleep(due - loop.time())
                self._tick()
        finally:
            if self._asking is not None:
                self._asking.cancel()

    def greet(self, connection: Connection) -> None:
        """Send a dashboard who we are and the last minutes."""
        names = zip(Sample.__struct_encode_fields__, Sample.__struct_fields__, strict=True)
        columns = {wire: [getattr(sample, name) for sample in self._samples] for wire, name in names}
        hello = DashboardHello(**self._about, timestamp=timestamp(), samples=columns)
        connection.send_now(encode(hello))

    def _tick(self) -> None:
        self._analytics.note()
        self._readings.append(self._reading())
        sample = self._sample()
        self._samples.append(sample)
        if not self._registry.dashboards:
            return
        if self._asking is None or self._asking.done():  # while the store is away an answer takes longer than a second
            self._asking = asyncio.create_task(self._ask())
        oldest, newest = self._readings[0], self._readings[-1]
        update = DashboardUpdate(
            sample=sample,
            inside=self._inside(),
            errors=_gained(newest.errors, oldest.errors),
            closes=_gained(newest.closes, oldest.closes),
        )
        self._broadcaster.send_droppable(encode(update), self._registry.dashboards)

    def _reading(self) -> _Reading:
        writer = self._writer
        return _Reading(
            totals=self._vitals.read(),
            frames_sent=self._traffic.sent,
            commits=writer.commit_seconds.counts.copy(),
            batches=writer.batch_sizes.counts.copy(),
            batched=writer.batch_sizes.sum,
            errors=dict(self._traffic.errors),
            closes=self._traffic.closes(),
        )

    def _earlier(self) -> _Reading:
        return self._readings[max(0, len(self._readings) - 1 - _WINDOW)]

    def _sample(self) -> Sample:
        newest, before = self._readings[-1], self._readings[-2]
        second = newest.totals.since(before.totals)
        latency = newest.totals.since(self._earlier().totals).latency
        p50, p95, p99 = (_milliseconds(quantile(LATENCY_S, latency, share)) for share in (0.5, 0.95, 0.99))
        registry = self._registry
        connections, messaging = len(registry.connections), registry.messaging_clients
        return Sample(
            at=int(time.time() * 1000),
            connections=connections,
            messaging_connections=messaging,
            event_connections=connections - messaging - len(registry.dashboards),
            people_online=len(registry.people),
            rooms=registry.rooms,
            messages=second.messages,
            deliveries=second.deliveries,
            frames_sent=newest.frames_sent - before.frames_sent,
            latency_p50=p50,
            latency_p95=p95,
            latency_p99=p99,
        )

    def _inside(self) -> Inside:
        newest, earlier = self._readings[-1], self._earlier()
        commits = [now - before for now, before in zip(newest.commits, earlier.commits, strict=True)]
        batches = sum(newest.batches) - sum(earlier.batches)
        waiting = [connection.waiting_bytes for connection in self._registry.connections.values()]
        return Inside(
            parts=self._parts,
            loop_lag_ms=round(self._loop_lag.latest_s * 1000, 2),
            commit_p50_ms=_milliseconds(quantile(LATENCY_S, commits, 0.5)),
            commit_p99_ms=_milliseconds(quantile(LATENCY_S, commits, 0.99)),
            batch_mean=round((newest.batched - earlier.batched) / batches, 1) if batches else None,
            writer_queue=self._writer.waiting,
            pool_size=self._database.size,
            pool_busy=self._database.busy,
            pool_waiting=self._database.waiting,
            backlog_bytes=sum(waiting),
            lagging_connections=sum(connection.lagging for connection in self._registry.connections.values()),
        )

    async def _ask(self) -> None:
        found = await self._status.parts(self._about["version"])
        parts = {
            "database": found.database, "redis": found.redis, "websocket": found.websocket, "push": found.push,
            "eventRelay": found.event_relay,
        }  # fmt: skip
        self._parts = {name: Part(status=part.status, latency_ms=part.latency_ms) for name, part in parts.items()}


def _gained(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    gained = {code: count - before.get(code, 0) for code, count in now.items()}
    return {code: count for code, count in gained.items() if count}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
