"""Limits: how many connections, how fast, how large, how silent and how slow."""

import asyncio
import struct
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs
from tornado.httpclient import HTTPClientError

from protocol.outbound import text_frame
from tests.harness import Client, Server, token, until
from tests.raw import CLOSE, PING, PONG, TEXT, RawSocket
from tests.test_rate_limiter import Clock

Start = Callable[..., Awaitable[Server]]


def clock_of(server: Server, rate: str) -> Clock:
    """Stop the clock of a rate, so that no token comes while a test takes its time; return it."""
    clock = Clock()
    server.app._rates[rate]._clock = clock
    return clock


async def refused(server: Server, path: str = "/events/subscribe", **query: Any) -> None:
    """Check that one socket more is refused: CONNECTION_LIMIT, then close 4429."""
    client = await server.socket(path, **query)
    await client.error("CONNECTION_LIMIT")
    assert await client.closed() == 4429


async def leaves(server: Server, client: Client) -> None:
    """Close a socket and wait until the server has noticed."""
    open_now = len(server.app.registry.connections)
    await client.close()
    await until(lambda: len(server.app.registry.connections) < open_now)


async def test_sockets_of_a_user(start: Start) -> None:
    """MAX_CONNECTIONS_PER_USER counts both endpoints together; a closed socket frees its place; others are not hit."""
    server = await start(max_connections_per_user=2, max_connections_per_ip=1)
    user = await server.person()
    messages = await server.messages(user)
    await server.events(token=token(user))
    for path in ("/events/subscribe", "/messages/subscribe"):
        await refused(server, path, token=token(user))
    await server.messages(await server.person())
    await leaves(server, messages)
    await server.messages(user)


async def test_attempts_of_a_user_with_too_many_sockets(start: Start) -> None:
    """CONNECT_RATE_PER_10S holds for a user past their cap too, with HTTP 429; within it a user is not counted."""
    server = await start(max_connections_per_user=1, connect_rate_per_10s=2)
    clock_of(server, "connect")
    user = await server.person()
    for _ in range(5):
        await leaves(server, await server.messages(user))
    await server.messages(user)
    for _ in range(2):
        await refused(server, token=token(user))
    with pytest.raises(HTTPClientError) as error:
        await server.socket("/events/subscribe", token=token(user))
    assert error.value.code == 429


async def test_frames_that_wait(server: Server) -> None:
    """What a socket sends while the store is slow waits within bounds of bytes; the rest is RATE_LIMITED."""
    alice, _, chat = await server.pair()
    client = await server.messages(alice)
    with server.locked("conversations"):
        for number in range(8):
            text, send = ("x" * 60_000, client.wrong) if number else ("first", client.send)
            await send("message.send", conversationId=chat, text=text, clientMessageId=str(number))
        for _ in range(3):
            await client.error("RATE_LIMITED")
    await client.get("message.ack", clientMessageId="0")
    for _ in range(4):
        await client.error("INVALID_TEXT")


async def test_sockets_of_an_address(start: Start) -> None:
    """MAX_CONNECTIONS_PER_IP counts only those without a valid token; a closed socket frees its place."""
    server = await start(max_connections_per_ip=2)
    first = await server.events()
    await server.events(token="nonsense")
    await refused(server)
    await refused(server, token=token(str(uuid.uuid4()), exp=1))
    user = await server.person()
    await server.events(token=token(user))
    await server.messages(user)
    await leaves(server, first)
    await server.events()


async def test_sockets_of_the_server(start: Start) -> None:
    """MAX_CONNECTIONS counts all; a closed socket frees its place, a refused one holds none."""
    server = await start(max_connections=2)
    first = await server.events()
    user = await server.person()
    await server.messages(user)
    for _ in range(3):
        await refused(server)
        await refused(server, "/messages/subscribe", token=token(user))
    assert len(server.app.registry.connections) == 2
    await leaves(server, first)
    await server.messages(user)


