"""WebSockets: admission, frames in order, errors as frames, close codes.

Frames are taken in without waiting, so pings are answered whatever the store does.
"""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import structlog
from tornado import websocket
from tornado.util import ObjectDict

from connections.connection import Connection
from connections.limits import rate_limited
from handlers.base import BaseHandler
from handlers.context import Context
from handlers.handshake import check_handshake
from handlers.websocket_protocol import StrictProtocol
from protocol.codes import AppError, CloseCode, ErrorCode
from protocol.inbound import ClientFrame, FrameDecoder, Ping
from protocol.outbound import Pong, ServerFrame, encode, error_frame, new_id, timestamp
from protocol.queries import Query
from services.auth import auth_failed

log = structlog.get_logger()

SUBPROTOCOL = "bountyexpo.v1"
_BEARER_PROTOCOL = "bearer."

# Shared by all sockets whose handshake is over; nobody writes to them.
_NO_ARGUMENTS: dict[str, list[bytes]] = {}
_NO_UI = ObjectDict()

# Frames of one socket that wait while an earlier one is acted on, and their bytes in all.
MAX_INBOX, MAX_INBOX_BYTES = 256, 262_144
# 4400: more than this many bad frames within this time.
BAD_FRAMES, BAD_FRAMES_WITHIN_S = 20, 10.0
# 4429: over the frame rate for this long; a pause of _FRAME_PAUSE_S counts as having listened.
_IGNORED_FOR_S, _FRAME_PAUSE_S = 10.0, 2.0


# What a socket does with one type of frame: at once, or as work that the frames after it wait for.
Action = Callable[[Any, Any], Awaitable[Any] | None]


