"""The public event stream: reads the log in its order, tells every subscriber, and resumes those who come back.

A notification only wakes the relay; what happened is read from the log. So a lost notification, or a lost
database, delays an event and loses none.
"""

import asyncio
import contextlib

import structlog

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from connections.registry import Registry
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
        # The newest event that has been, or is being, told.
        self.position = 0
        self.healthy = False

    async def begin(self) -> None:
        """Take the log's end as the position to begin at. Raises ``AppError`` STORE_UNAVAILABLE."""
        self.position = await self._log.head()

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
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S)

    def wake(self, _payload: str | None = None) -> None:
        """There may be something new in the log."""
        self._wake.set()

    async def resume(self, connection: Connection, after: int) -> None:
        """Send what a subscriber missed since ``after``, then ``replay.complete``, then what was held back.

        The connection has to be subscribed and holding. Raises ``AppError`` STORE_UNAVAILABLE; it is then still
        holding.
        """
        # Between two passes nothing is half told: what is held back up to here is in the log, the rest comes later.
        # It also brings us up to a client that comes from a server that was ahead of this one.
        await self._relay()
        until = self.position
        if after > until:  # an id of another database
            events: list[BountyEvent] = []
            truncated = True
        else:
            events, truncated = await self._log.missed(after, until, connection.topics or set(), self._replay_max)
        for event in events:
            connection.send_now(_frame(event, replayed=True))
            if connection.lagging:
                await connection.drained()
        complete = EventReplayComplete(count=len(events), last_event_id=until, truncated=truncated)
        connection.send_now(encode(complete))
        connection.take_held({STREAM: until})
        connection.release()

    async def _relay(self) -> None:
        """Tell all that is in the log past our position. One pass at a time keeps the order."""
        async with self._pass:
            while True:
                events = await self._log.relay(self.position, _BATCH)
                for event in events:
                    self.position = event.event_id
                    subscribers = self._registry.subscribers(event.bounty_id)
                    await self._broadcaster.send_to_all(
                        _frame(event, replayed=False),
                        subscribers,
                        stream=STREAM,
                        seq=event.event_id,
                        topic=event.bounty_id,
                    )
                if len(events) < _BATCH:
                    return


def _frame(event: BountyEvent, *, replayed: bool) -> bytes:
    frame = BountyStatusEvent(
        id=event.bounty_id, status=event.status, timestamp=timestamp(event.created_at), event_id=event.event_id
    )
    if replayed:
        frame.replayed = True
    return encode(frame)
