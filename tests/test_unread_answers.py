"""Answers that nobody reads: they are memory, so there is a time and a most for them."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.harness import Server, token, until

Start = Callable[..., Awaitable[Server]]
# A page of history as large as can be.
MESSAGES, TEXT = 200, "\U0001f600" * 4000


async def history(server: Server) -> tuple[str, str]:
    """Return somebody, and the address of a page of 3 MiB that they may read."""
    alice, _, chat = await server.pair()
    server.sql(
        "INSERT INTO messages (conversation_id, sender_id, text) SELECT %s, %s, %s FROM generate_series(1, %s)",
        chat, alice, TEXT, MESSAGES,
    )  # fmt: skip
    return alice, f"/api/conversations/{chat}/messages?limit={MESSAGES}"


@contextlib.asynccontextmanager
async def asking(server: Server, user: str, path: str) -> AsyncIterator[socket.socket]:
    """Ask for something, and read nothing by itself of what comes."""
    asker = socket.socket()
    asker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asker.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(asker, ("127.0.0.1", server.port))
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token(user)}\r\n\r\n"
        await loop.sock_sendall(asker, request.encode())
        yield asker
    finally:
        asker.close()


def open_to(server: Server) -> int:
    """Return how many TCP connections of HTTP there are."""
    return len(server.app.http._connections)


async def test_who_reads_nothing_is_let_go_of(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """After REQUEST_TIMEOUT_S, and as long as the answer takes at a slow phone's pace."""
    monkeypatch.setattr("handlers.unread._SLOWEST_BYTES_A_S", 2**22)
    server = await start(request_timeout_s=0.5)
    alice, path = await history(server)
    async with asking(server, alice, path):
        await until(lambda: server.app.context.traffic.answers[200])
        began = time.monotonic()
        await until(lambda: not open_to(server))
        assert time.monotonic() - began > 0.9


async def test_who_reads_slowly_gets_it_all(start: Start) -> None:
    """The time is for the whole answer, and grows with it."""
    server = await start(request_timeout_s=0.5)
    alice, path = await history(server)
    received = 0
    async with asking(server, alice, path) as asker:
        while received < MESSAGES * 16_000:
            received += len(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(asker, 32_768), 2))
            await asyncio.sleep(0.01)


async def test_what_one_person_leaves_unread_is_bounded(server: Server) -> None:
    """However many connections they ask by; who reads is not concerned, and what was taken counts no more."""
    alice, path = await history(server)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(12):
            await stack.enter_async_context(asking(server, alice, path))
        await until(lambda: server.app.context.traffic.answers[200] == 12)
        await until(lambda: open_to(server) <= 3)
        bob = await server.person()
        assert (await server.rest("GET", "/api/conversations", user=bob)).status == 200
    await until(lambda: not server.app.context.unread)
    for _ in range(3):
        assert len((await server.rest("GET", path, user=alice)).body["messages"]) == MESSAGES
    assert not server.app.context.unread


async def test_a_socket_is_no_answer(start: Start) -> None:
    """Its handshake is answered, and it stays open."""
    server = await start(request_timeout_s=0.2)
    alice, _, _ = await server.pair()
    sockets = [await server.messages(alice), await server.events()]
    await asyncio.sleep(0.5)
    for each in sockets:
        assert await each.flush() == []
    assert not server.app.context.unread
