"""The composition root: builds every object once and hands each what it needs."""

import asyncio
import ipaddress
import socket
from typing import Any, Protocol

import msgspec
import structlog
from tornado import httpserver, web

from connections.broadcaster import Broadcaster
from connections.heartbeat import Heartbeat
from connections.limits import ConnectionLimits, RateLimiter
from connections.registry import Registry
from connections.traffic import Traffic
from documents.store import Documents
from handlers.context import Context
from handlers.rest import NotFoundHandler
from listening import Listening
from protocol.outbound import new_id
from routes import CONSOLE_ROUTES, ROUTES
from services.analytics import Analytics
from services.auth import Authenticator
from services.bounty_events import BountyEvents
from services.conversations import Conversations
from services.development import DevelopmentTokens
from services.drain import drain
from services.expiry import TokenExpiry
from services.expo import Expo
from services.live import Live
from services.loop_lag import LoopLag
from services.messaging import Messaging
from services.metrics import Metrics
from services.notifications import Notifications
from services.presence import Presence
from services.push import Push
from services.push_rules import Rules
from services.receipts import Receipts
from services.replay import Replay
from services.status import Status
from services.typing import TypingIndicator
from services.vitals import Vitals
from settings import LIVE_SETTINGS, Settings
from storage import analytics, bounties, conversations, messages, notifications, profiles, receipts
from storage.database import Database
from storage.devices import Devices
from storage.listener import Listener
from storage.message_writer import MessageWriter
from storage.push import Pushes
from version import VERSION

log = structlog.get_logger()

# A body above MAX_BODY_BYTES is read to its end and answered with 413; above this the connection is ended.
_MAX_DRAINED_BYTES = 16 * 1024 * 1024
# Health is asked by machines that don't wait long.
_HEALTH_DEADLINE_S = 2.0
# Between a failure of work in the background and its new beginning.
_BEGIN_ANEW_S = 1.0


