"""A server that goes away says so, finishes what it has begun, and spreads its clients' return."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

from tests.harness import SOON_S, Client, Server, until

Start = Callable[..., Awaitable[Server]]


async def test_everybody_is_told_and_closed(server: Server) -> None:
    """server.draining with reconnectAfterMs comes just before close 1012, on both endpoints."""
    clients = [await server.events(), await server.messages(await server.person())]
    draining = asyncio.ensure_future(server.app.drain())
    for client in clients:
        frame = await client.get("server.draining")
        assert 0 <= frame["reconnectAfterMs"] <= 1000
        assert await client.closed() == 1012
    await draining
    assert not server.app.registry.connections


async def test_new_connections_are_refused_while_draining(server: Server) -> None:
    """A draining server accepts nobody."""
    await server.events()
    draining = asyncio.ensure_future(server.app.drain())
    await asyncio.sleep(0)
    try:
        await server.events()
    except OSError:
        pass
    else:
        raise AssertionError("it was let in")
    await draining


async def test_the_return_is_spread(server: Server) -> None:
    """reconnectAfterMs differs between clients."""
    clients = [await server.events() for _ in range(12)]
    draining = asyncio.ensure_future(server.app.drain())
    waits = {(await client.get("server.draining"))["reconnectAfterMs"] for client in clients}
    assert len(waits) > 6
    await draining


async def test_what_is_under_way_is_finished(start: Start) -> None:
    """A restart under load loses no acked message and repeats none: every message is acked once or not stored twice."""
    server = await start()
    alice, bob, chat = await server.pair()
    senders = [await server.messages(alice) for _ in range(5)]
    for number, sender in enumerate(senders):
        for turn in range(20):
            key = f"{number}-{turn}"
            await sender.send("message.send", conversationId=chat, text="x", clientMessageId=key)
    await until(lambda: server.sql("SELECT count(*) FROM messages")[0][0] > 0)
    _, *heard = await asyncio.gather(server.app.drain(), *map(everything, senders))
    acked = [frame["clientMessageId"] for frames in heard for frame in frames if is_ack(frame)]
    stored = [row[0] for row in server.sql("SELECT client_message_id FROM messages")]
    assert len(acked) == len(set(acked)) > 0
    assert set(acked) <= set(stored)
    assert len(stored) == len(set(stored))
    after = await start()
    again = await after.messages(alice)
    for key in stored:
        ack = await again.say(chat, "x", key=key)
        assert ack["duplicate"] is True
    reader = await after.messages(bob, replay="0")
    await reader.send("sync", conversations={chat: 0})
    frames = await reader.all_until("sync.complete")
    assert [frame["seq"] for frame in frames if frame["type"] == "message.new"] == list(range(1, len(stored) + 1))


async def test_requests_under_way_are_answered_and_late_sockets_sent_away(server: Server) -> None:
    """What was accepted before the drain is neither cut nor forgotten."""
    alice, _, chat = await server.pair()
    with socket.create_connection(("127.0.0.1", server.port)) as late:
        late.sendall(b"GET /events/subscribe HTTP/1.1\r\nHost: x\r\n")
        with server.locked("messages"):
            path = f"/api/conversations/{chat}/messages"
            sending = asyncio.ensure_future(server.rest("POST", path, {"text": "x"}, user=alice))
            await until(lambda: server.app.context.busy)
            draining = asyncio.ensure_future(server.app.drain())
            await asyncio.sleep(0)
            late.sendall(
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            late.setblocking(False)
            heard = b""
            while b"server.draining" not in heard or b"\x88\x02\x03\xf4" not in heard:  # close, 1012
                heard += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(late, 4096), SOON_S)
            assert not draining.done()
        assert (await sending).status == 201
    await asyncio.wait_for(draining, SOON_S)


async def test_a_client_that_does_not_answer_is_not_waited_for(start: Start) -> None:
    """Draining ends within DRAIN_TIMEOUT_S, whatever clients do."""
    server = await start(drain_timeout_s=0.5)
    client = await server.events()
    client.socket.stream.socket.setblocking(True)
    client.socket.protocol.stream.io_loop.remove_handler(client.socket.protocol.stream.fileno())
    started = time.monotonic()
    await server.app.drain()
    assert time.monotonic() - started < 10, "half of DRAIN_TIMEOUT_S as shipped"
    client.socket.protocol.stream.close()


async def everything(client: Client) -> list[dict[str, object]]:
    """Return all frames of a socket, up to its end."""
    await client.closed()
    return client.seen


def is_ack(frame: dict[str, object]) -> bool:
    """Whether a frame is an ack."""
    return frame["type"] == "message.ack"
