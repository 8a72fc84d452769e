"""What the server sends: every frame as a struct, encoded once to the bytes of a whole WebSocket frame.

A frame from server to client is not masked (RFC 6455, section 5.1), so one encoding serves every recipient.
"""

import os
import struct
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.codes import AppError, ErrorCode
from protocol.inbound import BountyStatus


def _encode_custom(value: object) -> str:
    if isinstance(value, str):  # an inbound Id: msgspec takes exact types only
        return str(value)
    raise NotImplementedError(type(value))


_encoder = msgspec.json.Encoder(enc_hook=_encode_custom)
_TEXT = 0x81  # FIN and opcode 1 (RFC 6455, section 5.2)
PING_FRAME = b"\x89\x00"  # FIN, opcode 9, no payload


def timestamp(moment: datetime | None = None) -> str:
    """Return ``moment`` (default: now), an aware datetime in UTC, as the wire has it: ``2026-01-02T12:00:00.000Z``."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds")[:23] + "Z"


def new_id() -> str:
    """Return a fresh UUID in canonical form, rising with time (RFC 9562, version 7) so that index pages stay warm."""
    at = f"{time.time_ns() // 1_000_000:012x}"
    tail = os.urandom(10).hex()
    return f"{at[:8]}-{at[8:]}-7{tail[:3]}-{'89ab'[int(tail[3], 16) & 3]}{tail[4:7]}-{tail[7:19]}"


# To Python these are strings, which cost nothing to encode; the documents say more.
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[
    str, Meta(extra_json_schema={"format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"})
]
Code = Annotated[str, Meta(extra_json_schema={"enum": [code.name for code in ErrorCode]})]
Count = Annotated[int, Meta(ge=0)]
MessageStatus = Literal["sent", "delivered", "read"]


class ServerFrame(Struct, tag_field="type", rename="camel", kw_only=True):
    """Any frame to a client."""


class Connection(ServerFrame, tag="connection", kw_only=True):
    """First frame of the event stream."""

    message: str = "Connected to BountyExpo realtime events"
    timestamp: Time
    connection_id: Uuid
    last_event_id: Count
    heartbeat_interval_ms: Count


class BountyStatusEvent(ServerFrame, tag="bounty.status", kw_only=True):
    """One committed change of a bounty's status."""

    id: Uuid
    status: BountyStatus
    timestamp: Time
    event_id: Count
    replayed: bool | UnsetType = UNSET


class EventReplayComplete(ServerFrame, tag="replay.complete", kw_only=True):
    """All that was missed on the event stream has been sent, or the newest part of it when ``truncated``."""

    count: Count
    last_event_id: Count
    truncated: bool


class Subscribed(ServerFrame, tag="subscribed", kw_only=True):
    """The bounties that the stream is narrowed to now; an empty list means all."""

    bounty_ids: list[Uuid]


class Pong(ServerFrame, tag="pong", kw_only=True):
    """Answer to ``ping``."""

    ts: float | int | str | None
    timestamp: Time


class Connected(ServerFrame, tag="connected", kw_only=True):
    """First frame of the messaging socket."""

    message: str = "Connected to BountyExpo messaging"
    user_id: Uuid
    conversation_ids: list[Uuid]
    timestamp: Time
    connection_id: Uuid
    online_user_ids: list[Uuid]
    heartbeat_interval_ms: Count
    expires_at: Time


class MessageNew(ServerFrame, tag="message.new", kw_only=True):
    """A chat message, committed."""

    conversation_id: Uuid
    message_id: Uuid
    sender_id: Uuid
    text: str
    timestamp: Time
    status: Literal["sent"] = "sent"
    seq: Count
    reply_to: Uuid | None
    media_url: str | None
    client_message_id: str | None
    replayed: bool | UnsetType = UNSET


class MessageAck(ServerFrame, tag="message.ack", kw_only=True):
    """The sender's message is committed, now or by an earlier send with the same key."""

    client_message_id: str
    message_id: Uuid
    conversation_id: Uuid
    seq: Count
    timestamp: Time
    duplicate: bool | UnsetType = UNSET


class _ReceiptFrame(ServerFrame, kw_only=True):
    """``sender_id`` and ``user_id`` are the person who received or read everything up to ``seq``."""

    conversation_id: Uuid
    message_id: Uuid
    sender_id: Uuid
    user_id: Uuid
    timestamp: Time
    seq: Count
    status: Literal["delivered", "read"]


class MessageDelivered(_ReceiptFrame, tag="message.delivered", kw_only=True):
    """A delivered cursor moved."""

    status: Literal["delivered"] = "delivered"


class MessageRead(_ReceiptFrame, tag="message.read", kw_only=True):
    """A read cursor moved."""

    status: Literal["read"] = "read"


class _TypingFrame(ServerFrame, kw_only=True):
    conversation_id: Uuid
    sender_id: Uuid
    timestamp: Time


