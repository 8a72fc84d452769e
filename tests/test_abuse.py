"""Clients that lie, stall or flood, byte by byte: each gets the expected answer, and costs the others nothing."""

import asyncio
import contextlib
import json
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from structlog.testing import capture_logs

from conformance.client import CLOSE, PING, PONG, TEXT, answer, close, frame, handshake, read_frame
from tests.harness import SOON_S, Server, token, until
from tests.raw import RawSocket

Start = Callable[..., Awaitable[Server]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
EVENTS = "/events/subscribe"


@pytest.fixture(autouse=True)
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client sends is a fault of ours: no error and no traceback is logged."""
    with capture_logs() as lines, caplog.at_level(logging.ERROR):
        yield
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert caplog.records == []


@contextlib.asynccontextmanager
async def connected(server: Server, sent: bytes = b"") -> AsyncIterator[Streams]:
    """Open a TCP connection, send, and reset it in the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(sent)
        yield reader, writer
    finally:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def ended_after(streams: Streams, trickle: bytes = b"") -> float:
    """Wait until the server has ended the connection, sending a byte now and then; return the seconds it took."""
    reader, writer = streams
    started = time.monotonic()
    rest = iter(trickle)
    with contextlib.suppress(ConnectionError):
        while not reader.at_eof():
            assert time.monotonic() - started < SOON_S, "it is still open"
            byte = next(rest, None)
            if byte is not None:
                writer.write(bytes((byte,)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(65536), 0.05)
    return time.monotonic() - started


async def closes_with(reader: asyncio.StreamReader) -> tuple[list[str], int]:
    """Return the types and codes of the frames up to the server's close, and its code; then comes the end."""
    kinds: list[str] = []
    async with asyncio.timeout(SOON_S):
        while (received := await read_frame(reader)).opcode != CLOSE:
            if received.opcode == TEXT:
                told = json.loads(received.payload)
                kinds.append(told.get("code", told["type"]))
        assert await reader.read() == b""
    return kinds, int.from_bytes(received.payload[:2], "big")


async def test_whoever_falls_silent_is_ended(start: Start) -> None:
    """By the heartbeat: after the handshake, within a frame, or when bytes trickle in but no frame is ever whole."""
    server = await start(heartbeat_interval_s=0.2, heartbeat_timeout_s=0.2)
    half = frame(TEXT, b"x" * 1000)[:500]
    in_fragments = frame(TEXT, b"x", final=False)
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(server, handshake(EVENTS))) for _ in range(4)]
        for (_, writer), sent in zip(opened, (b"", half, in_fragments, half), strict=True):
            writer.write(sent)
        trickles = (b"", b"", b"", b"x" * 10_000)
        tooks = await asyncio.gather(*(ended_after(*each) for each in zip(opened, trickles, strict=True)))
    # The heartbeat, its sweep, and the time to answer the close frame are 6.4 s; the bytes would trickle for minutes.
    assert max(tooks) < SOON_S
    await until(lambda: not server.app.registry.connections)


async def test_slow_requests_are_ended(start: Start) -> None:
    """Headers, a handshake or a body that come byte by byte get REQUEST_TIMEOUT_S for the whole, not for each byte."""
    server = await start(request_timeout_s=2)
    user = await server.person()
    head = (
        f"POST /api/bounties HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token(user)}\r\nContent-Length: 9000\r\n\r\n"
    )
    async with contextlib.AsyncExitStack() as stack:
        begun = (b"GET /health HTTP/1.1\r\nX-Pad: ", handshake(EVENTS)[:-10], head.encode())
        opened = [await stack.enter_async_context(connected(server, sent)) for sent in begun]
        tooks = await asyncio.gather(*(ended_after(each, b"x" * 9000) for each in opened))
    assert max(tooks) < SOON_S  # a byte each 0.05 s would take minutes
    assert server.sql("SELECT count(*) FROM bounties") == [(0,)]


