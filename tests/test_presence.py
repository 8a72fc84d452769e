"""Presence: per person, not per socket, with a grace."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from tests.harness import Client, Server, token, until
from tests.test_messages import MOMENT

Start = Callable[..., Awaitable[Server]]


def presence(frames: list[dict[str, Any]], user: str) -> list[bool]:
    """Return what frames say about a person: online or not, in order."""
    return [frame["isOnline"] for frame in frames if frame["type"] == "presence.update" and frame["userId"] == user]


async def greeted(server: Server, user: str) -> dict[str, Any]:
    """Open a device and return its ``connected``."""
    client = await server.socket("/messages/subscribe", token=token(user))
    return await client.get("connected")


async def test_coming_and_going_is_told_in_every_shared_conversation(server: Server) -> None:
    """presence.update: every field, once a shared conversation; lastSeenAt only when offline; not to strangers."""
    alice, bob, chat = await server.pair()
    group = await server.conversation(alice, bob, await server.person())
    theirs, other = await server.messages(bob), await server.messages(await server.person())
    before = datetime.now(UTC)
    phone = await server.messages(alice)
    online = [await theirs.get("presence.update") for _ in range(2)]
    await phone.close()
    offline = [await theirs.get("presence.update") for _ in range(2)]
    for frames, is_online in ((online, True), (offline, False)):
        assert {frame["conversationId"] for frame in frames} == {chat, group}
        for frame in frames:
            assert frame["userId"] == frame["senderId"] == alice
            assert frame["isOnline"] is is_online
            assert MOMENT.fullmatch(frame["timestamp"])
            assert frame.keys() - {"lastSeenAt"} == {
                "type", "conversationId", "userId", "senderId", "isOnline", "timestamp",
            }  # fmt: skip
            assert ("lastSeenAt" in frame) is not is_online
    seen_at = datetime.fromisoformat(offline[0]["lastSeenAt"])
    # When the last socket closed, not when the grace was over (0.1 s here).
    assert (before - seen_at).total_seconds() < 0.001
    assert (datetime.fromisoformat(offline[0]["timestamp"]) - seen_at).total_seconds() >= 0.09
    assert presence(await other.flush(), alice) == []
    assert presence(phone.seen, alice) == []


async def test_a_second_device_is_no_event(server: Server) -> None:
    """Online with the first socket, offline with the last: what comes and goes in between is told to nobody."""
    alice, bob, _ = await server.pair()
    theirs = await server.messages(bob)
    phone = await server.messages(alice)
    await theirs.get("presence.update", userId=alice, isOnline=True)
    laptop = await server.messages(alice)
    await phone.close()
    await theirs.nothing("presence.update", within=0.3)
    await laptop.close()
    await theirs.get("presence.update", userId=alice, isOnline=False)


async def test_a_quick_reconnect_is_no_event(start: Start) -> None:
    """Offline only PRESENCE_GRACE_S after the last socket closed: a reconnect within it is told to nobody."""
    server = await start(presence_grace_s=2)
    alice, bob, _ = await server.pair()
    theirs = await server.messages(bob)
    phone = await server.messages(alice)
    await theirs.get("presence.update", userId=alice, isOnline=True)
    for _ in range(3):
        await phone.close()
        phone = await server.messages(alice)
    await theirs.nothing("presence.update", within=2.3)
    await phone.close()
    await theirs.nothing("presence.update", within=0.2)
    await theirs.get("presence.update", userId=alice, isOnline=False)


async def test_connected_names_who_is_online(start: Start) -> None:
    """onlineUserIds: who shares a conversation and is online, within the grace too; no strangers, not oneself."""
    server = await start(presence_grace_s=2)
    alice, bob, chat = await server.pair()
    carol = await server.person()
    await server.conversation(alice, carol)
    await server.messages(await server.person())
    assert (await greeted(server, alice))["onlineUserIds"] == []
    theirs, hers = await server.messages(bob), await server.messages(carol)
    assert (await greeted(server, alice))["onlineUserIds"] == sorted([bob, carol])
    await theirs.close()
    assert (await greeted(server, alice))["onlineUserIds"] == sorted([bob, carol])
    phone = await server.messages(alice)
    await phone.get("presence.update", userId=bob, isOnline=False)
    assert (await greeted(server, alice))["onlineUserIds"] == [carol]
    assert (await greeted(server, bob))["onlineUserIds"] == [alice]
    await phone.get("presence.update", userId=bob, isOnline=True, conversationId=chat)
    await hers.flush()


async def test_the_event_stream_is_not_presence(server: Server) -> None:
    """Online is who has an open messaging socket: a socket of the event stream is none."""
    alice, bob, _ = await server.pair()
    theirs = await server.messages(bob)
    await server.events(token=token(alice))
    await theirs.nothing("presence.update")
    assert (await greeted(server, bob))["onlineUserIds"] == []


async def test_a_dropped_connection_is_an_event_too(server: Server) -> None:
    """A socket that ends without a close frame ends its person's presence."""
    alice, bob, _ = await server.pair()
    theirs, phone = await server.messages(bob), await server.messages(alice)
    await theirs.get("presence.update", userId=alice, isOnline=True)
    connection = phone.socket.protocol
    assert connection is not None
    connection.stream.close()
    await theirs.get("presence.update", userId=alice, isOnline=False)


