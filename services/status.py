"""How the server is doing: counts and states only, never ids."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

from connections.registry import Registry
from connections.traffic import Traffic
from protocol.answers import (
    EventCounts,
    EventsStats,
    HealthParts,
    MessagesStats,
    MessagingCounts,
    Part,
    PushPart,
    RelayPart,
    SocketsPart,
)
from protocol.codes import AppError
from protocol.outbound import timestamp
from services.bounty_events import BountyEvents
from services.push import Push
from storage.database import Database, StoreError

# Anyone may ask how the database is; it is asked this often at most.
_ASK_EVERY_S = 0.5


class Status:
    """Health and statistics.

    :param listening: whether the LISTEN connection is up.
    :param push: the pushes' worker, if there is one.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        traffic: Traffic,
        bounty_events: BountyEvents,
        listening: Callable[[], bool],
        push: Push | None,
        *,
        deadline_s: float,
    ) -> None:
        self._database = database
        self._registry = registry
        self._traffic = traffic
        self._bounty_events = bounty_events
        self._listening = listening
        self._push = push
        self._deadline_s = deadline_s
        self._started_at = time.monotonic()
        self._asking: asyncio.Future[float | None] | None = None
        self._asked_at = 0.0

    async def database_latency_ms(self) -> float | None:
        """Return the milliseconds of one round trip to the database, or None while it is away."""
        if time.monotonic() - self._asked_at >= _ASK_EVERY_S or self._asking is None:
            self._asked_at = time.monotonic()
            self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> float | None:
        try:
            return round(await self._database.ping(deadline_s=self._deadline_s) * 1000, 2)
        except (AppError, StoreError):
            return None

    async def parts(self, version: str) -> HealthParts:
        """Return each part of the server by itself."""
        latency = await self.database_latency_ms()
        is_up = latency is not None
        relaying = self._bounty_events.healthy and self._listening()
        return HealthParts(
            status="ok" if is_up else "degraded",
            version=version,
            timestamp=timestamp(),
            database=Part(status=_state(is_up), latency_ms=latency),
            redis=Part(status="off"),
            websocket=SocketsPart(status="up", connections=len(self._registry.connections)),
            push=self._push_part(),
            event_relay=RelayPart(status=_state(relaying), last_event_id=self._bounty_events.position),
        )

    def _push_part(self) -> PushPart:
        push = self._push
        if push is None:
            return PushPart(status="off")
        return PushPart(status=_state(push.healthy), latency_ms=push.latency_ms, waiting=push.depth)

    def events_stats(self) -> EventsStats:
        """Return the counts of both sockets and of the process."""
        return EventsStats(
            events=EventCounts(
                ws_client_count=self._registry.event_clients, last_event_id=self._bounty_events.position
            ),
            messaging=MessagingCounts(**self._messaging()),
            **self._process(),
        )

    def messages_stats(self) -> MessagesStats:
        """Return the counts of messaging and of the process."""
        return MessagesStats(**self._messaging(), **self._process())

    def _messaging(self) -> dict[str, Any]:
        return {
            "total_clients": self._registry.messaging_clients,
            "total_rooms": self._registry.rooms,
            "online_users": len(self._registry.people),
        }

    def _process(self) -> dict[str, Any]:
        return {
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "frames_sent": self._traffic.sent,
            "timestamp": timestamp(),
        }


def _state(is_up: bool) -> Literal["up", "down"]:
    return "up" if is_up else "down"
