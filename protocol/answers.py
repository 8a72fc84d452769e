"""What REST answers with: the body of every call, errors included. Frames, and what they share, are in outbound."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from protocol.notifications import Notification
from protocol.outbound import Bounty, Code, Conversation, Count, Message, Time

State = Literal["up", "down", "off"]
Health = Literal["ok", "degraded"]


class Answer(Struct, rename="camel", kw_only=True):
    """Any answer's body."""


class Failure(Answer, kw_only=True):
    """What went wrong: ``error`` in short, ``message`` in a sentence, ``code`` for programs."""

    error: str
    message: str
    code: Code
    request_id: str


class Conversations(Answer, kw_only=True):
    """The user's conversations, latest first."""

    conversations: list[Conversation]


class OneConversation(Answer, kw_only=True):
    """A conversation, new or ``existing``."""

    conversation: Conversation


class Pagination(Answer, kw_only=True):
    """Which page this is, and whether there are more."""

    page: int
    limit: int
    has_more: bool


class CountedPagination(Pagination, kw_only=True):
    """The same, with how many there are in all."""

    total: Count


class Messages(Answer, kw_only=True):
    """A page of messages, oldest first."""

    messages: list[Message]
    pagination: CountedPagination


class OneMessage(Answer, kw_only=True):
    """A message, committed."""

    message: Message


class Marked(Answer, kw_only=True):
    """How many of the ids were other people's messages in this conversation."""

    success: Literal[True] = True
    updated_count: Count


class Done(Answer, kw_only=True):
    """It was done."""

    success: Literal[True] = True


class Bounties(Answer, kw_only=True):
    """A page of bounties, newest first."""

    bounties: list[Bounty]
    pagination: Pagination


class OneBounty(Answer, kw_only=True):
    """A bounty as it is now."""

    bounty: Bounty


class LimitedPagination(Answer, kw_only=True):
    """How many a page has at most, and whether there are more."""

    limit: int
    has_more: bool


class Notifications(Answer, kw_only=True):
    """A page of notifications, newest first, and how many are unread in all (counted up to 10,000)."""

    notifications: list[Notification]
    unread_count: Count
    pagination: LimitedPagination


class NotificationsMarked(Answer, kw_only=True):
    """How many notifications were not read yet."""

    success: Literal[True] = True
    updated_count: Count


class HealthSummary(Answer, kw_only=True):
    """Whether the server can do its work: ``degraded`` while the database is away."""

    status: Health
    timestamp: Time
    version: str
    service: str
    database: Literal["connected", "disconnected"]


class Part(Answer, kw_only=True):
    """One part of the server; ``latencyMs`` where a round trip to it was measured."""

    status: State
    latency_ms: float | None = None


class SocketsPart(Part, kw_only=True):
    """The WebSockets, and how many are open."""

    connections: Count


class PushPart(Part, kw_only=True):
    """Pushes to who is away, and how many are on their way."""

    waiting: Count | UnsetType = UNSET


class RelayPart(Part, kw_only=True):
    """The relay of bounty events, and the newest one's id."""

    last_event_id: Count


class HealthParts(Answer, kw_only=True):
    """The server's health, each part by itself."""

    status: Health
    version: str
    timestamp: Time
    database: Part
    redis: Part
    websocket: SocketsPart
    push: PushPart
    event_relay: RelayPart


class EventCounts(Answer, kw_only=True):
    """Open sockets of the event stream, and the newest event's id."""

    ws_client_count: Count
    last_event_id: Count


class MessagingCounts(Answer, kw_only=True):
    """Open messaging sockets, conversations with somebody online, people online."""

    total_clients: Count
    total_rooms: Count
    online_users: Count


class ProcessCounts(Answer, kw_only=True):
    """How long the process has been up, and how many frames it has sent to more than their sender."""

    uptime_s: float
    frames_sent: Count
    timestamp: Time


class EventsStats(ProcessCounts, kw_only=True):
    """Counts of both sockets."""

    events: EventCounts
    messaging: MessagingCounts


class MessagesStats(MessagingCounts, kw_only=True):
    """Counts of messaging."""

    uptime_s: float
    frames_sent: Count
    timestamp: Time


class SubscribeInfo(Answer, kw_only=True):
    """How to connect to the event stream: its frames' types and their fields."""

    url: str
    authentication: str
    query: dict[str, str]
    events: dict[str, list[str]]
    commands: dict[str, list[str]]
    statuses: list[str]
    example: str


class Index(Answer, kw_only=True):
    """What this is, and where everything is."""

    service: str
    version: str
    websockets: list[str]
    rest: list[str]
    status: list[str]
    documents: list[str]
