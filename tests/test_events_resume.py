"""Coming back to the public stream with ``lastEventId``: nothing missed, nothing twice, on one server and on two."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import psycopg2

from tests.bounty_stream import caught_up, ids, new_bounties, new_bounty, old_bounties, set_status, statuses
from tests.harness import Client, Server

Start = Callable[..., Awaitable[Server]]


async def resumed(server: Server, after: int | str, **query: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Come back after an event; return what is sent again, and the replay.complete."""
    client = await server.events(lastEventId=after, **query)
    *events, complete = await client.all_until("replay.complete")
    assert set(complete) == {"type", "count", "lastEventId", "truncated"}
    assert complete["count"] == len(events)
    assert all(event["type"] == "bounty.status" and event["replayed"] is True for event in events)
    return events, complete


def numbers(events: list[dict[str, Any]]) -> list[int]:
    """Return the eventIds."""
    return [event["eventId"] for event in events]


def write_events(dsn: str, bounties: list[str], count: int) -> None:
    """Make ``count`` events, a transaction each, in turn on these bounties."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for place in range(count):
            status = ("in_progress", "completed")[place // len(bounties) % 2]
            cursor.execute("UPDATE bounties SET status = %s WHERE id = %s", (status, bounties[place % len(bounties)]))


async def collect(client: Client, last: int) -> list[int]:
    """Return the eventIds that the client sees, up to ``last``."""
    seen: list[int] = []
    while not seen or seen[-1] < last:
        seen += await ids(client, 1)
    return seen


async def test_nothing_missed(server: Server) -> None:
    """Resuming after the newest event: replay.complete at once, with count 0, and the stream goes on."""
    await old_bounties(server, 2)
    client = await server.events(lastEventId=2)
    complete = await client.frame()
    assert complete == {"type": "replay.complete", "count": 0, "lastEventId": 2, "truncated": False}
    new_bounty(server)
    event = await client.get("bounty.status")
    assert (event["eventId"], "replayed" in event) == (3, False)


async def test_what_was_missed_comes_again(server: Server) -> None:
    """Resuming gives every event after lastEventId, in order, as it was first told but for replayed: true."""
    client = await server.events()
    bounty = new_bounty(server)
    set_status(server, bounty, "in_progress", "completed", "archived")
    live = [await client.get("bounty.status") for _ in range(4)]
    events, complete = await resumed(server, 1)
    assert events == [{**event, "replayed": True} for event in live[1:]]
    assert (complete["lastEventId"], complete["truncated"]) == (4, False)
    assert len((await resumed(server, 0))[0]) == 4


async def test_no_resume_without_being_asked(server: Server) -> None:
    """Without lastEventId nothing is sent again, and there is no replay.complete."""
    await old_bounties(server, 2)
    client = await server.events()
    await client.nothing()


async def test_the_greeting_comes_before_the_replay(server: Server) -> None:
    """connection is the first frame, also of a client that resumes."""
    await old_bounties(server, 1)
    client = await server.socket("/events/subscribe", lastEventId=0)
    assert [frame["type"] for frame in await client.all_until("replay.complete")] == [
        "connection", "bounty.status", "replay.complete",
    ]  # fmt: skip


async def test_resuming_a_narrowed_stream(server: Server) -> None:
    """With bountyId only these bounties' events come again, and lastEventId is still the whole stream's."""
    one, two, other = await old_bounties(server, 3)
    for bounty in (one, other, two, other):
        set_status(server, bounty, "archived", "open")
    await caught_up(server)
    events, complete = await resumed(server, 3, bountyId=[one, two])
    assert [(event["id"], event["eventId"]) for event in events] == [(one, 4), (one, 5), (two, 8), (two, 9)]
    assert complete["lastEventId"] == 11


async def test_more_than_the_cap_gives_the_newest(start: Start) -> None:
    """More than EVENT_REPLAY_MAX missed: the newest of them, and truncated: true; as many as that: all, and false."""
    server = await start(event_replay_max=5)
    one, other = await old_bounties(server, 2)
    set_status(server, one, "archived", "open", "archived", "open", "archived", "open")
    await caught_up(server)
    events, complete = await resumed(server, 2)
    assert (numbers(events), complete["truncated"], complete["lastEventId"]) == ([4, 5, 6, 7, 8], True, 8)
    events, complete = await resumed(server, 3)
    assert (numbers(events), complete["truncated"]) == ([4, 5, 6, 7, 8], False)
    # Of a narrowed stream only its own events count.
    events, complete = await resumed(server, 0, bountyId=other)
    assert (numbers(events), complete["truncated"]) == ([2], False)


async def test_an_id_ahead_of_the_log(server: Server) -> None:
    """A lastEventId that was never given out (another database's): truncated: true, count 0, and the stream goes on."""
    await old_bounties(server, 2)
    for after in (3, 10**17):
        client = await server.events(lastEventId=after)
        assert await client.frame() == {"type": "replay.complete", "count": 0, "lastEventId": 2, "truncated": True}
    new_bounty(server)
    assert await ids(client, 1) == [3]


async def test_a_bad_last_event_id_is_named(server: Server) -> None:
    """A lastEventId that is no number gets an error naming it; nothing is sent again, and the socket lives."""
    await old_bounties(server, 2)
    clients = []
    for wrong in ("", "-1", "x", "1.5", "0x1", "1e3", "²", "9" * 30, "1;2"):
        client = await server.events(lastEventId=wrong)
        assert "lastEventId" in (await client.error("INVALID_FRAME"))["message"]
        clients.append(client)
    marker = new_bounty(server)
    for client in clients:
        assert await statuses(client, 1) == [(marker, "open")]
        await client.send("ping", ts=1)
        await client.get("pong")
        assert [frame["type"] for frame in client.seen].count("bounty.status") == 1


async def test_commands_during_a_resume_are_kept(server: Server) -> None:
    """What a client sends before its replay is over is acted on after it, in order."""
    one, other = await old_bounties(server, 2)
    new_bounties(server, 300)
    await caught_up(server)
    client = await server.socket("/events/subscribe", lastEventId=0)
    await client.send("subscribe", bountyIds=[one])
    await client.send("ping", ts=1)
    kinds = [frame["type"] for frame in await client.all_until("pong")]
    assert kinds == ["connection", *["bounty.status"] * 302, "replay.complete", "subscribed", "pong"]
    for bounty in (other, one):
        set_status(server, bounty, "archived")
    assert await statuses(client, 1) == [(one, "archived")]


async def test_events_during_a_resume_come_once_and_in_order(server: Server) -> None:
    """While a writer runs, each client that resumes sees every event after its lastEventId once, in order."""
    bounties = await old_bounties(server, 3)
    last = 3 + 14 * 18
    readers = []
    for _ in range(14):
        writing = asyncio.create_task(asyncio.to_thread(write_events, server.dsn, bounties, 18))
        while not writing.done():
            after = len(readers) % 4
            client = await server.events(lastEventId=after)
            readers.append((after, client, asyncio.create_task(collect(client, last))))
            await asyncio.sleep(0.01)
    for after, client, reading in readers:
        assert await reading == list(range(after + 1, last + 1))
        if client.seen[-1].get("replayed"):
            await client.get("replay.complete")
    # It was a race only if some were caught by events in the middle of their replay.
    heads = {client.seen[0]["lastEventId"] for _, client, _ in readers}
    assert len(heads) > 5
    for _, client, _ in readers:
        _replay_ends_where_it_says(client.seen)


def _replay_ends_where_it_says(frames: list[dict[str, Any]]) -> None:
    complete = next(frame for frame in frames if frame["type"] == "replay.complete")
    replayed = [frame for frame in frames if frame.get("replayed")]
    live = [frame for frame in frames if frame["type"] == "bounty.status" and "replayed" not in frame]
    assert (complete["count"], complete["truncated"]) == (len(replayed), False)
    assert all(frame["eventId"] <= complete["lastEventId"] for frame in replayed)
    assert all(frame["eventId"] > complete["lastEventId"] for frame in live)
    assert frames.index(complete) == 1 + len(replayed)


async def test_a_narrowed_resume_during_events(server: Server) -> None:
    """While a writer runs, each client that resumes one bounty sees each of its events once, in order."""
    bounties = await old_bounties(server, 3)
    mine, last = bounties[1], 3 + 150
    writing = asyncio.create_task(asyncio.to_thread(write_events, server.dsn, bounties, 150))
    clients: list[Client] = []
    while not writing.done():
        clients.append(await server.events(lastEventId=0, bountyId=mine))
        await asyncio.sleep(0.02)
    assert await caught_up(server) == last
    logged = server.sql("SELECT event_id FROM bounty_events WHERE bounty_id = %s ORDER BY 1", mine)
    assert len(logged) == 51
    for client in clients:
        assert await ids(client, 51) == [event_id for (event_id,) in logged]


# Two servers on one database


async def test_two_servers_tell_the_same(start: Start) -> None:
    """Each client of each of two servers sees each event once, under the same eventId, in the same order."""
    servers = [await start(), await start()]
    clients = [await server.events() for server in servers for _ in range(2)]
    first, second = new_bounty(servers[0]), new_bounty(servers[1])
    writing = [asyncio.to_thread(write_events, servers[0].dsn, [bounty], 60) for bounty in (first, second)]
    await asyncio.gather(*writing)
    seen = [[await client.get("bounty.status") for _ in range(122)] for client in clients]
    assert numbers(seen[0]) == list(range(1, 123))
    for other in seen[1:]:
        assert other == seen[0]


async def test_moving_between_two_servers(start: Start) -> None:
    """A client that goes from one server to the other and back with lastEventId sees nothing twice or never."""
    servers = [await start(), await start()]
    bounties = await old_bounties(servers[0], 2)
    writing = asyncio.create_task(asyncio.to_thread(write_events, servers[0].dsn, bounties, 150))
    seen, last, moves = [2], 2 + 150, 0
    while seen[-1] < last:
        moves += 1
        client = await servers[moves % 2].events(lastEventId=seen[-1])
        seen += await ids(client, min(3, last - seen[-1]))
        client.socket.close()
        assert client.seen[-1]["type"] == "bounty.status"
    await writing
    assert seen == list(range(2, last + 1))
    assert not any(frame.get("truncated") for frame in client.seen)


async def test_a_server_that_was_behind_catches_up(start: Start) -> None:
    """A new server begins at the log's end: what was written before is history, what comes after is live."""
    first = await start()
    bounty = (await old_bounties(first, 1))[0]
    server = await start()
    client = await server.events()
    assert client.seen[0]["lastEventId"] == 1
    set_status(server, bounty, "archived")
    assert await ids(client, 1) == [2]
