"""How the server is doing: counts and states only, never ids."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from connections.broadcaster import Broadcaster
from connections.registry import Registry
from protocol.codes import AppError
from protocol.outbound import timestamp
from services.bounty_events import BountyEvents
from storage.database import Database, StoreError

# Anyone may ask how the database is; it is asked this often at most.
_ASK_EVERY_S = 0.5


class Status:
    """Health and statistics.

    :param listening: whether the LISTEN connection is up.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        broadcaster: Broadcaster,
        bounty_events: BountyEvents,
        listening: Callable[[], bool],
        *,
        deadline_s: float,
    ) -> None:
        self._database = database
        self._registry = registry
        self._broadcaster = broadcaster
        self._bounty_events = bounty_events
        self._listening = listening
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

    async def parts(self) -> dict[str, dict[str, Any]]:
        """Return each part of the server with its ``status`` (up, down, off) and ``latencyMs``."""
        latency = await self.database_latency_ms()
        relaying = self._bounty_events.healthy and self._listening()
        return {
            "database": _part(latency is not None, latency),
            "redis": {"status": "off", "latencyMs": None},
            "websocket": _part(True, None) | {"connections": len(self._registry.connections)},
            "push": {"status": "off", "latencyMs": None},
            "eventRelay": _part(relaying, None) | {"lastEventId": self._bounty_events.position},
        }

    def events(self) -> dict[str, Any]:
        """Return the counts of the event stream."""
        return {"wsClientCount": self._registry.event_clients, "lastEventId": self._bounty_events.position}

    def messaging(self) -> dict[str, Any]:
        """Return the counts of messaging."""
        return {
            "totalClients": self._registry.messaging_clients,
            "totalRooms": self._registry.rooms,
            "onlineUsers": len(self._registry.people),
        }

    def process(self) -> dict[str, Any]:
        """Return the counts of the process."""
        return {
            "uptimeS": round(time.monotonic() - self._started_at, 1),
            "framesSent": self._broadcaster.sent,
            "timestamp": timestamp(),
        }


def _part(is_up: bool, latency_ms: float | None) -> dict[str, Any]:
    return {"status": "up" if is_up else "down", "latencyMs": latency_ms}
