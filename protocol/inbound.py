"""What clients send: WebSocket frames and REST bodies, decoded and validated in one step.

A frame is one struct of a tagged union (tag: ``type``), so whoever handles it sees typed fields and never
a dict. Anything wrong becomes an ``AppError`` that names the field and what was expected.
"""

import json
import re
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from protocol.codes import AppError, ErrorCode

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SURROGATE = re.compile("[\ud800-\udfff]")
# msgspec quotes a wrong tag or literal whole: however long it is, control characters and all.
_QUOTED = re.compile(r"(Invalid (?:enum )?value) ['\"].*?['\"](?= - at `\$[^`]*`\Z|\Z)", re.DOTALL)


class Id(str):
    """A UUID in its canonical form: lower case, with hyphens."""

    __slots__ = ()


def parse_id(value: object) -> Id:
    """Return ``value`` as a canonical id; raise ``ValueError`` when it is no UUID string."""
    if isinstance(value, str):
        lowered = value.lower()
        if _UUID.fullmatch(lowered):
            return Id(lowered)
    raise ValueError("Expected a UUID")


def decode_custom(kind: type, value: object) -> object:
    """Decode an ``Id``, for msgspec."""
    if kind is Id:
        return parse_id(value)
    raise NotImplementedError(kind)


def schema_of_custom(kind: type) -> dict[str, Any]:
    """Return the JSON Schema of an ``Id``, for msgspec."""
    if kind is Id:
        return {"type": "string", "format": "uuid"}
    raise NotImplementedError(kind)


# Printable to a database and a log: no control characters (U+0000 among them), no lone surrogates.
# `$` alone would let a newline at the end through.
ClientKey = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\ud800-\udfff]*$(?!\n)")]
MediaUrl = Annotated[str, Meta(max_length=2048, pattern=r"^https?://[^\s\x00-\x1f\ud800-\udfff]+$(?!\n)")]
# What makes a text wrong has an error of its own, so the services check it; the documents say it with the defaults.
Text = Annotated[
    str, Meta(extra_json_schema={"minLength": 1, "maxLength": 4000, "pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"})
]
# `seq` and `eventId` are bigint in Postgres.
Seq = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# A ping's `ts` comes back as it was sent: a number or a short string.
PingTs = float | int | Annotated[str, Meta(max_length=64)] | None

BountyStatus = Literal["open", "in_progress", "completed", "archived", "deleted", "cancelled", "cancellation_requested"]
BOUNTY_STATUSES: tuple[str, ...] = get_args(BountyStatus)

# How many bounties one socket may narrow its stream to, and how many people one conversation may have.
MAX_TOPICS = 500
MAX_PARTICIPANTS = 250


class ClientFrame(Struct, tag_field="type", rename="camel", kw_only=True):
    """Any frame from a client."""


class Ping(ClientFrame, tag="ping", kw_only=True):
    """Asks for a ``pong`` with the same ``ts``."""

    ts: PingTs = None


class Join(ClientFrame, tag="join", kw_only=True):
    """This socket wants the conversation's typing and presence."""

    conversation_id: Id


class Leave(ClientFrame, tag="leave", kw_only=True):
    """This socket wants no more of the conversation's typing and presence; its messages go on."""

    conversation_id: Id


class Typing(ClientFrame, tag="typing", kw_only=True):
    """The user started or stopped typing."""

    conversation_id: Id
    is_typing: bool


class MessageSend(ClientFrame, tag="message.send", kw_only=True):
    """A chat message to persist and deliver."""

    conversation_id: Id
    text: Text
    client_message_id: ClientKey
    reply_to: Id | None = None
    media_url: MediaUrl | None = None


