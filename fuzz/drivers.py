"""Send inputs to a running server and judge its answers. Each knows what the contract allows, and nothing else."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

from conformance.client import CLOSE, TEXT, Frame, frame, handshake, read_frame
from fuzz.findings import Findings
from fuzz.requests import Request
from protocol.codes import AppError, CloseCode
from protocol.inbound import FrameDecoder

BATCH = 40
_WAIT_S = 15.0
# How long an answer is waited for that need not come: the request is perhaps not whole.
_PERHAPS_S = 0.25
_MAX_FRAME_BYTES = 65_536
_REFUSALS = {"INVALID_JSON", "INVALID_FRAME", "UNKNOWN_TYPE", "INVALID_TEXT"}
_CODES = _REFUSALS | {"NOT_PARTICIPANT", "UNKNOWN_MESSAGE", "AUTH_FAILED", "AUTH_REQUIRED", "RATE_LIMITED"}
# Close codes that bytes of a client may bring about, besides those that it sends itself.
_CLOSES = {1002, 1007, 1009, CloseCode.UNAUTHORIZED, CloseCode.BAD_FRAMES}
_marks = itertools.count()


class Socket:
    """A WebSocket to send batches of text frames on; opened again when it has ended."""

    def __init__(self, port: int, path: str, part: str, decoder: FrameDecoder[Any], findings: Findings) -> None:
        self._port = port
        self._path = path
        self._part = part
        self._decoder = decoder
        self._findings = findings
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send_all(self, texts: Sequence[str]) -> None:
        """Send the texts as text frames: most in batches, alone those that by contract end the connection."""
        whole: list[bytes] = []
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            if len(data) > _MAX_FRAME_BYTES:
                await self._ends_with(data, CloseCode.TOO_BIG)
            elif any("\ud800" <= character <= "\udfff" for character in text):
                await self._ends_with(data, CloseCode.BAD_DATA)
            else:
                whole.append(data)
        for start in range(0, len(whole), BATCH):
            await self._batch(whole[start : start + BATCH])
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _batch(self, batch: list[bytes]) -> None:
        reader, writer = await self._open()
        mark = f"mark {next(_marks)}"
        ping = json.dumps({"type": "ping", "ts": mark}).encode()
        self._findings.count(self._part, len(batch))
        refused = sum(self._is_refused(data) for data in batch)
        writer.write(b"".join(frame(TEXT, data) for data in (*batch, ping)))
        try:
            errors = await asyncio.wait_for(self._until(reader, mark), _WAIT_S)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            self._findings.breach(f"{self._part}: the connection did not live ({error!r})", b" ".join(batch))
            self.close()
            return
        if errors < refused:
            self._findings.breach(f"{self._part}: {refused} bad frames, {errors} errors", b" ".join(batch))

    async def _until(self, reader: asyncio.StreamReader, mark: str) -> int:
        """Return how many frames were refused before the pong of ``mark`` came."""
        errors = 0
        while True:
            received = await read_frame(reader)
            if received.opcode == CLOSE:
                raise ConnectionError(f"closed with {int.from_bytes(received.payload[:2], 'big')}")
            if received.opcode != TEXT:
                continue
            answer = json.loads(received.payload)
            if answer["type"] == "pong" and answer["ts"] == mark:
                return errors
            if answer["type"] == "error":
                self._findings.answered(self._part, answer["code"])
                errors += answer["code"] in _REFUSALS
                if answer["code"] not in _CODES:
                    self._findings.breach(f"{self._part}: {answer}")

    async def _ends_with(self, data: bytes, code: CloseCode) -> None:
        """Send what ends the connection, and see that it does, in this way."""
        reader, writer = await self._open()
        self._findings.count(self._part)
        writer.write(frame(TEXT, data))
        try:
            closed = await asyncio.wait_for(_close_code(reader), _WAIT_S)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            closed = repr(error)
        self._findings.answered(self._part, closed)
        if closed != code:
            self._findings.breach(f"{self._part}: ended with {closed} instead of {int(code)}", data)
        self.close()

    def _is_refused(self, data: bytes) -> bool:
        """Whether the frame is none. What Python's own parser does not take either is none without a doubt."""
        text = data.decode()
        try:
            self._decoder.decode(text)
        except AppError:
            return True
        if not isinstance(json.loads(text), dict):
            self._findings.breach(f"{self._part}: taken as a frame", data)
        return False

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await _connect(self._port, self._path)
        return self._streams


async def unauthenticated(port: int, texts: Sequence[str], findings: Findings) -> None:
    """Send frames on a messaging socket that has no token: it is told so and closed, whatever it sends."""
    part = "frames, before auth"
    findings.count(part, len(texts))
    reader, writer = await _connect(port, "/messages/subscribe")
    try:
        writer.write(b"".join(frame(TEXT, text.encode("utf-8", "replace")[:_MAX_FRAME_BYTES]) for text in texts))
        closed = await asyncio.wait_for(_close_code(reader), _WAIT_S)
        findings.answered(part, closed)
        if closed != CloseCode.UNAUTHORIZED:
            findings.breach(f"{part}: closed with {closed}")
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        findings.breach(f"{part}: {error!r}")
    finally:
        writer.transport.abort()


async def bytes_on_socket(port: int, path: str, part: str, data: bytes, findings: Findings) -> None:
    """Send bytes on an open socket, then end our side: what comes back is whole frames, and a fitting close."""
    findings.count(part)
    reader, writer = await _connect(port, path)
    received: Frame | None = None
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
            writer.write_eof()
        try:
            while True:
                received = await asyncio.wait_for(read_frame(reader), _WAIT_S)
                if received.opcode == CLOSE:
                    break
        except asyncio.IncompleteReadError as error:
            if error.partial:
                findings.breach(f"{part}: half a frame came back", data)
    except (TimeoutError, AssertionError) as error:
        findings.breach(f"{part}: {error!r}", data)
    except OSError:
        findings.answered(part, "reset")
        return
    finally:
        writer.transport.abort()
    if received is None or received.opcode != CLOSE:
        findings.answered(part, "no close")
        return
    code = int.from_bytes(received.payload[:2], "big")
    findings.answered(part, code if code in _CLOSES else "echoed")
    if code not in _CLOSES and code != 0 and not 1000 <= code <= 1014 and not 3000 <= code <= 4999:
        findings.breach(f"{part}: closed with {code}", data)


async def http(port: int, request: Request, findings: Findings) -> None:
    """Send a request: a whole one is answered, and none with a 5xx."""
    part = "HTTP requests"
    findings.count(part)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(request.data)
            await writer.drain()
        wait_s = _WAIT_S if request.is_whole else _PERHAPS_S
        line = (await asyncio.wait_for(reader.readline(), wait_s)).decode("latin-1")
    except (TimeoutError, ConnectionError) as error:
        line = repr(error)
    finally:
        writer.transport.abort()
    status = line.split(" ")[1] if line.startswith("HTTP/1.1 ") else "no answer"
    findings.answered(part, status)
    if status.startswith("5") or (request.is_whole and status == "no answer"):
        findings.breach(f"{part}: answered with {line!r}", request.data)


async def _close_code(reader: asyncio.StreamReader) -> int | str:
    while True:
        received = await read_frame(reader)
        if received.opcode == CLOSE:
            return int.from_bytes(received.payload[:2], "big")


async def _connect(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(handshake(path))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _WAIT_S)
    if b" 101 " not in head:
        raise ConnectionError(f"not opened: {head[:100]!r}")
    return reader, writer