class TypingStart(_TypingFrame, tag="typing.start", kw_only=True):
    """Somebody started typing."""


class TypingStop(_TypingFrame, tag="typing.stop", kw_only=True):
    """Somebody stopped typing."""


class PresenceUpdate(ServerFrame, tag="presence.update", kw_only=True):
    """A person of a shared conversation came online or went offline."""

    conversation_id: Uuid
    user_id: Uuid
    sender_id: Uuid
    is_online: bool
    timestamp: Time
    last_seen_at: Time | UnsetType = UNSET


class Participant(Struct, rename="camel"):
    """A person of a conversation."""

    id: Uuid
    handle: str


class LastMessage(Struct, rename="camel"):
    """The newest message of a conversation."""

    id: Uuid
    text: str
    sender_id: Uuid
    created_at: Time
    seq: Count


class Conversation(Struct, rename="camel", kw_only=True):
    """A conversation as one of its participants sees it."""

    id: Uuid
    is_group: bool
    bounty_id: Uuid | None
    created_at: Time
    updated_at: Time
    participants: list[Participant]
    last_message: LastMessage | None
    unread_count: Count
    delivered_seq: Count
    read_seq: Count
    last_seq: Count
    existing: bool | UnsetType = UNSET


class ConversationNew(ServerFrame, tag="conversation.new", kw_only=True):
    """The user was put into a conversation while connected."""

    conversation: Conversation


class Joined(ServerFrame, tag="joined", kw_only=True):
    """Answer to ``join``."""

    conversation_id: Uuid


class Left(ServerFrame, tag="left", kw_only=True):
    """Answer to ``leave``."""

    conversation_id: Uuid


class ReplayComplete(ServerFrame, tag="replay.complete", kw_only=True):
    """The offline queue has been sent; ``truncated`` names conversations with more than the cap."""

    count: Count
    truncated: list[Uuid]


class SyncComplete(ServerFrame, tag="sync.complete", kw_only=True):
    """The answer to ``sync`` has been sent; ``truncated`` names conversations with more than the cap."""

    count: Count
    truncated: list[Uuid]


class AuthExpiring(ServerFrame, tag="auth.expiring", kw_only=True):
    """The socket's token is about to expire: send ``auth.refresh``."""

    expires_at: Time


class AuthRefreshed(ServerFrame, tag="auth.refreshed", kw_only=True):
    """The new token was taken."""

    expires_at: Time


class ServerDraining(ServerFrame, tag="server.draining", kw_only=True):
    """The server is going away; sent just before close 1012."""

    reconnect_after_ms: Count


class Error(ServerFrame, tag="error", kw_only=True):
    """A frame or the connection was refused."""

    code: Code
    message: str
    timestamp: Time
    request_type: str | UnsetType = UNSET
    conversation_id: str | UnsetType = UNSET
    client_message_id: str | UnsetType = UNSET
    retry_after_ms: Count | UnsetType = UNSET


class Message(Struct, rename="camel", kw_only=True):
    """A message in REST."""

    id: Uuid
    conversation_id: Uuid
    sender_id: Uuid
    sender_handle: str
    text: str
    created_at: Time
    updated_at: Time
    media_url: str | None
    reply_to: Uuid | None
    is_pinned: bool
    status: MessageStatus
    seq: Count


class Bounty(Struct, rename="camel", kw_only=True):
    """A bounty in REST."""

    id: Uuid
    creator_id: Uuid | None
    hunter_id: Uuid | None
    title: str
    description: str
    amount_cents: int
    is_for_honor: bool
    status: BountyStatus
    created_at: Time
    updated_at: Time


def error_frame(
    error: AppError,
    *,
    request_type: str | None = None,
    conversation_id: str | None = None,
    client_message_id: str | None = None,
) -> bytes:
    """Return the ``error`` frame of ``error``, about the frame that the rest names."""
    return encode(
        Error(
            code=error.code.name,
            message=error.message,
            timestamp=timestamp(),
            request_type=request_type or error.request_type or UNSET,
            conversation_id=conversation_id or error.conversation_id or UNSET,
            client_message_id=client_message_id or error.client_message_id or UNSET,
            retry_after_ms=UNSET if error.retry_after_ms is None else error.retry_after_ms,
        )
    )


def encode(frame: ServerFrame) -> bytes:
    """Return ``frame`` as one unmasked text frame, header included, ready for ``socket.send``."""
    return text_frame(_encoder.encode(frame))


def text_frame(payload: bytes) -> bytes:
    """Return ``payload`` (UTF-8) with the header of an unmasked, final text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", _TEXT, 126, size) + payload
    return struct.pack("!BBQ", _TEXT, 127, size) + payload


def encode_body(value: Any) -> bytes:
    """Return a REST answer's body."""
    return _encoder.encode(value)