class Receipt(ClientFrame, kw_only=True):
    """Everything up to a message, named by ``messageId`` or ``seq``, has arrived or was read."""

    conversation_id: Id
    message_id: Id | None = None
    seq: Seq | None = None

    # For the documents: what ``__post_init__`` holds to.
    schema: ClassVar[dict[str, Any]] = {
        "anyOf": [
            {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("messageId", "seq")
        ]
    }

    def __post_init__(self) -> None:
        if self.message_id is None and self.seq is None:
            raise ValueError("Object missing required field `messageId` or `seq`")


class MessageDelivered(Receipt, tag="message.delivered", kw_only=True):
    """Moves the user's delivered cursor to a message of others, named by ``messageId`` or ``seq``."""


class MessageRead(Receipt, tag="message.read", kw_only=True):
    """Moves the user's read cursor, and the delivered one with it, to a message named by ``messageId`` or ``seq``."""


class Sync(ClientFrame, tag="sync", kw_only=True):
    """Asks for all that is newer than the last ``seq`` seen, per conversation."""

    conversations: Annotated[
        dict[str, Seq], Meta(max_length=500, extra_json_schema={"propertyNames": {"format": "uuid"}})
    ]

    def __post_init__(self) -> None:
        try:
            self.positions  # noqa: B018
        except ValueError:
            raise ValueError("Expected only UUIDs as keys - at `$.conversations`") from None

    @property
    def positions(self) -> dict[str, int]:
        """Return {conversation: last seq seen}, with canonical ids."""
        return {parse_id(conversation_id): seq for conversation_id, seq in self.conversations.items()}


class AuthRefresh(ClientFrame, tag="auth.refresh", kw_only=True):
    """Brings a fresh token of the same user."""

    token: str


class Subscribe(ClientFrame, tag="subscribe", kw_only=True):
    """Narrows the event stream to these bounties too."""

    bounty_ids: Annotated[list[Id], Meta(max_length=MAX_TOPICS)]


class Unsubscribe(ClientFrame, tag="unsubscribe", kw_only=True):
    """Takes these bounties out of the narrowed stream."""

    bounty_ids: Annotated[list[Id], Meta(max_length=MAX_TOPICS)]


EventsFrame = Ping | Subscribe | Unsubscribe
MessagesFrame = Ping | Join | Leave | Typing | MessageSend | MessageDelivered | MessageRead | Sync | AuthRefresh


class Body(Struct, rename="camel", kw_only=True):
    """Any REST body."""


class NewConversation(Body, kw_only=True):
    """``POST /api/conversations``"""

    participant_ids: Annotated[list[Id], Meta(min_length=1, max_length=MAX_PARTICIPANTS)]
    bounty_id: Id | None = None
    is_group: bool = False


class NewMessage(Body, kw_only=True):
    """``POST /api/conversations/{id}/messages``"""

    text: Text
    reply_to: Id | None = None
    media_url: MediaUrl | None = None
    client_message_id: ClientKey | None = None


class MarkMessages(Body, kw_only=True):
    """``POST /api/conversations/{id}/messages/status``"""

    message_ids: Annotated[list[Id], Meta(max_length=1000)]
    status: Literal["delivered", "read"]


class SetTyping(Body, kw_only=True):
    """``POST /api/conversations/{id}/typing``"""

    is_typing: bool


class NewBounty(Body, kw_only=True):
    """``POST /api/bounties``"""

    title: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00\ud800-\udfff]*[^\s\x00][^\x00\ud800-\udfff]*$")]
    description: Annotated[str, Meta(max_length=10_000, pattern=r"^[^\x00\ud800-\udfff]*$")] = ""
    amount_cents: Annotated[int, Meta(ge=0, le=10**12)] = 0
    is_for_honor: bool = False


class ChangeStatus(Body, kw_only=True):
    """``POST /api/bounties/{id}/status``"""

    status: BountyStatus
    hunter_id: Id | None = None


B = TypeVar("B", bound=Body)
F = TypeVar("F", bound=ClientFrame)


class _Envelope(Struct, rename="camel"):
    """As much of a bad frame as an error can quote back."""

    type: Any = None
    conversation_id: Any = None
    client_message_id: Any = None