async def test_attempts_of_an_address(start: Start) -> None:
    """CONNECT_RATE_PER_10S: past it HTTP 429 for those without a valid token, while users still come in."""
    server = await start(connect_rate_per_10s=3)
    clock_of(server, "connect")
    await server.events()
    await server.events(token="nonsense")
    await (await server.socket("/messages/subscribe")).error("AUTH_REQUIRED")
    for path in ("/events/subscribe", "/messages/subscribe"):
        with pytest.raises(HTTPClientError) as caught:
            await server.socket(path, token="nonsense")
        assert caught.value.code == 429 and caught.value.response is not None
        assert caught.value.response.headers["Retry-After"] == "4"
        assert b"RATE_LIMITED" in caught.value.response.body
    await server.messages(await server.person())


async def test_messages_of_a_user(start: Start) -> None:
    """MESSAGE_RATE and MESSAGE_BURST count sends of all a user's sockets and REST together; after the wait it works."""
    server = await start(message_rate=5, message_burst=3)
    clock = clock_of(server, "message")
    alice, bob, chat = await server.pair()
    phone, laptop = await server.messages(alice), await server.messages(alice)
    await phone.say(chat, "1")
    await laptop.say(chat, "2")
    path = f"/api/conversations/{chat}/messages"
    assert (await server.rest("POST", path, {"text": "3"}, user=alice)).status == 201
    await phone.send("message.send", conversationId=chat, text="4", clientMessageId="k4")
    error = await phone.error("RATE_LIMITED")
    assert (error["requestType"], error["conversationId"], error["clientMessageId"]) == ("message.send", chat, "k4")
    assert error["retryAfterMs"] == 200
    answer = await server.rest("POST", path, {"text": "4"}, user=alice)
    assert (answer.status, answer.body["code"], answer.headers["Retry-After"]) == (429, "RATE_LIMITED", "1")
    await (await server.messages(bob)).say(chat, "mine")
    clock.now += 2 * error["retryAfterMs"] / 1000
    assert "duplicate" not in await phone.say(chat, "4", "k4")


async def test_typing_of_a_user(start: Start) -> None:
    """TYPING_RATE and TYPING_BURST: what is past them is dropped in silence."""
    server = await start(typing_rate=0.001, typing_burst=2)
    alice, bob, chat = await server.pair()
    client, other = await server.messages(alice), await server.messages(bob)
    for is_typing in (True, False, True):
        await client.send("typing", conversationId=chat, isTyping=is_typing)
    await other.get("typing.start")
    await other.get("typing.stop")
    answer = await server.rest("POST", f"/api/conversations/{chat}/typing", {"isTyping": True}, user=alice)
    assert (answer.status, answer.body) == (200, {"success": True})
    await other.nothing("typing.start")
    await client.nothing("error")


async def test_frames_of_a_socket(start: Start) -> None:
    """FRAME_RATE and FRAME_BURST count any frame of one socket; a frame past them is not acted on."""
    server = await start(frame_rate=0.5, frame_burst=3)
    clock_of(server, "frame")
    client, other = await server.events(), await server.events()
    await client.send("ping", ts=1)
    await client.raw("nonsense")
    await client.send("ping", ts=2)
    await client.send("ping", ts=3)
    assert [(await client.frame())["type"] for _ in range(3)] == ["pong", "error", "pong"]
    assert (await client.error("RATE_LIMITED"))["retryAfterMs"] == 2000
    await client.nothing("pong")
    await other.send("ping", ts=4)
    await other.get("pong")


