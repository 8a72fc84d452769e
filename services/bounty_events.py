"""The public event stream: reads the log in its order, tells every subscriber, and resumes those who come back.

A notification only wakes the relay; what happened is read from the log. So a lost notification, or a lost
database, delays an event and loses none.
"""

import asyncio
import collections
import contextlib
from datetime import UTC, datetime

import structlog

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from connections.registry import Registry
from measures import LATENCY_S, SIZES, Histogram
from protocol.codes import AppError
from protocol.outbound import BountyStatusEvent, EventReplayComplete, encode, timestamp
from storage.bounties import BountyEvent, BountyLog

log = structlog.get_logger()

# The stream's name where a connection holds frames back by stream and place.
STREAM = "events"

_BATCH = 500
# Looks without being woken: the bound on an event's delay when its notification is lost.
_POLL_S = 2.0
_RETRY_S = 0.25


class BountyEvents:
    """The relay.

    :param replay_max: most events sent again to one who resumes.
    """

    def __init__(self, bounty_log: BountyLog, registry: Registry, broadcaster: Broadcaster, *, replay_max: int) -> None:
        self._log = bounty_log
        self._registry = registry
        self._broadcaster = broadcaster
        self._replay_max = replay_max
        self._wake = asyncio.Event()
        self._pass = asyncio.Lock()
        # The newest events: after a restart, everybody resumes at once.
        self._recent: collections.deque[BountyEvent] = collections.deque(maxlen=replay_max)
        # The newest event that has been, or is being, told.
        self.position = 0
        self.healthy = False
        # From an event's commit, by the database's clock, to its having been told.
        self.lag_seconds = Histogram(LATENCY_S)
        self.replay_sizes = Histogram(SIZES)
        self.relayed = 0

    async def begin(self) -> None:
        """Take the log's end as the position to begin at. Raises ``AppError`` STORE_UNAVAILABLE."""
        self.position = await self._log.head()
        recent, _ = await self._log.missed(0, self.position, set(), self._replay_max)
        self._recent.extend(recent)

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._relay()
                self.healthy = True
            except AppError:
                self.healthy = False
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:
                self.healthy = False
                log.exception("events.relay_failed")
                await asyncio.sleep(_RETRY_S)
                continue
            # Not `wait_for`: woken and cancelled at once, it forgets the cancelling (until Python 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()

    def wake(self, _payload: str | None = None) -> None:
        """There may be something new in the log."""
        self._wake.set()

    async def resume(self, connection: Connection, topics: set[str] | None, after: int) -> None:
        """Subscribe a connection to ``topics`` (None: all), after sending it what it missed since ``after``.

        ``replay.complete`` stands between what was missed and what is live. Raises ``AppError`` STORE_UNAVAILABLE; it
        may then be holding.
        """
        if after > self.position:  # it comes from a server that was ahead of this one
            await self._relay()
        if connection.closing:  # the registry has forgotten it already
            return
        # One moment, with nothing between: up to this position it gets the log, past it the stream, also where the
        # event at the position is being told right now.
        until = self.position
        connection.hold()
        self._registry.subscribe(connection, topics)
        events, truncated = await self._missed(after, until, topics or set())
        for event in events:
            connection.send_now(_frame(event, replayed=True))
            if connection.lagging:
                await connection.drained()
        self.replay_sizes.observe(len(events))
        complete = EventReplayComplete(count=len(events), last_event_id=until, truncated=truncated)
        connection.send_now(encode(complete))
        connection.release()

    async def _missed(self, after: int, until: int, topics: set[str]) -> tuple[list[BountyEvent], bool]:
        if after > until:  # an id of another database
            return [], True
        recent = [event for event in self._recent if event.event_id > after]
        if len(recent) == until - after:  # all that was missed, and nobody had to ask the database
            return [event for event in recent if not topics or event.bounty_id in topics], False
        return await self._log.missed(after, until, topics, self._replay_max)

    async def _relay(self) -> None:
        """Tell all that is in the log past our position. One pass at a time keeps the order."""
        async with self._pass:
            while True:
                events = await self._log.relay(self.position, _BATCH)
                for event in events:
                    self.position = event.event_id
                    self._recent.append(event)
                    subscribers = self._registry.subscribers(event.bounty_id)
                    await self._broadcaster.send_to_all(
                        _frame(event, replayed=False),
                        subscribers,
                        stream=STREAM,
                        seq=event.event_id,
                        topic=event.bounty_id,
                    )
                    self.relayed += 1
                    self.lag_seconds.observe(max(0.0, (datetime.now(UTC) - event.created_at).total_seconds()))
                if len(events) < _BATCH:
                    return


def _frame(event: BountyEvent, *, replayed: bool) -> bytes:
    frame = BountyStatusEvent(
        id=event.bounty_id, status=event.status, timestamp=timestamp(event.created_at), event_id=event.event_id
    )
    if replayed:
        frame.replayed = True
    return encode(frame)
