"""How the server is doing, and where everything is. For anyone: counts and states only."""

from handlers.operation import operation
from handlers.rest import RestHandler
from protocol.answers import EventsStats, HealthParts, HealthSummary, Index, MessagesStats
from protocol.outbound import timestamp

SERVICE = "bountyexpo-realtime"


class OpenHandler(RestHandler):
    """For anyone, and never counted: machines ask often."""

    authenticate = False
    rate_limited = False


class HealthHandler(OpenHandler):
    """``GET /health``"""

    @operation(answer=HealthSummary, statuses=(200, 503))
    async def get(self) -> None:
        """200 while the database answers, else 503."""
        is_up = await self.context.status.database_latency_ms() is not None
        summary = HealthSummary(
            status="ok" if is_up else "degraded",
            timestamp=timestamp(),
            version=self.context.version,
            service=SERVICE,
            database="connected" if is_up else "disconnected",
        )
        self.answer(summary, 200 if is_up else 503)


class DetailedHealthHandler(OpenHandler):
    """``GET /health/detailed``"""

    @operation(answer=HealthParts, statuses=(200, 503))
    async def get(self) -> None:
        """Each part by itself: 200 while the database answers, else 503."""
        parts = await self.context.status.parts(self.context.version)
        self.answer(parts, 200 if parts.status == "ok" else 503)


class EventsStatsHandler(OpenHandler):
    """``GET /events/stats``"""

    @operation(answer=EventsStats)
    def get(self) -> None:
        """Counts of both sockets."""
        self.answer(self.context.status.events_stats())


class MessagesStatsHandler(OpenHandler):
    """``GET /messages/stats``"""

    @operation(answer=MessagesStats)
    def get(self) -> None:
        """Counts of messaging."""
        self.answer(self.context.status.messages_stats())


class IndexHandler(OpenHandler):
    """``GET /``"""

    @operation(answer=Index)
    def get(self) -> None:
        """Say what this is; lead a browser to the console, where there is one."""
        self.add_header("Vary", "Accept")
        if self.context.settings.console_on and "text/html" in self.request.headers.get("Accept", ""):
            self.redirect("/console")
            return
        index = Index(
            service=SERVICE,
            version=self.context.version,
            websockets=["/events/subscribe", "/messages/subscribe"],
            rest=["/api/conversations", "/api/bounties", "/api/notifications"],
            status=["/health", "/health/detailed", "/events/stats", "/messages/stats", "/events/subscribe-info"],
            documents=["/docs/openapi.json", "/docs/asyncapi.json"],
        )
        self.answer(index)