async def test_a_limit_that_is_ignored(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rate limits that are ignored for long close with 4429."""
    monkeypatch.setattr("handlers.socket._IGNORED_FOR_S", 0.2)
    server = await start(frame_rate=1, frame_burst=1)
    client = await server.events()

    async def flood() -> None:
        while True:
            await client.send("ping")
            await asyncio.sleep(0.01)

    flooding = asyncio.create_task(flood())
    assert await client.closed() == 4429
    flooding.cancel()
    assert [frame["code"] for frame in client.seen if frame["type"] == "error"][-1] == "RATE_LIMITED"


async def test_a_limit_that_is_heeded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits as told each time is not closed, however often they are over the limit."""
    monkeypatch.setattr("handlers.socket._IGNORED_FOR_S", 0.1)
    monkeypatch.setattr("handlers.socket._FRAME_PAUSE_S", 0.02)
    server = await start(frame_rate=20, frame_burst=1)
    clock = clock_of(server, "frame")
    client = await server.events()
    for _ in range(4):
        await client.send("ping")
        await client.get("pong")
        await client.send("ping")
        wait_s = (await client.error("RATE_LIMITED"))["retryAfterMs"] / 1000
        await asyncio.sleep(wait_s)
        clock.now += 2 * wait_s


async def test_calls_of_a_user(start: Start) -> None:
    """REST_RATE_PER_MINUTE per user, with X-RateLimit-Limit, -Remaining and -Reset, and Retry-After on 429."""
    server = await start(rest_rate_per_minute=3)
    clock_of(server, "rest")
    user = str(uuid.uuid4())
    for left in (2, 1, 0):
        answer = await server.rest("GET", "/api/conversations", user=user)
        assert answer.status == 200
        assert (answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]) == ("3", str(left))
        assert int(answer.headers["X-RateLimit-Reset"]) == 60 - 20 * left
    answer = await server.rest("GET", "/api/conversations", user=user)
    assert (answer.status, answer.body["code"]) == (429, "RATE_LIMITED")
    assert answer.headers["Retry-After"] == "20"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert (await server.rest("GET", "/api/conversations", user=str(uuid.uuid4()))).status == 200


async def test_calls_of_an_address(start: Start) -> None:
    """Calls without a token count for their address, failed attempts to authenticate among them; health does not."""
    server = await start(rest_rate_per_minute=3)
    clock_of(server, "rest")
    await server.rest("GET", "/api/bounties")
    assert (await server.rest("GET", "/api/conversations")).status == 401
    spoilt = {"Authorization": "Bearer nonsense"}
    assert (await server.rest("GET", "/api/conversations", headers=spoilt)).status == 401
    assert (await server.rest("GET", "/api/conversations", headers=spoilt)).status == 429
    assert (await server.rest("GET", "/api/bounties")).status == 429
    health = await server.rest("GET", "/health")
    assert health.status == 200 and "X-RateLimit-Limit" not in health.headers
    assert (await server.rest("GET", "/api/conversations", user=str(uuid.uuid4()))).status == 200


async def test_no_rates_at_all(start: Start) -> None:
    """For a rate, 0 turns it off, whatever the burst."""
    server = await start(message_burst=1, typing_burst=1, frame_burst=1)
    alice, bob, chat = await server.pair()
    client, other = await server.messages(alice), await server.messages(bob)
    for number in range(30):
        await client.say(chat, str(number))
        await client.send("typing", conversationId=chat, isTyping=True)
        await other.get("typing.start")
    answer = await server.rest("GET", "/api/conversations", user=alice)
    assert answer.status == 200 and "X-RateLimit-Limit" not in answer.headers


async def test_a_silent_peer(start: Start) -> None:
    """A peer is pinged after HEARTBEAT_INTERVAL_S of silence, and closed with 4408 after HEARTBEAT_TIMEOUT_S more."""
    server = await start(heartbeat_interval_s=0.1, heartbeat_timeout_s=0.1)
    async with RawSocket.open(server.port) as raw:
        assert (await raw.frame())[0] == TEXT
        assert (await raw.frame())[0] == PING
        assert await raw.closed() == 4408
        raw.send(CLOSE, struct.pack("!H", 4408))
        await until(lambda: not server.app.registry.connections)


async def test_a_peer_that_answers(start: Start) -> None:
    """Pongs, frames and pings are each a sign of life: such a peer stays."""
    server = await start(heartbeat_interval_s=0.05, heartbeat_timeout_s=0.1)
    for opcode, payload in ((PONG, b""), (TEXT, b'{"type":"ping"}'), (PING, b"")):
        async with RawSocket.open(server.port) as raw:
            for _ in range(6):
                while (await raw.frame())[0] != PING:
                    pass
                raw.send(opcode, payload)
            raw.send(TEXT, b'{"type":"ping","ts":"still here"}')
            while b"still here" not in (await raw.frame())[1]:
                pass