def reason_of(error: msgspec.ValidationError, kind: type[msgspec.Struct] | None = None) -> str:
    """Return what is wrong with which field, without what the client wrote there.

    :param kind: what it was to be; then the values that an enum has are named.
    """
    reason = _QUOTED.sub(r"\1", str(error))
    wrong, at, place = reason.partition(" - at `$.")
    if kind is not None and wrong == "Invalid enum value":
        for field in msgspec.structs.fields(kind):
            if place == f"{field.encode_name}`":
                return f"{wrong}, expected one of: {', '.join(_literals(field.type))}{at}{place}"
    return reason


def _literals(kind: Any) -> list[str]:
    return [value for each in get_args(kind) for value in ([each] if isinstance(each, str) else _literals(each))]


def _short(value: object, limit: int = 64) -> str | None:
    return value if isinstance(value, str) and len(value) <= limit and value.isprintable() else None


class FrameDecoder(Generic[F]):
    """Decodes one endpoint's frames.

    ``union`` is the tagged union of the frames that the endpoint takes, or the only one.
    """

    def __init__(self, union: Any) -> None:
        self._decoder = msgspec.json.Decoder(union, dec_hook=decode_custom)
        self._types = {member.__struct_config__.tag for member in get_args(union) or (union,)}

    def decode(self, message: str | bytes) -> F:
        """Return the frame; raise ``AppError`` INVALID_JSON, UNKNOWN_TYPE or INVALID_FRAME."""
        if isinstance(message, bytes):
            raise AppError(ErrorCode.INVALID_FRAME, "Expected a text frame with one JSON object, got a binary frame.")
        try:
            frame: F = self._decoder.decode(message)
        except msgspec.ValidationError as error:
            raise self._explain(message, reason_of(error)) from None
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            raise _not_json(message, "frame", ErrorCode.INVALID_FRAME) from None
        return frame

    def _explain(self, message: str, reason: str) -> AppError:
        """Say what is wrong with a frame that is JSON; only on the way to an error, so it may decode twice."""
        try:
            envelope = msgspec.json.decode(message, type=_Envelope)
        except msgspec.ValidationError:
            return AppError(ErrorCode.INVALID_FRAME, f"{reason}.")
        except (msgspec.DecodeError, RecursionError):  # a wrong field came before the place where it is no JSON
            return _not_json(message, "frame", ErrorCode.INVALID_FRAME)
        code, known = ErrorCode.INVALID_FRAME, _short(envelope.type)
        if isinstance(envelope.type, str) and envelope.type not in self._types:
            code = ErrorCode.UNKNOWN_TYPE
            reason = f"Unknown type, expected one of: {', '.join(sorted(map(str, self._types)))}"
        return AppError(
            code,
            f"{reason}.",
            request_type=known,
            conversation_id=_short(envelope.conversation_id),
            client_message_id=_short(envelope.client_message_id),
        )


def decode_body(body: bytes, kind: type[B]) -> B:
    """Return a REST body as ``kind``; raise ``AppError`` INVALID_JSON or INVALID_REQUEST naming the field."""
    try:
        return msgspec.json.decode(body, type=kind, dec_hook=decode_custom)
    except msgspec.ValidationError as error:
        raise AppError(ErrorCode.INVALID_REQUEST, f"{reason_of(error, kind)}.") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _not_json(body, "body", ErrorCode.INVALID_REQUEST) from None


def _not_json(message: str | bytes, what: str, field_error: ErrorCode) -> AppError:
    """Tell a lone surrogate, which only a lenient decoder lets through to be named, from what is no JSON at all."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        value = None
    for field, text in value.items() if isinstance(value, dict) else ():
        if isinstance(text, str) and not text.isascii() and _SURROGATE.search(text):
            code = ErrorCode.INVALID_TEXT if field == "text" else field_error
            return AppError(
                code,
                f"`{_short(field) or 'a field'}` holds a lone surrogate, which is no character.",
                request_type=_short(value.get("type")),
                conversation_id=_short(value.get("conversationId")),
                client_message_id=_short(value.get("clientMessageId")),
            )
    return AppError(ErrorCode.INVALID_JSON, f"The {what} is not valid JSON.")
