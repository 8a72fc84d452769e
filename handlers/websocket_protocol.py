"""RFC 6455's rules for what clients send, where Tornado's own reading only drops the TCP connection.

A breach of them is answered with a close frame (1002, 1007, 1009) that the client gets to read. How sockets behave
beyond the RFC stands in ``socket.py``. Tornado does not document the methods overridden and called here, so
``tests/test_conformance.py`` guards each of them by what it does.
"""

import asyncio
import codecs
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

from tornado.httputil import HTTPHeaders
from tornado.util import _websocket_mask
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from protocol.codes import CloseCode

_CONTINUATION, _TEXT, _CLOSE = 0x0, 0x1, 0x8
# What a close without a code counts as (RFC 6455, section 7.1.5). 1006 is none at all: the peer was cut off.
_NO_STATUS = 1005
_OPCODES = frozenset((_CONTINUATION, _TEXT, 0x2, _CLOSE, 0x9, 0xA))
_READ_BYTES = _DRAINED_CHUNK_BYTES = 65_536


class Breach(Exception):
    """A client broke the protocol; ``str(breach)`` goes into the close frame."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StrictProtocol(WebSocketProtocol13):
    """Reads a client's frames and acts on breaches; all else is Tornado's.

    :param on_breach: called with the close code before the close frame goes out.
    """

    # Beside Tornado's own attributes these would make each instance's dict a full one: 1.5 KB a socket.
    __slots__ = ("_at", "_fragments", "_fragments_size", "_input", "_on_breach", "_reading", "_text")

    def __init__(self, handler: WebSocketHandler, params: Any, on_breach: Callable[[CloseCode], None]) -> None:
        super().__init__(handler, mask_outgoing=False, params=params)
        self._on_breach = on_breach
        # What was read and not looked at yet, from `_at` on.
        self._input = b""
        self._at = 0
        self._reading: asyncio.Task[None] | None = None
        # The message whose fragments are being read: its bytes, or (text) what they are in characters.
        self._fragments: list[str | bytes] | None = None
        self._fragments_size = 0
        self._text: codecs.IncrementalDecoder | None = None

    async def _receive_frame_loop(self) -> None:
        # By itself: what awaits us is the whole stack of the handshake, kept for as long as the socket lives.
        self._reading = asyncio.create_task(super()._receive_frame_loop())

    async def _read_bytes(self, n: int) -> bytes:
        """Return ``n`` bytes. What the kernel has is taken at once, so that a frame costs one read, not three."""
        if len(self._input) - self._at < n:
            self._input = self._input[self._at :] + await self.stream.read_bytes(_READ_BYTES, partial=True)
            self._at = 0
            if len(self._input) < n:
                self._input += await self.stream.read_bytes(n - len(self._input))
        start, self._at = self._at, self._at + n
        self._wire_bytes_in += n  # by this the loop counts its turns
        data = self._input[start : self._at]
        if self._at == len(self._input):
            self._input, self._at = b"", 0
        return data

    def _parse_extensions_header(self, headers: HTTPHeaders) -> list[tuple[str, dict[str, str]]]:
        return []  # none is ever agreed on, and Tornado's parser fails on some of what may stand there

    async def _receive_frame(self) -> None:
        try:
            await self._read_frame()
        except Breach as breach:
            await self._fail(breach.code, str(breach))
        except UnicodeDecodeError:
            await self._fail(CloseCode.BAD_DATA, "text that is not UTF-8")

    async def _read_frame(self) -> None:
        first, second = await self._read_bytes(2)
        opcode, size = first & 0x0F, second & 0x7F
        fault = self._fault(first, opcode, second)
        if fault is not None:
            raise Breach(CloseCode.PROTOCOL_ERROR, fault)
        if size >= 126:
            size = int.from_bytes(await self._read_bytes(2 if size == 126 else 8), "big")
        if size + self._fragments_size > self.params.max_message_size and opcode < _CLOSE:
            raise Breach(CloseCode.TOO_BIG, "message too big")
        masked = await self._read_bytes(4 + size)
        data = _websocket_mask(masked[:4], masked[4:])
        if opcode >= _CLOSE:
            if opcode == _CLOSE:
                _check_close(data)
            handled = self._handle_message(opcode, data)
            if opcode == _CLOSE and not data:
                self.close_code = _NO_STATUS
        elif first & 0x80 and self._fragments is None:
            handled = self._run_callback(self.handler.on_message, data.decode() if opcode == _TEXT else data)
        else:
            handled = self._gather(opcode, data, is_final=bool(first & 0x80))
        if handled is not None:
            await handled

    def _fault(self, first: int, opcode: int, second: int) -> str | None:
        """Return what is wrong with a frame by its first two bytes (RFC 6455, sections 5.1 to 5.5)."""
        if first & 0x70:
            return "a reserved bit is set"
        if opcode not in _OPCODES:
            return "an unknown opcode"
        if not second & 0x80:
            return "a frame that is not masked"
        if opcode >= _CLOSE:
            return None if first & 0x80 and second & 0x7F < 126 else "a control frame in fragments or over 125 bytes"
        if (opcode == _CONTINUATION) != (self._fragments is not None):
            return "a fragment out of place"
        return None

    def _gather(self, opcode: int, data: bytes, *, is_final: bool) -> "asyncio.Future[Any] | None":
        """Keep a fragment, and hand the message on with the last one. Text is decoded at once, to fail early."""
        if self._fragments is None:
            self._fragments = []
            self._text = codecs.getincrementaldecoder("utf-8")() if opcode == _TEXT else None
        if data or is_final:  # empty ones without end are to cost nothing
            self._fragments.append(data if self._text is None else self._text.decode(data, is_final))
            self._fragments_size += len(data)
        if not is_final:
            return None
        fragments: list[Any] = self._fragments
        message = b"".join(fragments) if self._text is None else "".join(fragments)
        self._fragments, self._fragments_size, self._text = None, 0, None
        return None if self.client_terminated else self._run_callback(self.handler.on_message, message)

    async def _fail(self, code: CloseCode, reason: str) -> None:
        """Say why and end, in a way that lets the client read it (RFC 6455, section 7.1.7).

        A TCP connection closed with data unread is reset, and the close frame is lost. So what the client still
        sends is read and dropped, until it closes too or Tornado's timer of 5 s, set by ``close``, ends it.
        """
        if self.server_terminated:
            self._abort()
            return
        self.close_code, self.close_reason = code, reason
        self._on_breach(code)
        self.close(code, reason)
        await self.stream.write(b"")  # done when all before it is
        with contextlib.suppress(OSError):
            self.stream.socket.shutdown(socket.SHUT_WR)
        while True:  # to the end of the stream
            await self.stream.read_bytes(_DRAINED_CHUNK_BYTES, partial=True)
            await asyncio.sleep(0)


def _check_close(data: bytes) -> None:
    """Raise ``Breach`` or ``UnicodeDecodeError`` for a close frame that no client may send (RFC 6455, section 7.4)."""
    if not data:
        return
    code = struct.unpack("!H", data[:2])[0] if len(data) > 1 else 0
    is_known = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if not is_known and not 3000 <= code <= 4999:
        raise Breach(CloseCode.PROTOCOL_ERROR, "a close code that is not for sending")
    data[2:].decode()