async def test_connections_that_never_ask_are_ended_and_in_nobody_s_way(start: Start) -> None:
    """Hundreds of them leave everybody else served, and are gone after REQUEST_TIMEOUT_S."""
    server = await start(request_timeout_s=2)
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(server)) for _ in range(300)]
        one, other, conversation_id = await server.pair()
        sender, receiver = await server.messages(one), await server.messages(other)
        await sender.say(conversation_id, "hi")
        await receiver.get("message.new")
        tooks = await asyncio.gather(*(ended_after(each) for each in opened))
    assert max(tooks) < SOON_S


async def test_what_comes_with_the_handshake(server: Server) -> None:
    """In the same packet: good frames are acted on after the greeting, garbage and a second request close with 1002."""
    async with connected(server, handshake(EVENTS) + frame(TEXT, b'{"type":"ping"}')) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        assert [json.loads((await read_frame(reader)).payload)["type"] for _ in range(2)] == ["connection", "pong"]
        writer.write(close(1000))
        assert await closes_with(reader) == ([], 1000)
    for garbage in (b"\x00" * 100, b"\xff" * 100_000, handshake(EVENTS), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
        async with connected(server, handshake(EVENTS) + garbage) as (reader, _):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            _, code = await closes_with(reader)
            assert code == 1002, garbage[:20]
    await until(lambda: not server.app.registry.connections)


async def test_a_socket_that_closes_before_the_greeting_is_forgotten(server: Server) -> None:
    """With the close in the handshake's packet, whatever the query asks for: nothing is kept, nothing is told to it."""
    bounty_id, _ = await server.bounty()
    for query in ("", f"?bountyId={bounty_id}", "?lastEventId=0"):
        for last in (close(1000), b"\xff\xff", frame(TEXT, b'{"type":"subscribe","bountyIds":[]}') + close()):
            async with connected(server, handshake(EVENTS + query) + last) as streams:
                await ended_after(streams)
    await until(lambda: not server.app.registry.connections)
    assert server.app.registry.subscribers(bounty_id) == []


async def test_a_frame_shorter_or_longer_than_it_says(server: Server) -> None:
    """What is left over is read as a frame, and what is missing is taken from the next: both end in a close code."""
    head = bytes((0x81, 0x80 | 5, 0, 0, 0, 0))  # says 5 bytes, masked with zeroes
    for sent, errors, wanted in (
        (head + b"hello world", ["INVALID_JSON"], 1002),
        (head + b"hi" + frame(TEXT, b'{"type":"ping"}'), [], 1007),
    ):
        async with connected(server, handshake(EVENTS) + sent) as (reader, _):
            await reader.readuntil(b"\r\n\r\n")
            kinds, code = await closes_with(reader)
            assert ([kind for kind in kinds if kind != "connection"], code) == (errors, wanted)


async def test_a_body_longer_than_it_says(server: Server) -> None:
    """The rest is read as the next request, which it is not: it does nothing, and ends the connection."""
    user = await server.person()
    body = b'{"title":"cat"}'
    lines = (
        "POST /api/bounties HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token(user)}",
        "Content-Length: 15",
        "",
        "",
    )
    async with connected(server, "\r\n".join(lines).encode() + body * 3 + b"\r\n\r\n") as (reader, _):
        answered = await asyncio.wait_for(reader.read(), SOON_S)
    assert answered.startswith(b"HTTP/1.1 201 ")
    assert answered.count(b"HTTP/1.1 ") <= 2 and b"HTTP/1.1 5" not in answered
    assert server.sql("SELECT count(*) FROM bounties") == [(1,)]


async def test_pings_without_reading_the_pongs(server: Server) -> None:
    """However many, at most one pong waits: then the newest ping is answered, as RFC 6455 (5.5.3) allows."""
    one, other, conversation_id = await server.pair()
    sender, receiver = await server.messages(one), await server.messages(other)
    async with RawSocket.open(server.port) as flood:
        await until(lambda: len(server.app.registry.connections) == 3)
        connection = list(server.app.registry.connections.values())[-1]
        largest = 0
        for _ in range(100):
            flood.writer.write(b"".join(frame(PING, b"x" * 125) for _ in range(400)))
            await flood.writer.drain()
            await asyncio.sleep(0)
            largest = max(largest, len(connection._stream._write_buffer))
        await sender.say(conversation_id, "hi")
        await receiver.get("message.new")
        flood.writer.write(frame(PING, b"the last"))
        async with asyncio.timeout(SOON_S):
            while (await flood.frame()) != (PONG, b"the last"):
                pass
    assert largest < 1000


async def test_commands_without_reading_the_answers(start: Start) -> None:
    """Answers do pile up, so at MAX_SEND_QUEUE_BYTES that ends the connection."""
    server = await start(max_send_queue_bytes=65_536)
    async with RawSocket.open(server.port) as flood:
        await until(lambda: server.app.registry.connections)
        [connection] = server.app.registry.connections.values()
        many = frame(TEXT, b'{"type":"ping","ts":"%s"}' % (b"x" * 64)) * 2000
        async with asyncio.timeout(SOON_S):
            while not connection.closing:
                flood.writer.write(many)
                with contextlib.suppress(ConnectionError):
                    await flood.writer.drain()
                await asyncio.sleep(0)
        assert connection.close_code == 4408
        flood.writer.transport.abort()
        await until(lambda: not server.app.registry.connections)


async def test_a_reset_in_the_middle(server: Server) -> None:
    """Of a handshake, a frame, a body or an answer: the server forgets the connection."""
    user = await server.person()
    messages = f"/messages/subscribe?token={token(user)}"
    for sent in (
        handshake(EVENTS)[:50],
        handshake(messages),
        handshake(EVENTS) + frame(TEXT, b"x" * 1000)[:500],
        handshake(messages) + frame(TEXT, b'{"type":"sync","conversations":{}}') * 50,
        b"POST /api/bounties HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET /api/bounties HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    ):
        for wait_s in (0.0, 0.01):
            async with connected(server, sent):
                await asyncio.sleep(wait_s)
    await until(lambda: not server.app.registry.connections)
    assert (await server.rest("GET", "/health")).status == 200


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (101, {f"X-{number}": "y" for number in range(800)}),
        (101, {"Sec-WebSocket-Protocol": ", ".join(["chat"] * 2000)}),
        (101, {"Sec-WebSocket-Protocol": ",,, ,\t,"}),
        (101, {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=99; a*1=x; a*=y"}),
        (101, {"Sec-WebSocket-Extensions": ';;;"' * 1000}),
        (101, {"Cookie": "; ".join(f"a{number}=b" for number in range(1000))}),
        (101, {"X-Forwarded-For": ", ".join(["10.0.0.1"] * 1000)}),
        (101, {"X-Request-Id": "x" * 9000}),
        (101, {"Authorization": "Bearer " + "x" * 9000}),
        (101, {"Authorization": "Bearer " + "." * 9000}),
        (101, {"Accept-Language": "\xff\xfe" * 100}),
        (400, {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="}),
        (400, {"Host": "a, b"}),
        (400, {"Host": "x/\\y?"}),
        (400, {"Upgrade": "websocket, websocket"}),
        (400, {"Content-Length": "1e3"}),
        (403, {"Origin": "http://[::1"}),
        (403, {"Origin": "x" * 9000}),
        (426, {"Sec-WebSocket-Version": "13, 13"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_absurd_headers(server: Server, status: int, headers: dict[str, str]) -> None:
    """A handshake with them is taken or refused; what is taken is as good as any other."""
    assert (await answer(server.port, handshake(EVENTS, **headers)))[0] == status


async def test_a_flood_behind_a_slow_request(server: Server) -> None:
    """What a client sends while its request is worked on is not even read: it waits with the client."""
    user = await server.person()
    asked = f"GET /api/conversations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token(user)}\r\n\r\n".encode()
    with server.locked("conversations"):
        async with connected(server, asked) as (_, writer):
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(1):
                    for _ in range(400):
                        writer.write(b"x" * 10_000)
                        await writer.drain()
            assert (await server.rest("GET", "/health")).status == 200
    assert (await server.rest("GET", "/api/conversations", user=user)).status == 200
