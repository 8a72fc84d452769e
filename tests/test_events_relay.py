"""The relay between the event log and the subscribers: its order, what wakes it, and what it survives."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import connection as PgConnection  # noqa: N812
from psycopg2.extensions import make_dsn

from tests.bounty_stream import caught_up, ids, new_bounties, new_bounty, old_bounties, set_status, statuses
from tests.harness import SOON_S, Client, Server, until

# The relay looks by itself every 2 s; what comes sooner was told by a notification.
POLL_S = 2.0


@contextmanager
def held_open(server: Server, bounty: str, status: str) -> Iterator[PgConnection]:
    """Change a bounty in a transaction that is not committed yet."""
    with closing(psycopg2.connect(server.dsn)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE bounties SET status = %s WHERE id = %s", (status, bounty))
        yield connection


def terminate_backends(server: Server) -> int:
    """End every other connection to the database; return how many there were."""
    ended = server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return len(ended)


@asynccontextmanager
async def cut_off(server: Server) -> AsyncIterator[Any]:
    """Keep the server from its database; yields a cursor that still has it."""
    with closing(psycopg2.connect(server.dsn)) as inside, closing(_at_another_database(server.dsn)) as outside:
        inside.autocommit = outside.autocommit = True
        with inside.cursor() as cursor, outside.cursor() as switch:
            cursor.execute("SELECT current_database()")
            (name,) = cursor.fetchone()
            switch.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            switch.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
                (name, inside.info.backend_pid),
            )
            await until(lambda: not server.app.listener.connected)
            yield cursor
            switch.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def _at_another_database(dsn: str) -> PgConnection:
    return psycopg2.connect(make_dsn(dsn, dbname="postgres"))


async def told_by_notification(server: Server, client: Client) -> None:
    """Check that events come much sooner than the relay would look by itself."""
    bounty = new_bounty(server)
    await client.get("bounty.status", id=bounty)
    started = time.monotonic()
    for status in ("archived", "open", "archived", "open"):
        set_status(server, bounty, status)
        await client.get("bounty.status", id=bounty, status=status)
    assert time.monotonic() - started < 2 * POLL_S


# Order


async def test_transactions_that_commit_out_of_order(server: Server) -> None:
    """eventId is the order of the commits, without a gap, however long a transaction was held open."""
    bounties = await old_bounties(server, 4)
    clients = [await server.events() for _ in range(2)]
    with ExitStack() as stack:
        held = [stack.enter_context(held_open(server, bounty, "completed")) for bounty in bounties[:3]]
        set_status(server, bounties[3], "archived")
        for client in clients:
            assert await ids(client, 1) == [5]
        for connection in reversed(held):
            connection.commit()
            for client in clients:
                await client.get("bounty.status")
    for client in clients:
        told = [(event["id"], event["eventId"]) for event in client.seen[1:]]
        assert told == [(bounty, place) for place, bounty in enumerate(reversed(bounties), 5)]


async def test_a_resume_misses_no_late_commit(server: Server) -> None:
    """An event committed late, though written before one that was told, comes to who resumes after that one."""
    late, early = await old_bounties(server, 2)
    with held_open(server, late, "completed") as held:
        set_status(server, early, "archived")
        assert await caught_up(server) == 3
        held.commit()
    client = await server.events(lastEventId=3)
    assert await statuses(client, 1) == [(late, "completed")]


async def test_concurrent_writers(server: Server) -> None:
    """Under concurrent transactions eventId is gapless, the same for all clients, and each bounty's own order holds."""
    bounties = await old_bounties(server, 6)
    clients = [await server.events() for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(_write, server.dsn, bounty) for bounty in bounties))
    seen = [[await client.get("bounty.status") for _ in range(6 * 20)] for client in clients]
    assert [event["eventId"] for event in seen[0]] == list(range(7, 7 + 6 * 20))
    assert seen[1] == seen[0]
    assert seen[2] == seen[0]
    for bounty in bounties:
        assert [event["status"] for event in seen[0] if event["id"] == bounty] == ["in_progress", "completed"] * 10