class SocketHandler(BaseHandler, websocket.WebSocketHandler):
    """A WebSocket.

    Frames are taken in without waiting, so pings are answered whatever the store does, and acted on in order.
    """

    # Of what is left when the handshake is over, the instance's dict is the largest part: this keeps it small.
    __slots__ = (
        "_bad_frames",
        "_inbox",
        "_inbox_bytes",
        "_limited_at",
        "_limited_since",
        "_refusal",
        "connection",
        "taken_in_at",
    )

    decoder: ClassVar[FrameDecoder[Any]]
    # For the documents: the frames that it takes and sends, its query, and the last frame that answers one it takes.
    takes: ClassVar[Any]
    sends: ClassVar[Any]
    query_type: ClassVar[type[Query]]
    answers: ClassVar[dict[type[ClientFrame], type[ServerFrame]]]
    actions: ClassVar[dict[type[ClientFrame], Action]]
    # What its connections are counted under.
    endpoint: ClassVar[str]
    # Whether a socket without a valid token is let in.
    public: ClassVar[bool]

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.connection: Connection | None = None
        self._refusal: AppError | None = None
        # When the frame that is acted on came in, in monotonic seconds.
        self.taken_in_at = 0.0
        self._inbox: collections.deque[tuple[ClientFrame, int, float]] | None = None
        self._inbox_bytes = 0
        self._bad_frames: collections.deque[float] | None = None
        self._limited_since = 0.0
        self._limited_at = 0.0

    async def prepare(self) -> None:
        """Know who is connecting. A refusal is told by a frame after the handshake: browsers show nothing else."""
        check_handshake(self.request, self.check_origin)
        try:
            self.identity = await self.context.authenticator.identify(self._token())
            if self.identity.user_id is None:
                self.identity = None
                raise auth_failed()
        except AppError as error:
            if not self.public:
                self._refusal = error
            self._count_attempt(self.address)
        else:
            self._check_room(self.identity.user)

    def _check_room(self, user_id: str) -> None:
        """Count the attempts of a user who has too many sockets: a refused one holds a TCP connection for a while."""
        try:
            self.context.limits.admit(user_id, self.address)
        except AppError as error:
            self._refusal = error
            self._count_attempt(user_id)

    def _count_attempt(self, key: str) -> None:
        wait_s = self.context.connect_rate.take(key)
        if wait_s:
            raise rate_limited(wait_s, "connection attempts") from None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    def check_origin(self, origin: str) -> bool:
        return self.context.origin_allowed(origin)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Return an argument of the query; what is no UTF-8 is a wrong value like any other, and told as such."""
        return value.decode("utf-8", "replace")

    def get_websocket_protocol(self) -> websocket.WebSocketProtocol | None:
        """Return Tornado's protocol made strict, or None (another version than 13: 426)."""
        protocol = super().get_websocket_protocol()
        if not isinstance(protocol, websocket.WebSocketProtocol13):
            return None
        return StrictProtocol(self, protocol.params, self._on_breach)

    @property
    def max_message_size(self) -> int:
        return self.context.settings.max_frame_bytes

    def open(self, *_args: str, **_kwargs: str) -> None:
        settings, context = self.context.settings, self.context
        # `ws_connection.stream` is not documented; a test guards it.
        assert self.ws_connection is not None and self.ws_connection.stream is not None
        self.set_nodelay(True)
        connection = Connection(
            new_id(),
            user_id=self.identity.user_id if self.identity else None,
            address=self.address,
            stream=self.ws_connection.stream,
            close=self.close,
            max_waiting_bytes=settings.max_send_queue_bytes,
            now=time.monotonic(),
            endpoint=self.endpoint,
            traffic=context.traffic,
        )
        self.connection = connection
        context.traffic.opened[self.endpoint] += 1
        log.info(
            "connection.opened", connection_id=connection.id, endpoint=self.request.path, user_id=connection.user_id
        )
        try:
            if self._refusal is not None:
                raise self._refusal
            context.limits.admit(connection.user_id, connection.address)
        except AppError as error:
            self._tell(error, close=error.close or CloseCode.TRY_LATER)
            return
        context.registry.add(connection)
        self._begin(connection, self._greet(connection))

    async def _greet(self, connection: Connection) -> None:
        await self.opened(connection)
        self._forget_handshake()

    def _forget_handshake(self) -> None:
        """Let go of what only the handshake needed: of an idle socket's memory it is a third, the token included."""
        request = self.request
        request.headers.clear()  # Tornado holds them elsewhere too
        request.arguments = request.query_arguments = request.body_arguments = _NO_ARGUMENTS
        request.uri = request.path
        request.query = ""
        for name, _ in list(self._headers.get_all()):
            self.clear_header(name)
        self.ui = _NO_UI
        # Not documented; it holds the query too.
        connection: Any = request.connection
        connection._request_start_line = None
        self.identity = None

    async def opened(self, connection: Connection) -> None:
        """Greet; what the client sends meanwhile waits. Raises ``AppError``, which closes with its code or 1011."""
        raise NotImplementedError

    def gone(self, connection: Connection) -> None:
        """The socket has closed, and the registry has forgotten it."""

    def on_message(self, message: str | bytes) -> None:
        connection = self.connection
        if connection is None or connection.closing:
            return
        connection.last_heard = time.monotonic()
        try:
            wait_s = self.context.frame_rate.take(connection.id)
            if wait_s:
                self._over_rate(connection, wait_s)
                return
            self._accept(connection, self.decoder.decode(message), len(message))
        except AppError as error:
            self._answer_bad_frame(error)

    def answer_ping(self, frame: Ping) -> None:
        """Answer an application's own ping."""
        if self.connection is not None:
            self.connection.send_now(encode(Pong(ts=frame.ts, timestamp=timestamp())))

    def on_pong(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.last_heard = time.monotonic()

    def on_ping(self, data: bytes) -> None:
        self.on_pong(data)

    def on_close(self) -> None:
        connection = self.connection
        if connection is None:
            return
        connection.closed(self.close_code or 1006)
        code = int(connection.close_code or 1006)  # the server's own, where it closed first
        self.context.registry.remove(connection)
        self.context.traffic.count_closed(self.endpoint, code)
        self.gone(connection)
        log.info(
            "connection.closed",
            connection_id=connection.id,
            endpoint=self.request.path,
            user_id=connection.user_id,
            close_code=code,
            duration_ms=round((time.monotonic() - connection.opened_at) * 1000, 1),
        )

    def _on_breach(self, code: CloseCode) -> None:
        """Send nothing more: the protocol closes by itself."""
        if self.connection is not None:
            self.connection.closed(code)

    def _token(self) -> str | None:
        token = self.bearer()
        if token:
            return token
        for protocol in self.request.headers.get("Sec-WebSocket-Protocol", "").split(","):
            if protocol.strip().startswith(_BEARER_PROTOCOL):
                return protocol.strip()[len(_BEARER_PROTOCOL) :]
        return self.get_query_argument("token", None)

    def _accept(self, connection: Connection, frame: ClientFrame, size: int) -> None:
        """Act on a frame, now or after those before it."""
        if connection.work is None:
            self._act(connection, frame, connection.last_heard)
            return
        if self._inbox is None:
            self._inbox = collections.deque()
        if len(self._inbox) >= MAX_INBOX or self._inbox_bytes + size > MAX_INBOX_BYTES:
            raise rate_limited(1.0, "frames waiting")
        self._inbox.append((frame, size, connection.last_heard))
        self._inbox_bytes += size

    def _act(self, connection: Connection, frame: ClientFrame, taken_in_at: float) -> None:
        self.taken_in_at = taken_in_at
        self.context.traffic.received[type(frame)] += 1
        try:
            work = self.actions[type(frame)](self, frame)
        except Exception as error:
            self._answer(error, frame)
        else:
            if work is not None:
                self._begin(connection, work, frame)

    def _begin(self, connection: Connection, work: Awaitable[Any], frame: ClientFrame | None = None) -> None:
        """Let the frames to come wait for ``work``. A future needs no task, a good part of a message's cost."""
        connection.work = asyncio.ensure_future(work)
        connection.work.add_done_callback(lambda ended: self._end(connection, ended, frame))

    def _end(self, connection: Connection, work: "asyncio.Future[Any]", frame: ClientFrame | None) -> None:
        self.report(work, frame)
        connection.work = None
        while self._inbox and connection.work is None:
            waiting, size, taken_in_at = self._inbox.popleft()
            self._inbox_bytes -= size
            self._act(connection, waiting, taken_in_at)

    def report(self, work: "asyncio.Future[Any]", frame: ClientFrame | None = None) -> None:
        """Answer what went wrong with work that has ended; without a ``frame`` to answer for, that ends the socket."""
        error = None if work.cancelled() else work.exception()
        if isinstance(error, Exception):
            self._answer(error, frame)

    def _over_rate(self, connection: Connection, wait_s: float) -> None:
        now = connection.last_heard
        if now - self._limited_at > _FRAME_PAUSE_S:
            self._limited_since = now
        self._limited_at = now
        is_ignored = now - self._limited_since >= _IGNORED_FOR_S
        self._tell(rate_limited(wait_s, "frames"), close=CloseCode.LIMIT if is_ignored else None)

    def _answer(self, error: Exception, frame: ClientFrame | None = None) -> None:
        """Tell what went wrong with a frame, or (None) with the connection, which that ends."""
        if isinstance(error, AppError):
            self._tell(error, frame, close=error.close or (None if frame else CloseCode.TRY_LATER))
            return
        # A fault of ours: logged with its ids, answered without its inside.
        connection = self.connection
        log.error(
            "frame.failed",
            exc_info=error,
            connection_id=connection.id if connection else None,
            user_id=connection.user_id if connection else None,
            frame_type=str(frame.__struct_config__.tag) if frame else None,
        )
        fault = AppError(ErrorCode.INTERNAL, "Something went wrong on our side.")
        self._tell(fault, frame, close=None if frame else CloseCode.INTERNAL)

    def _answer_bad_frame(self, error: AppError) -> None:
        too_many = error.code is not ErrorCode.RATE_LIMITED and self._too_many_bad_frames()
        self._tell(error, close=CloseCode.BAD_FRAMES if too_many else None)

    def _tell(self, error: AppError, frame: ClientFrame | None = None, *, close: CloseCode | None = None) -> None:
        """Send the error frame; ``error`` may be other callers' too, so it stays as it is."""
        connection = self.connection
        if connection is None:
            return
        about = {} if frame is None else {"request_type": str(frame.__struct_config__.tag)}
        for name in ("conversation_id", "client_message_id"):
            value = getattr(frame, name, None)
            if value is not None:
                about[name] = str(value)
        self.context.traffic.errors[error.code.name] += 1
        connection.send_now(error_frame(error, **about))
        if close is not None:
            connection.close(close)

    def _too_many_bad_frames(self) -> bool:
        if self._bad_frames is None:
            self._bad_frames = collections.deque(maxlen=BAD_FRAMES + 1)
        self._bad_frames.append(time.monotonic())
        full = len(self._bad_frames) > BAD_FRAMES
        return full and self._bad_frames[-1] - self._bad_frames[0] < BAD_FRAMES_WITHIN_S
