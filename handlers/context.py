"""What every handler is given, and who a request comes from."""

import ipaddress
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any
from weakref import WeakSet

import msgspec
from msgspec import Struct
from tornado.httputil import HTTPServerRequest

from connections.limits import ConnectionLimits, RateLimiter
from connections.registry import Registry
from connections.traffic import Traffic
from handlers.unread import Unread
from services.analytics import Analytics
from services.auth import Authenticator
from services.bounty_events import BountyEvents
from services.conversations import Conversations
from services.development import DevelopmentTokens
from services.live import Live
from services.messaging import Messaging
from services.metrics import Metrics
from services.notifications import Notifications
from services.presence import Presence
from services.receipts import Receipts
from services.replay import Replay
from services.status import Status
from services.typing import TypingIndicator
from settings import Settings
from storage.bounties import Bounties as StoredBounties
from storage.conversations import Conversations as StoredConversations
from storage.devices import Devices
from storage.messages import Messages as StoredMessages
from storage.notifications import Notifications as StoredNotifications
from storage.profiles import Profiles

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Some proxies add the port: 203.0.113.7:4711, [2001:db8::1]:4711.
_PORT = re.compile(r"^\[?([0-9.]+|[0-9a-fA-F:.]+(?=\]))\]?(?::[0-9]+)?$")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Context(Struct, kw_only=True):
    """Built once, in ``app.py``; handed to each handler."""

    settings: Settings
    version: str
    proxies: Sequence[Network]
    authenticator: Authenticator
    development_tokens: DevelopmentTokens
    registry: Registry
    traffic: Traffic
    limits: ConnectionLimits
    connect_rate: RateLimiter
    frame_rate: RateLimiter
    rest_rate: RateLimiter
    messaging: Messaging
    receipts: Receipts
    typing: TypingIndicator
    presence: Presence
    conversations: Conversations
    replay: Replay
    notifications: Notifications
    bounty_events: BountyEvents
    status: Status
    metrics: Metrics
    analytics: Analytics
    live: Live
    stored_bounties: StoredBounties
    stored_conversations: StoredConversations
    stored_messages: StoredMessages
    stored_notifications: StoredNotifications
    devices: Devices
    profiles: Profiles
    # A document of the API by its name.
    document: Callable[[str], bytes]
    # Those that no answer has been given to yet.
    requests: WeakSet[Any] = msgspec.field(default_factory=WeakSet)
    unread: Unread = msgspec.field(default_factory=Unread)

    @property
    def busy(self) -> bool:
        """Whether a request is under way whose client is still there."""
        return any(not handler.request.connection.stream.closed() for handler in self.requests)

    def client_address(self, peer: str, forwarded_for: str | None) -> str:
        """Return the client's address: the peer's, or where a trusted proxy says that the request came from.

        ``X-Forwarded-For`` is read from its end, past our own proxies only: what a client writes into it itself
        stands to the left of what they add.
        """
        if not forwarded_for or not _within(peer, self.proxies):
            return peer
        for hop in reversed([_PORT.sub(r"\1", part.strip()) for part in forwarded_for.split(",")]):
            if not _is_address(hop):
                break
            peer = hop
            if not _within(hop, self.proxies):
                break
        return peer

    def is_secure(self, request: HTTPServerRequest) -> bool:
        """Whether the client's side of the request is encrypted, as a trusted proxy says or by itself."""
        if _within(request.remote_ip or "", self.proxies):
            return request.headers.get("X-Forwarded-Proto", request.protocol) == "https"
        return request.protocol == "https"

    def origin_allowed(self, origin: str) -> bool:
        """Whether a browser page of ``origin`` may talk to us, same origin aside."""
        allowed: Collection[str] = self.settings.allowed_origins
        if "*" in allowed or origin in allowed:
            return True
        if self.settings.production:
            return False
        scheme, _, host = origin.partition("://")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return scheme in ("http", "https") and name in LOOPBACK_HOSTS


def subscriber(address: str) -> str:
    """Return what limits count an address by: an IPv6 one by its /64, all of which one subscriber has."""
    if ":" not in address or not _is_address(address):
        return address
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _within(address: str, networks: Collection[Network]) -> bool:
    if not networks or not _is_address(address):
        return False
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in networks)
