"""The composition root: builds every object once and hands each what it needs. Also the route table."""

import asyncio
import ipaddress
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

import structlog
from tornado import httpserver, netutil, web
from tornado.iostream import IOStream

from connections.broadcaster import Broadcaster
from connections.heartbeat import Heartbeat
from connections.limits import ConnectionLimits, RateLimiter
from connections.registry import Registry
from documents.routes import Route
from documents.store import Documents
from handlers.bounties import BountiesHandler, BountyHandler, BountyStatusHandler
from handlers.console import ConsoleSchemaHandler, ConsoleTokenHandler
from handlers.context import Context
from handlers.conversations import (
    ConversationHandler,
    ConversationsHandler,
    MessagesHandler,
    MessageStatusHandler,
    TypingHandler,
)
from handlers.documents import AsyncApiHandler, OpenApiHandler
from handlers.events import EventsHandler, SubscribeInfoHandler
from handlers.health import (
    DetailedHealthHandler,
    EventsStatsHandler,
    HealthHandler,
    IndexHandler,
    MessagesStatsHandler,
)
from handlers.messages import MessagesHandler as MessagesSocketHandler
from handlers.pages import NO_MARKUP_FROM_TEXT, STATIC, FileHandler
from handlers.rest import NotFoundHandler
from services.auth import Authenticator
from services.bounty_events import BountyEvents
from services.conversations import Conversations
from services.development import DevelopmentTokens
from services.drain import drain
from services.expiry import TokenExpiry
from services.messaging import Messaging
from services.presence import Presence
from services.receipts import Receipts
from services.replay import Replay
from services.status import Status
from services.typing import TypingIndicator
from settings import Settings
from storage import bounties, conversations, messages, profiles, receipts
from storage.database import Database
from storage.listener import Listener
from storage.message_writer import MessageWriter

log = structlog.get_logger()

VERSION = "1.0.0"

# A body above MAX_BODY_BYTES is read to its end and answered with 413; above this the connection is ended.
_MAX_DRAINED_BYTES = 16 * 1024 * 1024
# File descriptors kept for the database, the listening socket, logs and libraries. Past them `accept` would fail,
# again and again, as fast as the loop turns.
_SPARE_DESCRIPTORS = 64
_BACKLOG = 4096
# What one connection may send ahead of our reading: several frames or a piece of a body.
_MAX_READ_BUFFER_BYTES = 1024 * 1024
# Health is asked by machines that don't wait long.
_HEALTH_DEADLINE_S = 2.0

_ID = r"([^/]+)"
_FILE = r"([\w.-]+)"

# Every address that is answered. The documents are made from it.
ROUTES = [
    Route(r"/events/subscribe", EventsHandler),
    Route(r"/messages/subscribe", MessagesSocketHandler),
    Route(r"/api/conversations", ConversationsHandler),
    Route(rf"/api/conversations/{_ID}", ConversationHandler),
    Route(rf"/api/conversations/{_ID}/messages", MessagesHandler),
    Route(rf"/api/conversations/{_ID}/messages/status", MessageStatusHandler),
    Route(rf"/api/conversations/{_ID}/typing", TypingHandler),
    Route(r"/api/bounties", BountiesHandler),
    Route(rf"/api/bounties/{_ID}", BountyHandler),
    Route(rf"/api/bounties/{_ID}/status", BountyStatusHandler),
    Route(r"/health", HealthHandler),
    Route(r"/health/detailed", DetailedHealthHandler),
    Route(r"/events/stats", EventsStatsHandler),
    Route(r"/messages/stats", MessagesStatsHandler),
    Route(r"/events/subscribe-info", SubscribeInfoHandler),
    Route(r"/", IndexHandler),
    Route(r"/docs/openapi\.json", OpenApiHandler),
    Route(r"/docs/asyncapi\.json", AsyncApiHandler),
    # The files at the top of static/ are for every client; a folder belongs to the page that it is of.
    Route(rf"/static/{_FILE}", FileHandler, {"root": STATIC}),
]

# Only where the console is on: a tool of development, and so no part of the documents.
_CONSOLE: dict[str, Any] = {"root": STATIC / "console", "more_policy": NO_MARKUP_FROM_TEXT}
CONSOLE_ROUTES = [
    Route(r"/console/schema\.json", ConsoleSchemaHandler),
    Route(r"/console/token", ConsoleTokenHandler),
    Route(r"/console/?", FileHandler, _CONSOLE | {"root": STATIC / "console" / "index.html"}),
    Route(rf"/console/{_FILE}", FileHandler, _CONSOLE),
]


