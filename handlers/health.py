"""How the server is doing, and where everything is. For anyone: counts and states only."""

from handlers.rest import RestHandler
from protocol.outbound import timestamp

SERVICE = "bountyexpo-realtime"


class _OpenHandler(RestHandler):
    authenticate = False
    rate_limited = False


class HealthHandler(_OpenHandler):
    """``GET /health``"""

    async def get(self) -> None:
        """200 while the database answers, else 503."""
        is_up = await self.context.status.database_latency_ms() is not None
        self.answer(
            {
                "status": "ok" if is_up else "degraded",
                "timestamp": timestamp(),
                "version": self.context.version,
                "service": SERVICE,
                "database": "connected" if is_up else "disconnected",
            },
            200 if is_up else 503,
        )


class DetailedHealthHandler(_OpenHandler):
    """``GET /health/detailed``"""

    async def get(self) -> None:
        """Each part by itself."""
        parts = await self.context.status.parts()
        is_up = parts["database"]["status"] == "up"
        summary = {"status": "ok" if is_up else "degraded", "version": self.context.version, "timestamp": timestamp()}
        self.answer(summary | parts, 200 if is_up else 503)


class EventsStatsHandler(_OpenHandler):
    """``GET /events/stats``"""

    def get(self) -> None:
        """Counts of both sockets."""
        status = self.context.status
        self.answer({"events": status.events(), "messaging": status.messaging(), **status.process()})


class MessagesStatsHandler(_OpenHandler):
    """``GET /messages/stats``"""

    def get(self) -> None:
        """Counts of messaging."""
        status = self.context.status
        self.answer({**status.messaging(), **status.process()})


class IndexHandler(_OpenHandler):
    """``GET /``"""

    def get(self) -> None:
        """Say what this is."""
        self.answer(
            {
                "service": SERVICE,
                "version": self.context.version,
                "websockets": ["/events/subscribe", "/messages/subscribe"],
                "rest": ["/api/conversations", "/api/bounties"],
                "status": ["/health", "/health/detailed", "/events/stats", "/messages/stats", "/events/subscribe-info"],
            }
        )
