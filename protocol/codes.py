"""Every error code and close code that a client can meet, and the one exception that carries them.

What each means to a client stands in the wire contract; the numbers above 4000 are ours
(RFC 6455, section 7.4.2, leaves 4000-4999 to applications).
"""

from enum import Enum, IntEnum, unique


@unique
class CloseCode(IntEnum):
    """Why the server ended a WebSocket: the code, what it means, and what its client should do about reconnecting."""

    meaning: str
    reconnect: str

    def __new__(cls, code: int, meaning: str, reconnect: str) -> "CloseCode":
        """Make the member from its code; the words go with it into the documents."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning, member.reconnect = meaning, reconnect
        return member

    NORMAL = 1000, "the client's own close", "as it likes"
    GOING_AWAY = 1001, "the page's own close", "as it likes"
    PROTOCOL_ERROR = 1002, "frames that RFC 6455 forbids, unmasked ones among them", "no"
    BAD_DATA = 1007, "text that is not UTF-8", "no"
    TOO_BIG = 1009, "one frame over MAX_FRAME_BYTES", "yes, without that frame"
    INTERNAL = 1011, "a fault of the server", "yes, with backoff"
    RESTARTING = 1012, "the server is restarting, as server.draining said", "yes, after reconnectAfterMs"
    TRY_LATER = 1013, "overloaded, or the store is away while connecting", "yes, with backoff"
    BAD_FRAMES = 4400, "more than 20 bad frames in 10 s", "no"
    UNAUTHORIZED = 4401, "no, bad or expired token", "with a fresh token"
    UNRESPONSIVE = 4408, "heartbeat missed, or reading too slowly", "yes, then sync"
    LIMIT = 4429, "connection limit, or rate limits ignored for long", "yes, with backoff"


@unique
class ErrorCode(Enum):
    """An error's name on the wire and its HTTP status where REST answers with it."""

    AUTH_REQUIRED = 401
    AUTH_FAILED = (401, "failed")
    FORBIDDEN = 403
    NOT_PARTICIPANT = (403, "participant")
    NOT_FOUND = 404
    UNKNOWN_USER = (404, "user")
    UNKNOWN_MESSAGE = (404, "message")
    METHOD_NOT_ALLOWED = 405
    INVALID_JSON = (400, "json")
    INVALID_FRAME = (400, "frame")
    INVALID_REQUEST = (400, "request")
    INVALID_TEXT = (400, "text")
    UNKNOWN_TYPE = (400, "type")
    TOO_LARGE = 413
    CONNECTION_LIMIT = (429, "connections")
    RATE_LIMITED = (429, "rate")
    INTERNAL = 500
    STORE_UNAVAILABLE = 503

    @property
    def status(self) -> int:
        """The HTTP status that goes with this error."""
        return self.value if isinstance(self.value, int) else self.value[0]


class AppError(Exception):
    """What went wrong, in words and codes that a client may see.

    Services and storage raise it; ``handlers.base`` alone turns it into an ``error`` frame,
    an HTTP answer or a close. Nothing of the inside (SQL, paths, tokens) belongs in ``message``.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retry_after_ms: int | None = None,
        close: CloseCode | None = None,
        conversation_id: str | None = None,
        client_message_id: str | None = None,
        request_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.close = close
        self.conversation_id = conversation_id
        self.client_message_id = client_message_id
        self.request_type = request_type


def not_participant(conversation_id: str) -> AppError:
    """The one answer for a conversation that is a stranger's or does not exist, so that ids can't be probed."""
    return AppError(
        ErrorCode.NOT_PARTICIPANT,
        "You are not a participant of this conversation.",
        conversation_id=conversation_id,
    )


def store_unavailable() -> AppError:
    """The database can't be reached or did not answer in time; the same call may succeed shortly."""
    return AppError(
        ErrorCode.STORE_UNAVAILABLE,
        "The message store is not available right now. Try again shortly.",
        retry_after_ms=1000,
    )
