"""A WebSocket client that sends what it is told to, byte by byte, and takes down what comes back."""

import asyncio
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
WAIT_S = 5.0
# Between the pieces of what a case sends, so that they arrive apart.
_PIECE_S = 0.002

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of that key (RFC 6455, section 1.3)


class Frame(NamedTuple):
    """A frame of the server."""

    opcode: int
    payload: bytes


class End(NamedTuple):
    """How the connection ended: with a close frame of this code (0: without a code; None: no such frame)."""

    code: int | None
    reset: bool = False


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    masked: bool = True,
    length_bytes: int | None = None,
) -> bytes:
    """Return a frame of a client; ``length_bytes`` (0, 2, 8) is a longer form of the length than needed."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    mask_bit = 0x80 if masked else 0
    head = bytes(((0x80 if final else 0) | reserved << 4 | opcode, mask_bit | {0: size, 2: 126, 8: 127}[length_bytes]))
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    if not masked:
        return head + payload
    mask = os.urandom(4)
    long_mask = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ long_mask).to_bytes(size, "big")


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def handshake(path: str = "/", *, method: str = "GET", version: str = "HTTP/1.1", **changes: str | None) -> bytes:
    """Return an opening handshake; a header given as None is left out, underscores stand for hyphens."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    headers.update((name.replace("_", "-"), value) for name, value in changes.items())
    lines = [
        f"{method} {path} {version}",
        *(f"{name}: {value}" for name, value in headers.items() if value is not None),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def answer(port: int, request: bytes) -> tuple[int, str]:
    """Return the status and the head of what a request is answered with."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)).decode("latin-1")
        return int(head.split(" ", 2)[1]), head
    finally:
        writer.transport.abort()


async def talk(port: int, pieces: Sequence[bytes], answers: int | None) -> tuple[list[Frame], End]:
    """Open a WebSocket, send ``pieces``, and return what came back and how it ended.

    After so many ``answers`` the client closes with 1000; None: it leaves that to the server.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        writer.write(handshake())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        assert b" 101 " in head, head
        enough = asyncio.Event()
        sending = asyncio.create_task(_send(writer, pieces, enough))
        try:
            return await asyncio.wait_for(_listen(reader, answers, enough), WAIT_S)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    finally:
        writer.transport.abort()


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Return the next frame, which has to be whole and unmasked."""
    first, size = await reader.readexactly(2)
    assert first & 0xF0 == 0x80 and not size & 0x80, "the server's frames are final, unmasked, without extensions"
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return Frame(first & 0x0F, await reader.readexactly(size))


async def _send(writer: asyncio.StreamWriter, pieces: Sequence[bytes], enough: asyncio.Event) -> None:
    for place, piece in enumerate(pieces):
        if place:
            await asyncio.sleep(_PIECE_S)
        writer.write(piece)
        await writer.drain()
    await enough.wait()
    writer.write(close(1000))


async def _listen(reader: asyncio.StreamReader, answers: int | None, enough: asyncio.Event) -> tuple[list[Frame], End]:
    frames: list[Frame] = []
    code: int | None = None
    try:
        while code is None:
            if len(frames) == answers:
                enough.set()
            received = await read_frame(reader)
            if received.opcode == CLOSE:
                code = int.from_bytes(received.payload[:2], "big")
            else:
                frames.append(received)
        rest = await reader.read()
        assert not rest, f"more came after the close frame: {rest[:40]!r}"
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return frames, End(code, reset=isinstance(error, ConnectionError))
    return frames, End(code)
