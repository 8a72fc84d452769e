"""One open WebSocket, as the rest of the server sees it: whose it is, and a bounded way to send to it.

A frame goes straight to the kernel while nothing waits; what the kernel does not take waits here, in order, up to
a cap. Nothing in here parses frames or knows what they mean.
"""

import asyncio
import collections
import socket
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from connections.traffic import Traffic
from protocol.codes import CloseCode

# Frames that wait are handed to the stream in pieces of about this many bytes, so that the rest can still be dropped.
_CHUNK_BYTES = 65_536
# A peer lags behind when more than this part of its cap waits for it.
_LAGS_FROM = 4


class Held(NamedTuple):
    """A frame that arrived while the connection was catching up. ``seq`` is its place in ``stream``, if it has one."""

    stream: str | None
    seq: int
    frame: bytes


class Expiry(NamedTuple):
    """When a token expires: in monotonic seconds, and as the client is told. ``told``: the client knows it is near."""

    at: float
    text: str
    told: bool


class Connection:
    """One open WebSocket.

    :param close: sends a close frame and ends the WebSocket.
    :param max_waiting_bytes: past this many bytes waiting for a slow reader it is closed with 4408.
    :param endpoint: which of the sockets it is.
    :param traffic: where what it sends is counted.
    """

    __slots__ = (
        "_close",
        "_drained",
        "_held",
        "_max_waiting_bytes",
        "_socket",
        "_stream",
        "_traffic",
        "_waiting",
        "_waiting_bytes",
        "_writing",
        "address",
        "close_code",
        "endpoint",
        "expiry",
        "id",
        "last_heard",
        "left_rooms",
        "opened_at",
        "topics",
        "user_id",
        "work",
    )

    def __init__(
        self,
        connection_id: str,
        *,
        user_id: str | None,
        address: str,
        stream: IOStream,
        close: Callable[[int], None],
        max_waiting_bytes: int,
        now: float,
        endpoint: str = "",
        traffic: Traffic | None = None,
    ) -> None:
        self.id = connection_id
        self.user_id = user_id
        self.address = address
        self.endpoint = endpoint
        self.opened_at = now
        self.last_heard = now
        self.close_code: int | None = None
        # When its token expires; None: never.
        self.expiry: Expiry | None = None
        # What is being done for it right now; a draining server lets it end.
        self.work: asyncio.Future[Any] | None = None
        # Rooms whose typing and presence this socket does not want; all others of its user it does.
        self.left_rooms: set[str] | None = None
        # Bounties that this socket's event stream is narrowed to; None means all.
        self.topics: set[str] | None = None
        self._stream = stream
        # TLS has to go through the stream.
        self._socket: socket.socket | None = None if isinstance(stream, SSLIOStream) else stream.socket
        self._close = close
        self._max_waiting_bytes = max_waiting_bytes
        self._traffic = traffic or Traffic()
        self._waiting: collections.OrderedDict[Hashable, bytes] | None = None
        self._waiting_bytes = 0
        self._writing = False
        self._held: list[Held] | None = None
        self._drained: asyncio.Event | None = None

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.close_code is not None or self._stream.closed()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait for the peer to read, frames held back included."""
        return self._waiting_bytes

    @property
    def lagging(self) -> bool:
        """Whether the peer reads more slowly than it is sent to."""
        return self._waiting_bytes > self._max_waiting_bytes // _LAGS_FROM

    def send(self, frame: bytes, stream: str | None = None, seq: int = 0, topic: str | None = None) -> None:
        """Send a whole WebSocket frame, after all that was sent before.

        ``stream`` and ``seq`` say where it stands in an ordered stream (a conversation), for a connection that is
        catching up with that stream right now. Of the frames of one ``topic`` that wait for a peer which lags
        behind, only the newest is kept. Never raises; a peer that is gone or too slow is closed.
        """
        if self._held is not None:
            self._held.append(Held(stream, seq, frame))
            self._count(len(frame))
        else:
            self.send_now(frame, topic)

    def send_now(self, frame: bytes, topic: str | None = None) -> None:
        """Send a frame even while others are held back: answers to this connection alone, and replays."""
        if self.close_code is not None:
            return
        self._traffic.sent += 1
        if self._writing or self._socket is None or self._stream.writing():
            self._enqueue(frame, topic)
            return
        try:
            sent = self._socket.send(frame)
        except (BlockingIOError, InterruptedError):
            self._enqueue(frame, topic)
        except OSError:  # reset by the peer, or closed by the stream; whoever reads from it notices
            return
        else:
            if sent < len(frame):
                self._enqueue(frame[sent:])

    def greet(self, frame: bytes) -> None:
        """Send the first frame. However large, it is no sign of a slow reader: it may wait besides the rest."""
        self._max_waiting_bytes += len(frame)
        self.send_now(frame)

    def send_droppable(self, frame: bytes) -> None:
        """Send a frame that is worth nothing later (typing, presence): not at all to a peer that lags behind."""
        if self.lagging:
            self._traffic.dropped += 1
        else:
            self.send(frame)

    def hold(self) -> None:
        """Hold back what ``send`` is given from now on, until ``release``."""
        self._held = []

    @property
    def holding(self) -> bool:
        """Whether frames are held back."""
        return self._held is not None

    def take_held(self, heads: Mapping[str, int]) -> list[Held]:
        """Take out the held frames whose place is not past ``heads`` ({stream: seq}), in order of arrival."""
        early: list[Held] = []
        later: list[Held] = []
        for held in self._held or ():
            past = held.stream is None or held.seq > heads.get(held.stream, 0)
            (later if past else early).append(held)
        self._held = later
        self._waiting_bytes -= sum(len(held.frame) for held in early)
        return early

    def release(self) -> None:
        """Send what was held back, and hold back no more."""
        held, self._held = self._held or [], None
        self._waiting_bytes -= sum(len(entry.frame) for entry in held)
        for entry in held:
            self.send_now(entry.frame)

    async def drained(self) -> None:
        """Wait until the kernel has taken all that waits, or the connection is closing."""
        while self._writing and not self.closing:
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()

    def close(self, code: CloseCode) -> None:
        """Say why and end the connection, after what waits; a peer too slow for that is not waited for."""
        if self.closing:
            return
        waiting, self._waiting = self._waiting, None
        self.close_code = code
        self._held = None
        if waiting and code is not CloseCode.UNRESPONSIVE:
            self._write(b"".join(waiting.values()))
        self._wake()
        self._close(code)

    def end(self) -> None:
        """End the connection at once, without a word."""
        self._stream.close()

    def closed(self, code: int) -> None:
        """Forget what waits: the WebSocket has ended."""
        if self.close_code is None:
            self.close_code = code
        self._waiting = None
        self._held = None
        self._waiting_bytes = 0
        self._wake()

    def _enqueue(self, frame: bytes, topic: str | None = None) -> None:
        if self._waiting is None:
            self._waiting = collections.OrderedDict()
        superseded = self._waiting.pop(topic, b"") if topic is not None and self.lagging else b""
        if superseded:
            self._traffic.superseded += 1
        key = object() if topic is None or topic in self._waiting else topic
        self._waiting[key] = frame
        self._count(len(frame) - len(superseded))
        if not self._writing and not self.closing:
            self._pump()

    def _count(self, size: int) -> None:
        self._waiting_bytes += size
        if self._waiting_bytes > self._max_waiting_bytes and not self.closing:
            self._traffic.slow_readers += 1
            self.close(CloseCode.UNRESPONSIVE)

    def _pump(self) -> None:
        """Hand the stream the next piece; called again when the kernel has taken it."""
        waiting = self._waiting
        if not waiting:
            self._waiting = None
            self._wake()
            return
        piece: list[bytes] = []
        size = 0
        while waiting and size < _CHUNK_BYTES:
            piece.append(waiting.popitem(last=False)[1])
            size += len(piece[-1])
        self._writing = True
        written = self._write(b"".join(piece))
        if written is not None:
            written.add_done_callback(lambda future: self._on_written(size, future))

    def _write(self, data: bytes) -> "asyncio.Future[None] | None":
        try:
            return self._stream.write(data)
        except StreamClosedError:
            return None

    def _on_written(self, size: int, written: "asyncio.Future[None]") -> None:
        self._writing = False
        self._waiting_bytes = max(0, self._waiting_bytes - size)
        if written.cancelled() or written.exception() is not None or self.closing:
            self._wake()
        else:
            self._pump()

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None