class App:
    """A whole server, not yet listening. To be built inside the event loop that it will run in.

    Several may live in one process.
    """

    def __init__(self, settings: Settings, dsn: str) -> None:
        self.settings = settings
        deadline_s = settings.request_timeout_s
        self.database = Database(dsn, size=settings.database_pool_size, deadline_s=deadline_s)
        self.registry = Registry()
        broadcaster = Broadcaster()
        self.writer = MessageWriter(self.database, deadline_s=deadline_s)
        stored_conversations = conversations.Conversations(self.database, deadline_s=deadline_s)
        stored_messages = messages.Messages(
            self.database,
            max_per_conversation=settings.replay_max_per_conversation,
            max_in_all=settings.replay_max,
            deadline_s=deadline_s,
        )
        typing_rate = RateLimiter(settings.typing_rate, settings.typing_burst)
        message_rate = RateLimiter(settings.message_rate, settings.message_burst)
        typing = TypingIndicator(self.registry, broadcaster, typing_rate, ttl_s=settings.typing_ttl_s)
        self.presence = Presence(self.registry, broadcaster, grace_s=settings.presence_grace_s)
        self.conversations = Conversations(stored_conversations, self.registry, broadcaster, self.presence, typing)
        self.bounty_events = BountyEvents(
            bounties.BountyLog(self.database), self.registry, broadcaster, replay_max=settings.event_replay_max
        )
        self.listener = Listener(
            dsn,
            {
                "realtime_bounty_events": self.bounty_events.wake,
                "realtime_participants": self.conversations.changed,
            },
            deadline_s=deadline_s,
        )
        self.heartbeat = Heartbeat(
            self.registry, interval_s=settings.heartbeat_interval_s, timeout_s=settings.heartbeat_timeout_s
        )
        self.context = Context(
            settings=settings,
            version=VERSION,
            proxies=[ipaddress.ip_network(network, strict=False) for network in settings.trusted_proxies],
            authenticator=Authenticator(
                secret=settings.supabase_jwt_secret, jwks_url=settings.jwks_url, issuer=settings.issuer
            ),
            development_tokens=DevelopmentTokens(
                secret=None if settings.production else settings.supabase_jwt_secret, issuer=settings.issuer
            ),
            registry=self.registry,
            limits=ConnectionLimits(
                self.registry,
                in_all=settings.max_connections,
                per_user=settings.max_connections_per_user,
                per_address=settings.max_connections_per_ip,
            ),
            connect_rate=RateLimiter(settings.connect_rate_per_10s / 10, max(1, settings.connect_rate_per_10s)),
            frame_rate=RateLimiter(settings.frame_rate, settings.frame_burst),
            rest_rate=RateLimiter(settings.rest_rate_per_minute / 60, max(1, settings.rest_rate_per_minute)),
            messaging=Messaging(
                self.writer, self.registry, broadcaster, typing, message_rate, max_text_chars=settings.max_text_chars
            ),
            receipts=Receipts(receipts.Receipts(self.database, deadline_s=deadline_s), self.registry, broadcaster),
            typing=typing,
            presence=self.presence,
            conversations=self.conversations,
            replay=Replay(stored_messages, self.writer),
            bounty_events=self.bounty_events,
            status=Status(
                self.database,
                self.registry,
                broadcaster,
                self.bounty_events,
                lambda: self.listener.connected,
                deadline_s=_HEALTH_DEADLINE_S,
            ),
            stored_bounties=bounties.Bounties(self.database),
            stored_conversations=stored_conversations,
            stored_messages=stored_messages,
            profiles=profiles.Profiles(self.database, deadline_s=deadline_s),
            document=Documents(ROUTES, VERSION).read,
        )
        self.http = httpserver.HTTPServer(
            self._web_application(),
            max_header_size=settings.max_header_bytes,
            max_body_size=max(_MAX_DRAINED_BYTES, settings.max_body_bytes),
            body_timeout=settings.request_timeout_s,
            idle_connection_timeout=settings.request_timeout_s,
        )
        self.expiry = TokenExpiry(self.registry)
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []
        self._unlisten: list[Callable[[], None]] = []
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._last_descriptor = sys.maxsize if soft == resource.RLIM_INFINITY else soft - _SPARE_DESCRIPTORS

    async def start(self) -> None:
        """Connect to the database, which has to be there, and begin the work in the background."""
        await self.database.connect()
        await self.bounty_events.begin()
        for forever in (self.bounty_events, self.listener, self.heartbeat, self.expiry):
            self._tasks.append(asyncio.create_task(forever.run()))

    def listen(self) -> int:
        """Accept connections; return the port. Raises ``OSError`` when the address can't be had."""
        self._sockets = netutil.bind_sockets(self.settings.port, self.settings.host, backlog=_BACKLOG)
        self._unlisten = [netutil.add_accept_handler(listening, self._accept) for listening in self._sockets]
        return int(self._sockets[0].getsockname()[1])

    def _accept(self, connection: socket.socket, address: Any) -> None:
        """Take a TCP connection in. Descriptors are given lowest first, so a high one tells that few are left."""
        if connection.fileno() >= self._last_descriptor:
            connection.close()
            return
        self.http.handle_stream(IOStream(connection, max_buffer_size=_MAX_READ_BUFFER_BYTES), address)

    def _stop_accepting(self) -> None:
        for unlisten in self._unlisten:
            unlisten()
        for listening in self._sockets:
            listening.close()
        self._unlisten, self._sockets = [], []

    async def drain(self) -> None:
        """Stop accepting and send everybody away, within DRAIN_TIMEOUT_S; ``stop`` does the rest."""
        self._stop_accepting()
        try:
            await asyncio.wait_for(drain(self.registry), self.settings.drain_timeout_s)
        except TimeoutError:
            log.warning("server.drain_timeout", connections=len(self.registry.connections))

    async def stop(self) -> None:
        """Stop accepting, cut every connection that is left, close the store."""
        self._stop_accepting()
        for connection in list(self.registry.connections.values()):
            connection.end()
        await self.http.close_all_connections()
        self.presence.stop()
        await self.conversations.stop()
        await self.writer.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.database.close()

    def _web_application(self) -> web.Application:
        given: dict[str, Any] = {"context": self.context}
        routes = ROUTES + CONSOLE_ROUTES if self.settings.console_on else ROUTES
        return web.Application(
            [(route.pattern, route.handler, given | route.given) for route in routes],
            default_handler_class=NotFoundHandler,
            default_handler_args=given,
            # Tornado's own access log holds the whole address, and so the token in the query.
            log_function=lambda _handler: None,
        )


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return how many connections that is enough for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else max(1, hard - 2 * _SPARE_DESCRIPTORS)