async def test_a_failure_in_the_background(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is logged and does not end the work: silent peers are closed after it as before."""
    server = await start(heartbeat_interval_s=0.1, heartbeat_timeout_s=0.1)
    failed = asyncio.Event()

    def fail(_now: float) -> None:
        monkeypatch.undo()
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(server.app.heartbeat, "_sweep", fail)
    with capture_logs() as logged:
        await failed.wait()
        async with RawSocket.open(server.port) as raw:
            assert await raw.closed() == 4408
            raw.send(CLOSE, struct.pack("!H", 4408))
            await until(lambda: not server.app.registry.connections)
    [failure] = [entry for entry in logged if entry["event"] == "background.failed"]
    assert (failure["work"], failure["log_level"]) == ("Heartbeat", "error")


async def test_a_pause_of_the_server(start: Start) -> None:
    """A peer that was pinged just before the server froze can still answer: its time does not run meanwhile."""
    server = await start(heartbeat_interval_s=0.1, heartbeat_timeout_s=0.2)
    async with RawSocket.open(server.port) as raw:
        while (await raw.frame())[0] != PING:
            pass
        time.sleep(1)  # blocks the loop, which is the server's too
        await asyncio.sleep(0.01)
        raw.send(PONG, b"")
        assert (await raw.frame())[0] == PING
        raw.send(TEXT, b'{"type":"ping","ts":"still here"}')
        while b"still here" not in (await raw.frame())[1]:
            pass


async def test_a_peer_that_never_reads(start: Start) -> None:
    """Past MAX_SEND_QUEUE_BYTES a reader is closed with 4408, while everybody else gets everything."""
    server = await start(max_send_queue_bytes=65_536)
    alice, bob, chat = await server.pair()
    others = [await server.messages(alice), await server.messages(bob)]
    connections = server.app.registry.connections
    known = set(connections)
    async with RawSocket.open(server.port, f"/messages/subscribe?token={token(bob)}") as slow:
        await until(lambda: set(connections) - known)
        [connection] = [connection for key, connection in connections.items() if key not in known]
        frame = text_frame(b'{"type":"left","conversationId":"%s"}' % chat.encode() + b" " * 60_000)
        for _ in range(500):  # 30 MB: far more than the kernel takes
            for each in list(connections.values()):
                each.send(frame)
            for other in others:
                await other.get("left")
            if connection.closing:
                break
        assert connection.close_code == 4408
        ack = await others[0].say(chat, "still here")
        assert (await others[1].get("message.new"))["messageId"] == ack["messageId"]
        assert await slow.closed() == 4408
        slow.send(CLOSE, struct.pack("!H", 4408))
        await until(lambda: set(connections) == known)


async def test_frames_arrive_in_order_and_whole(start: Start) -> None:
    """Frames sent straight to the kernel, Tornado's own and its pongs do not mix, with a backlog and without one."""
    server = await start(max_send_queue_bytes=2**25)
    async with RawSocket.open(server.port) as raw:
        await raw.frame()
        [connection] = server.app.registry.connections.values()
        handler: Any = connection._close.__self__  # type: ignore[attr-defined]
        for number in range(0, 400, 2):
            connection.send_now(text_frame(b"%d" % number))
            handler.write_message(str(number + 1))
        assert [int((await raw.frame())[1]) for _ in range(400)] == list(range(400))
        for number in range(3000):
            connection.send_now(text_frame(b"%d " % number + b"x" * 3000))
            if number % 100 == 0:
                raw.send(PING, b"%d" % number)
                await asyncio.sleep(0)
        assert connection.waiting_bytes > 0
        frames = [await raw.frame() for _ in range(3001)]
        texts = [payload for opcode, payload in frames if opcode == TEXT]
        assert texts == [b"%d " % number + b"x" * 3000 for number in range(len(texts))]
        pongs = [payload for opcode, payload in frames if opcode == PONG]
        assert pongs and all(int(payload) % 100 == 0 for payload in pongs)
