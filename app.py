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
from handlers.context import Context
from handlers.conversations import (
    ConversationHandler,
    ConversationsHandler,
    MessagesHandler,
    MessageStatusHandler,
    TypingHandler,
)
from handlers.devices import PushTokensHandler
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
from handlers.notifications import NotificationsHandler, NotificationsReadHandler, PreferencesHandler
from handlers.rest import NotFoundHandler
from protocol.outbound import new_id
from services.auth import Authenticator
from services.bounty_events import BountyEvents
from services.conversations import Conversations
from services.drain import drain
from services.expiry import TokenExpiry
from services.expo import Expo
from services.messaging import Messaging
from services.notifications import Notifications
from services.presence import Presence
from services.push import Push
from services.push_rules import Rules
from services.receipts import Receipts
from services.replay import Replay
from services.status import Status
from services.typing import TypingIndicator
from settings import Settings
from storage import bounties, conversations, messages, notifications, profiles, receipts
from storage.database import Database
from storage.devices import Devices
from storage.listener import Listener
from storage.message_writer import MessageWriter
from storage.push import Pushes

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
    Route(r"/api/notifications", NotificationsHandler),
    Route(r"/api/notifications/read", NotificationsReadHandler),
    Route(r"/api/notification-preferences", PreferencesHandler),
    Route(r"/api/push-tokens", PushTokensHandler),
    Route(r"/health", HealthHandler),
    Route(r"/health/detailed", DetailedHealthHandler),
    Route(r"/events/stats", EventsStatsHandler),
    Route(r"/messages/stats", MessagesStatsHandler),
    Route(r"/events/subscribe-info", SubscribeInfoHandler),
    Route(r"/", IndexHandler),
    Route(r"/docs/openapi\.json", OpenApiHandler),
    Route(r"/docs/asyncapi\.json", AsyncApiHandler),
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
        self.writer = MessageWriter(self.database, deadline_s=deadline_s, pushes=settings.pushes)
        stored_conversations = conversations.Conversations(self.database, deadline_s=deadline_s)
        stored_messages = messages.Messages(
            self.database,
            max_per_conversation=settings.replay_max_per_conversation,
            max_in_all=settings.replay_max,
            deadline_s=deadline_s,
        )
        stored_receipts = receipts.Receipts(self.database, deadline_s=deadline_s, pushes=settings.pushes)
        typing_rate = RateLimiter(settings.typing_rate, settings.typing_burst)
        message_rate = RateLimiter(settings.message_rate, settings.message_burst)
        typing = TypingIndicator(self.registry, broadcaster, typing_rate, ttl_s=settings.typing_ttl_s)
        self.presence = Presence(self.registry, broadcaster, grace_s=settings.presence_grace_s)
        self.conversations = Conversations(stored_conversations, self.registry, broadcaster, self.presence, typing)
        self.bounty_events = BountyEvents(
            bounties.BountyLog(self.database), self.registry, broadcaster, replay_max=settings.event_replay_max
        )
        stored_notifications = notifications.Notifications(self.database)
        self.notifications = Notifications(stored_notifications, self.registry)
        self.push = self._pushes() if settings.pushes else None
        self.listener = Listener(
            dsn,
            {
                "realtime_bounty_events": self.bounty_events.wake,
                "realtime_participants": self.conversations.changed,
                "realtime_notifications": self.notifications.changed,
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
            receipts=Receipts(stored_receipts, self.registry, broadcaster),
            typing=typing,
            presence=self.presence,
            conversations=self.conversations,
            replay=Replay(stored_messages, self.writer),
            notifications=self.notifications,
            bounty_events=self.bounty_events,
            status=Status(
                self.database,
                self.registry,
                broadcaster,
                self.bounty_events,
                lambda: self.listener.connected,
                self.push,
                deadline_s=_HEALTH_DEADLINE_S,
            ),
            stored_bounties=bounties.Bounties(self.database),
            stored_conversations=stored_conversations,
            stored_messages=stored_messages,
            stored_notifications=stored_notifications,
            devices=Devices(self.database),
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
        if self.push is not None:
            self._tasks.append(asyncio.create_task(self.push.run()))
        else:
            reason = "PUSH is off" if self.settings.push == "off" else "EXPO_ACCESS_TOKEN is not set"
            log.info("push.off", reason=reason)

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
        await self.notifications.stop()
        await self.writer.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.push is not None:
            await self.push.stop()
        await self.database.close()

    def _pushes(self) -> Push:
        settings = self.settings
        assert settings.expo_access_token is not None
        return Push(
            Pushes(self.database, new_id()),
            Expo(settings.expo_push_url, settings.expo_access_token),
            self.registry,
            Rules(
                after_s=settings.push_after_s,
                max_age_s=settings.push_max_age_s,
                preview=settings.push_preview == "on",
            ),
            coalesce_s=settings.push_coalesce_s,
            receipts_after_s=settings.push_receipts_after_s,
        )

    def _web_application(self) -> web.Application:
        given: dict[str, Any] = {"context": self.context}
        return web.Application(
            [(route.pattern, route.handler, given | route.given) for route in ROUTES],
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