def _write(dsn: str, bounty: str) -> None:
    """Make 20 events in 10 transactions, some of which are held open for a moment."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        for _ in range(10):
            for status in ("in_progress", "completed"):
                cursor.execute("UPDATE bounties SET status = %s WHERE id = %s", (status, bounty))
                time.sleep(random.random() * 0.01)
            connection.commit()


async def test_more_events_at_once_than_a_batch(server: Server) -> None:
    """A transaction with thousands of events is told whole, in order."""
    client = await server.events()
    new_bounties(server, 2300)
    assert await ids(client, 2300) == list(range(1, 2301))


# Wake-ups


async def test_events_are_told_at_once(server: Server) -> None:
    """A notification wakes the relay: an event does not wait for its next look."""
    await told_by_notification(server, await server.events())


async def test_an_event_without_a_notification(server: Server) -> None:
    """A row that stands in the log without any notification is told when the relay looks by itself."""
    bounty = (await old_bounties(server, 1))[0]
    client = await server.events()
    server.sql("INSERT INTO bounty_events (bounty_id, status) VALUES (%s, 'archived')", bounty)
    event = await client.get("bounty.status", timeout=POLL_S + SOON_S)
    assert (event["id"], event["status"], event["eventId"]) == (bounty, "archived", 2)


async def test_terminated_backends(server: Server) -> None:
    """After all connections to Postgres were ended, sockets stay open, nothing is lost or told twice."""
    bounty = (await old_bounties(server, 1))[0]
    client = await server.events()
    for first in (2, 4, 6):
        set_status(server, bounty, "archived")
        assert terminate_backends(server) >= 1
        set_status(server, bounty, "open")
        told = [await client.get("bounty.status") for _ in range(2)]
        assert [(event["eventId"], event["status"]) for event in told] == [(first, "archived"), (first + 1, "open")]
    await until(lambda: server.app.listener.connected)
    await told_by_notification(server, client)


async def test_events_written_while_the_database_is_out_of_reach(server: Server) -> None:
    """What was written while the server could not reach Postgres comes once it can, in order; the stream goes on."""
    bounty = (await old_bounties(server, 1))[0]
    client = await server.events()
    async with cut_off(server) as cursor:
        for status in ("in_progress", "completed", "archived"):
            cursor.execute("UPDATE bounties SET status = %s WHERE id = %s", (status, bounty))
        await client.send("ping", ts=1)
        assert (await client.frame())["type"] == "pong"
        await client.nothing()
    assert await statuses(client, 3) == [(bounty, status) for status in ("in_progress", "completed", "archived")]
    assert client.seen[-1]["eventId"] == 4
    await until(lambda: server.app.listener.connected)
    await told_by_notification(server, client)


# Slow subscribers


async def deaf_subscriber(server: Server) -> socket.socket:
    """Subscribe to everything over a socket with a small buffer, and read nothing after the handshake."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(deaf, ("127.0.0.1", server.port))
    lines = (
        "GET /events/subscribe HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
    )  # fmt: skip
    await loop.sock_sendall(deaf, "\r\n".join(lines).encode())
    assert b" 101 " in await loop.sock_recv(deaf, 1024)
    return deaf


async def read_to_the_end(deaf: socket.socket) -> bytes:
    """Return all that was sent to it, until the server's close."""
    loop, data = asyncio.get_running_loop(), b""
    while chunk := await asyncio.wait_for(loop.sock_recv(deaf, 65536), SOON_S):
        data += chunk
        if b"\x88\x02" in data[-200:]:
            break
    return data


async def test_one_that_never_reads_delays_nobody(start: Callable[..., Awaitable[Server]]) -> None:
    """A subscriber that never reads holds up no event of others; past MAX_SEND_QUEUE_BYTES it is closed with 4408."""
    server = await start(max_send_queue_bytes=65_536)
    bounty = (await old_bounties(server, 1))[0]
    with closing(await deaf_subscriber(server)) as deaf:
        other = await server.events(bountyId=bounty)
        for status in ("archived", "open"):
            # Rows as long as a hundred events, for the kernel's own buffers take in megabytes.
            server.sql(
                "INSERT INTO bounty_events (bounty_id, status)"
                " SELECT gen_random_uuid(), repeat('x', 15000) FROM generate_series(1, 250)"
            )
            set_status(server, bounty, status)
            assert await statuses(other, 1) == [(bounty, status)]
        await told_by_notification(server, await server.events())
        assert (await read_to_the_end(deaf)).endswith(b"\x88\x02" + struct.pack("!H", 4408))


async def test_a_burst_does_not_end_a_resume(start: Callable[..., Awaitable[Server]]) -> None:
    """A burst larger than MAX_SEND_QUEUE_BYTES while a client that reads is resuming: it is not closed for it."""
    server = await start(max_send_queue_bytes=65_536)
    new_bounties(server, 1500)
    await caught_up(server)
    client = await server.events(lastEventId=0)
    complete = await client.get("replay.complete")
    assert (complete["count"], complete["lastEventId"], complete["truncated"]) == (1000, 1500, True)