async def test_a_new_conversation_tells_who_of_it_is_online(server: Server) -> None:
    """Presence flows in a conversation from its beginning, in both directions, without a join."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    phone, theirs = await server.messages(alice), await server.messages(bob)
    chat = await server.conversation(alice, bob, carol)
    for client, other in ((phone, bob), (theirs, alice)):
        await client.get("conversation.new")
        await client.get("presence.update", userId=other, conversationId=chat, isOnline=True)
        assert presence(await client.flush(), other) == []
    hers = await server.messages(carol)
    for client in (phone, theirs):
        await client.get("presence.update", userId=carol, conversationId=chat, isOnline=True)
    await hers.close()
    for client in (phone, theirs):
        await client.get("presence.update", userId=carol, conversationId=chat, isOnline=False)


async def test_flapping_ends_in_the_truth(start: Start) -> None:
    """Devices come and go as they like: events alternate, the last one is right, and nobody is left in a room."""
    server = await start(presence_grace_s=0.01)
    alice, bob, _ = await server.pair()
    theirs = await server.messages(bob)

    async def flap() -> None:
        for _ in range(8):
            client = await server.socket("/messages/subscribe", token=token(alice))
            client.socket.close()
            await client.closed()

    await asyncio.gather(*(flap() for _ in range(3)))
    phone = await server.messages(alice)
    await phone.close()
    await until(lambda: alice not in server.app.registry.people)
    await theirs.flush()
    events = presence(theirs.seen, alice)
    assert events == [number % 2 == 0 for number in range(len(events))]
    assert events[-1] is False


async def rooms(server: Server) -> dict[str, int]:
    """Return the counts of the public statistics."""
    body = (await server.rest("GET", "/messages/stats")).body
    return {name: body[name] for name in ("totalClients", "totalRooms", "onlineUsers")}


async def test_who_leaves_while_connecting_leaves_nothing_behind(start: Start) -> None:
    """Clients, rooms and people are counted from what is open: a socket that closes before connected counts no more."""
    server = await start(presence_grace_s=0)
    alice, _, _ = await server.pair()
    with server.locked("conversation_participants"):
        clients: list[Client] = [await server.socket("/messages/subscribe", token=token(alice)) for _ in range(2)]
        await until(lambda: len(server.app.registry.people) == 1)
        for client in clients:
            await client.close()
        await until(lambda: not server.app.registry.people)
    await until(lambda: not server.app.registry.connections)
    # One more visit: what was asked of the store before it has been answered by then.
    await (await server.messages(alice)).close()
    await until(lambda: not server.app.registry.people)
    assert await rooms(server) == {"totalClients": 0, "totalRooms": 0, "onlineUsers": 0}


async def test_the_counts_follow_who_is_connected(server: Server) -> None:
    """GET /messages/stats: sockets, conversations with somebody online, and people online."""
    alice, bob, _ = await server.pair()
    await server.conversation(alice, await server.person())
    clients = [await server.messages(one) for one in (alice, alice, bob)]
    assert await rooms(server) == {"totalClients": 3, "totalRooms": 2, "onlineUsers": 2}
    for client in clients:
        await client.close()
    await until(lambda: not server.app.registry.people)
    assert await rooms(server) == {"totalClients": 0, "totalRooms": 0, "onlineUsers": 0}