class App:
    """A whole server, not yet listening. To be built inside the event loop that it will run in.

    Several may live in one process.
    """

    def __init__(self, settings: Settings, dsn: str) -> None:
        self.settings = settings
        deadline_s = settings.request_timeout_s
        self.database = Database(dsn, size=settings.database_pool_size, deadline_s=deadline_s)
        self.registry = Registry()
        traffic = Traffic()
        broadcaster = Broadcaster()
        self.writer = MessageWriter(self.database, deadline_s=deadline_s, pushes=settings.pushes)
        stored_conversations = conversations.Conversations(self.database, deadline_s=deadline_s)
        stored_messages = messages.Messages(
            self.database,
            max_per_conversation=settings.replay_max_per_conversation,
            max_in_all=settings.replay_max,
            deadline_s=deadline_s,
        )
        self._rates = {name: RateLimiter(rate, burst) for name, (rate, burst) in _rates(settings).items()}
        typing = TypingIndicator(self.registry, broadcaster, self._rates["typing"], ttl_s=settings.typing_ttl_s)
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
        messaging = Messaging(
            self.writer,
            self.registry,
            broadcaster,
            typing,
            self._rates["message"],
            max_text_chars=settings.max_text_chars,
        )
        stored_receipts = receipts.Receipts(self.database, deadline_s=deadline_s, pushes=settings.pushes)
        marks = Receipts(stored_receipts, self.registry, broadcaster)
        replay = Replay(stored_messages, self.writer)
        authenticator = Authenticator(
            secret=settings.supabase_jwt_secret, jwks_url=settings.jwks_url, issuer=settings.issuer
        )
        status = Status(
            self.database,
            self.registry,
            traffic,
            self.bounty_events,
            lambda: self.listener.connected,
            self.push,
            deadline_s=_HEALTH_DEADLINE_S,
        )
        self.loop_lag = LoopLag()
        instance = new_id()
        vitals = Vitals(traffic, messaging, marks, self.conversations)
        self.analytics = Analytics(
            analytics.Analytics(self.database),
            vitals,
            self.registry,
            instance=instance,
            retention_days=settings.analytics_retention_days,
        )
        self.live = Live(
            self.registry,
            broadcaster,
            traffic,
            vitals,
            self.analytics,
            status,
            self.database,
            self.writer,
            self.loop_lag,
            version=VERSION,
            environment=settings.environment,
            instance=instance,
        )
        metrics = Metrics(
            registry=self.registry,
            traffic=traffic,
            heartbeat=self.heartbeat,
            messaging=messaging,
            receipts=marks,
            conversations=self.conversations,
            replay=replay,
            bounty_events=self.bounty_events,
            writer=self.writer,
            database=self.database,
            authenticator=authenticator,
            limits=self._rates,
            loop_lag=self.loop_lag,
            push=self.push,
            version=VERSION,
        )
        self.context = Context(
            settings=settings,
            version=VERSION,
            proxies=_networks(settings),
            authenticator=authenticator,
            development_tokens=_development_tokens(settings),
            registry=self.registry,
            traffic=traffic,
            limits=ConnectionLimits(
                self.registry,
                in_all=settings.max_connections,
                per_user=settings.max_connections_per_user,
                per_address=settings.max_connections_per_ip,
            ),
            connect_rate=self._rates["connect"],
            frame_rate=self._rates["frame"],
            rest_rate=self._rates["rest"],
            messaging=messaging,
            receipts=marks,
            typing=typing,
            presence=self.presence,
            conversations=self.conversations,
            replay=replay,
            notifications=self.notifications,
            bounty_events=self.bounty_events,
            status=status,
            metrics=metrics,
            analytics=self.analytics,
            live=self.live,
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
        self.listening = Listening(self.http)
        self.expiry = TokenExpiry(self.registry)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to the database, which has to be there, and begin the work in the background."""
        await self.database.connect()
        await self.bounty_events.begin()
        background = (
            self.bounty_events, self.listener, self.heartbeat, self.expiry, self.loop_lag, self.live, self.analytics,
        )  # fmt: skip
        for work in background:
            self._tasks.append(asyncio.create_task(_keep_running(work)))
        if self.push is not None:
            self._tasks.append(asyncio.create_task(_keep_running(self.push)))
        else:
            reason = "PUSH is off" if self.settings.push == "off" else "EXPO_ACCESS_TOKEN is not set"
            log.info("push.off", reason=reason)

    def listen(self, passed: list[socket.socket] | None = None) -> int:
        """Accept connections at HOST and PORT, or at the sockets passed; return the port. See ``Listening.start``."""
        return self.listening.start(self.settings.host, self.settings.port, passed)

    def reconfigure(self, wanted: Settings) -> list[str]:
        """Take over what of ``wanted`` can change while sockets are open; return the names of the rest that differs.

        Sizes and origins are those of sockets opened from now on; who is in stays in.
        """
        live = {name: getattr(wanted, name) for name in LIVE_SETTINGS}
        settings = self.settings = self.context.settings = msgspec.structs.replace(self.settings, **live)
        for name, (rate, burst) in _rates(settings).items():
            self._rates[name].change(rate, burst)
        self.context.limits.change(
            in_all=settings.max_connections,
            per_user=settings.max_connections_per_user,
            per_address=settings.max_connections_per_ip,
        )
        self.context.messaging.max_text_chars = settings.max_text_chars
        self.context.proxies = _networks(settings)
        self.context.authenticator.change(
            secret=settings.supabase_jwt_secret, jwks_url=settings.jwks_url, issuer=settings.issuer
        )
        self.context.development_tokens = _development_tokens(settings)
        return [name for name, value in msgspec.structs.asdict(settings).items() if getattr(wanted, name) != value]

    async def summary(self) -> str:
        """Return how things are, in a line for an operator."""
        latency_ms = await self.context.status.database_latency_ms()
        store = "database away" if latency_ms is None else f"database answers in {latency_ms} ms"
        counts = f"{len(self.registry.connections)} connections, {len(self.registry.people)} people online"
        return f"{counts}, event {self.bounty_events.position}, {store}"

    async def drain(self, away_s: float = 0.0) -> None:
        """Stop accepting and send everybody away, within DRAIN_TIMEOUT_S; ``stop`` does the rest.

        :param away_s: how long clients had better stay away, because nobody answers meanwhile.
        """
        self.listening.stop()
        draining = drain(self.registry, busy=lambda: self.context.busy, away_s=away_s)
        try:
            await asyncio.wait_for(draining, self.settings.drain_timeout_s)
        except TimeoutError:
            log.warning("server.drain_timeout", connections=len(self.registry.connections))

    async def stop(self) -> None:
        """Stop accepting, cut every connection that is left, close the store."""
        self.listening.stop()
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
        await self.analytics.stop()
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
        routes = ROUTES + CONSOLE_ROUTES if self.settings.console_on else ROUTES
        return web.Application(
            [(route.pattern, route.handler, given | route.given) for route in routes],
            default_handler_class=NotFoundHandler,
            default_handler_args=given,
            # Tornado's own access log holds the whole address, and so the token in the query.
            log_function=lambda _handler: None,
        )


class _Background(Protocol):
    async def run(self) -> None:
        """Work until cancelled."""


async def _keep_running(work: _Background) -> None:
    """Let no fault of ours end work that the server can't be without: log it, and begin anew."""
    while True:
        try:
            await work.run()
        except Exception:
            log.exception("background.failed", work=type(work).__name__)
        await asyncio.sleep(_BEGIN_ANEW_S)


def _rates(settings: Settings) -> dict[str, tuple[float, float]]:
    """Return each limiter's rate a second and its burst."""
    return {
        "connect": (settings.connect_rate_per_10s / 10, max(1, settings.connect_rate_per_10s)),
        "frame": (settings.frame_rate, settings.frame_burst),
        "message": (settings.message_rate, settings.message_burst),
        "rest": (settings.rest_rate_per_minute / 60, max(1, settings.rest_rate_per_minute)),
        "typing": (settings.typing_rate, settings.typing_burst),
    }


def _development_tokens(settings: Settings) -> DevelopmentTokens:
    secret = None if settings.production else settings.supabase_jwt_secret
    return DevelopmentTokens(secret=secret, issuer=settings.issuer)


def _networks(settings: Settings) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(network, strict=False) for network in settings.trusted_proxies]
