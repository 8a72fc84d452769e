"""HTTP and WebSocket byte by byte, for what no proper client would send."""

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator

from tests.harness import SOON_S

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def handshake(path: str = "/events/subscribe", **headers: str) -> bytes:
    """Return a WebSocket's opening request; underscores in the headers' names stand for hyphens."""
    given = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def exchange(port: int, request: bytes, until: bytes | None = None) -> bytes:
    """Send bytes and return what comes back: up to and with ``until``, or (None) to the connection's end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
        return await asyncio.wait_for(_all(reader) if until is None else reader.readuntil(until), SOON_S)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _all(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            answer += chunk
    return answer


class RawSocket:
    """A WebSocket that does only what a test tells it to: it answers no ping and no close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int, path: str = "/events/subscribe", **headers: str) -> AsyncIterator["RawSocket"]:
        """Open one, give it after the handshake, and drop it in the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(handshake(path, **headers))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)
            assert b" 101 " in head, head
            yield cls(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def send(self, opcode: int, payload: bytes = b"", *, final: bool = True, says: int | None = None) -> None:
        """Send a frame, masked; ``says`` is a length that the header states instead of the payload's."""
        size = len(payload) if says is None else says
        first = (0x80 if final else 0) | opcode
        if size < 126:
            head = bytes((first, 0x80 | size))
        elif size < 65536:
            head = struct.pack("!BBH", first, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", first, 0x80 | 127, size)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self.writer.write(head if says is not None else head + mask + masked)

    async def frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload."""
        return await asyncio.wait_for(self._frame(), SOON_S)

    async def closed(self) -> int:
        """Skip frames up to the server's close frame, and return its code."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return int(struct.unpack("!H", payload[:2])[0])

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        assert first & 0x80 and not second & 0x80, "frames of the server are final, and not masked"
        size = second
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0x0F, await self.reader.readexactly(size)
