"""The offline queue: what somebody missed, sent again after ``connected``, in order, with what comes in meanwhile."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from tests.harness import Client, Server, token, until

Start = Callable[..., Awaitable[Server]]
Frames = list[dict[str, Any]]


def fill(server: Server, chat: str, sender: str, count: int, chars: int = 5) -> None:
    """Write ``count`` messages with SQL."""
    server.sql(
        "INSERT INTO messages (conversation_id, sender_id, text)"
        " SELECT %s, %s, rpad(n::text || ' ', %s, 'x') FROM generate_series(1, %s) n",
        chat, sender, chars, count,
    )  # fmt: skip


async def device(server: Server, user: str, **query: Any) -> Client:
    """Open a device and leave all that it is sent to be read."""
    return await server.socket("/messages/subscribe", token=token(user), **query)


async def queue(server: Server, user: str) -> tuple[Frames, dict[str, Any]]:
    """Connect, and return the messages of the offline queue and its replay.complete."""
    client = await device(server, user)
    assert (await client.frame())["type"] == "connected"
    *frames, complete = await client.all_until("replay.complete")
    await client.close()
    return [frame for frame in frames if frame["type"] == "message.new"], complete


def places(frames: Frames) -> list[tuple[str, int]]:
    """Return the conversation and seq of each message among frames."""
    return [(frame["conversationId"], frame["seq"]) for frame in frames if frame["type"] == "message.new"]


async def test_the_queue_is_what_others_wrote_oldest_first(server: Server) -> None:
    """After connected: every message of others past the cursor, over all conversations by age; then replay.complete."""
    alice, bob, chat = await server.pair()
    carol = await server.person()
    group = await server.conversation(alice, bob, carol)
    phone, hers, theirs = [await server.messages(one) for one in (alice, carol, bob)]
    live: Frames = []
    for client, target in (
        (phone, chat),
        (hers, group),
        (theirs, group),
        (phone, group),
        (theirs, chat),
        (phone, chat),
    ):
        ack = await client.say(target, "x" * 5, mediaUrl="https://cdn.example/x")
        if client is not theirs:
            live.append(await theirs.get("message.new", messageId=ack["messageId"]))
    await theirs.close()
    frames, complete = await queue(server, bob)
    assert frames == [{**frame, "replayed": True} for frame in live]
    assert places(frames) == [(chat, 1), (group, 1), (group, 3), (chat, 3)]
    assert complete == {"type": "replay.complete", "count": 4, "truncated": []}
    assert all("replayed" not in frame for frame in live)


async def test_undelivered_stays_undelivered_until_marked(server: Server) -> None:
    """The queue comes again until the client says delivered or read, on the socket or over REST."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 4)
    for _ in range(2):
        assert places((await queue(server, bob))[0]) == [(chat, seq) for seq in (1, 2, 3, 4)]
    theirs = await server.messages(bob, replay="0")
    for kind, seq in (("message.delivered", 1), ("message.read", 2)):
        await theirs.send(kind, conversationId=chat, seq=seq)
        await theirs.get(kind)
        assert places((await queue(server, bob))[0]) == [(chat, left) for left in range(seq + 1, 5)]
    last = (await queue(server, bob))[0][-1]["messageId"]
    body = {"messageIds": [last], "status": "delivered"}
    await server.rest("POST", f"/api/conversations/{chat}/messages/status", body, user=bob)
    frames, complete = await queue(server, bob)
    assert (frames, complete["count"]) == ([], 0)
    # To be read over REST is not to be delivered.
    fill(server, chat, alice, 1)
    await server.rest("GET", f"/api/conversations/{chat}/messages", user=bob)
    assert places((await queue(server, bob))[0]) == [(chat, 5)]


async def test_both_devices_get_the_queue(server: Server) -> None:
    """The cursor is the person's: until it moves, each socket gets the queue."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 2)
    await server.messages(bob)
    assert len((await queue(server, bob))[0]) == 2


async def test_replay_0_skips_the_queue(server: Server) -> None:
    """?replay=0: no queue and no replay.complete; live messages come, and the cursor stays."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 3)
    theirs = await device(server, bob, replay="0")
    assert (await theirs.frame())["type"] == "connected"
    assert await theirs.flush() == []
    await (await server.messages(alice)).say(chat, "live")
    message = await theirs.get("message.new", "replay.complete")
    assert message["seq"] == 4
    assert "replayed" not in message
    assert len((await queue(server, bob))[0]) == 4


async def test_the_queue_is_capped_for_each_conversation(start: Start) -> None:
    """REPLAY_MAX_PER_CONVERSATION: the oldest come, the rest is named in truncated and can be synced."""
    server = await start(replay_max_per_conversation=3)
    alice, bob, chat = await server.pair()
    other = await server.conversation(alice, bob, isGroup=True)
    fill(server, chat, alice, 5)
    fill(server, other, alice, 3)
    frames, complete = await queue(server, bob)
    assert places(frames) == [(chat, 1), (chat, 2), (chat, 3), (other, 1), (other, 2), (other, 3)]
    assert complete == {"type": "replay.complete", "count": 6, "truncated": [chat]}


async def test_the_queue_is_capped_in_all(start: Start) -> None:
    """REPLAY_MAX: the oldest of all conversations come; every conversation that is cut is in truncated."""
    server = await start(replay_max=5, replay_max_per_conversation=4)
    alice, bob, first = await server.pair()
    second, third, whole = [await server.conversation(alice, bob, isGroup=True) for _ in range(3)]
    fill(server, whole, alice, 1)
    for chat, count in ((first, 2), (second, 3), (third, 6)):
        fill(server, chat, alice, count)
    frames, complete = await queue(server, bob)
    assert places(frames) == [(whole, 1), (first, 1), (first, 2), (second, 1), (second, 2)]
    assert complete["count"] == 5
    assert sorted(complete["truncated"]) == sorted([second, third])


async def test_live_messages_follow_a_truncated_queue(start: Start) -> None:
    """After a truncated queue live messages come as ever, and sync gets what is between."""
    server = await start(replay_max_per_conversation=2)
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 4)
    theirs = await server.messages(bob)
    await (await server.messages(alice)).say(chat, "live")
    assert (await theirs.get("message.new"))["seq"] == 5
    await theirs.send("sync", conversations={chat: 2})
    *frames, complete = await theirs.all_until("sync.complete")
    assert places(frames) == [(chat, 3), (chat, 4)]
    assert complete["truncated"] == [chat]


async def test_who_was_taken_out_gets_no_queue(server: Server) -> None:
    """Only of one's conversations: what was missed in one that one is no more in does not come."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 2)
    server.sql("DELETE FROM conversation_participants WHERE user_id = %s", bob)
    assert (await queue(server, bob))[0] == []


async def test_more_than_a_slow_readers_cap_is_replayed(start: Start) -> None:
    """A queue of more bytes than MAX_SEND_QUEUE_BYTES comes whole, however slowly its client reads."""
    server = await start(max_send_queue_bytes=65_536, replay_max_per_conversation=800)
    alice, bob, chat = await server.pair()
    count = 800  # of 16 KiB: more than what the kernel takes from us for a client that does not read
    server.sql(
        "INSERT INTO messages (conversation_id, sender_id, text)"
        " SELECT %s, %s, repeat('\N{GRINNING FACE}', 4000) FROM generate_series(1, %s)",
        chat, alice, count,
    )  # fmt: skip
    theirs = await device(server, bob)
    # The client takes nothing in until it is asked to: wait until the server has to wait for it.
    await until(lambda: any(one.lagging for one in server.app.registry.connections.values()))
    frames = await theirs.all_until("replay.complete")
    assert places(frames) == [(chat, seq) for seq in range(1, count + 1)]
    assert all(len(frame["text"]) == 4000 for frame in frames if frame["type"] == "message.new")
    assert frames[-1]["count"] == count
    await theirs.flush()


async def test_what_the_client_says_during_the_replay_is_acted_on(server: Server) -> None:
    """A long replay holds nothing up: a send meanwhile is acked, a ping answered."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 150, chars=4000)
    theirs = await device(server, bob)
    await theirs.send("message.send", conversationId=chat, text="x", clientMessageId="k")
    assert (await theirs.get("message.ack"))["seq"] == 151
    await theirs.get("pong", "replay.complete")
    assert places(theirs.seen) == [(chat, seq) for seq in range(1, 151)]


def check_order(client: Client, chat: str) -> list[int]:
    """Return the seqs that a socket got in a conversation; they have to rise strictly."""
    seqs = [seq for conversation, seq in places(client.seen) if conversation == chat]
    assert seqs == sorted(set(seqs))
    return seqs


async def test_live_messages_during_replays_come_once_and_in_order(server: Server) -> None:
    """Order, replay and live together: while others write, a device that reconnects many times never misses any."""
    alice, bob, chat = await server.pair()
    carol = await server.person()
    group = await server.conversation(alice, bob, carol)
    writers = [await server.messages(one) for one in (alice, alice, carol)]
    dice = random.Random(4711)
    total = 180

    async def write(client: Client, targets: list[str]) -> None:
        for number in range(total // 3):
            await client.say(targets[number % len(targets)], "x" * dice.choice([1, 3000]))

    async def flap() -> None:
        while not writing.done():
            theirs = await device(server, bob)
            for _ in range(dice.randrange(1, 80)):
                try:
                    await theirs.frame(0.2)
                except TimeoutError:  # all has been written
                    break
            await theirs.close()
            for target in (chat, group):
                # None missing: whatever a socket has got, it has got from the first on.
                seqs = check_order(theirs, target)
                assert seqs == list(range(1, len(seqs) + 1))

    writing = asyncio.gather(write(writers[0], [chat]), write(writers[1], [chat, group]), write(writers[2], [group]))
    await asyncio.gather(writing, flap(), flap())
    frames, _ = await queue(server, bob)
    for target in (chat, group):
        assert [seq for conversation, seq in places(frames) if conversation == target] == list(range(1, 91))


async def test_own_messages_of_another_device_fit_into_the_replay(start: Start) -> None:
    """One's own messages from another device, sent while this one catches up, come once, in their place."""
    server = await start(database_pool_size=2)
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 60, chars=4000)
    phone, laptop = await server.messages(alice), await server.messages(bob, replay="0")
    with server.locked("bounties"):
        # One of two connections is stuck, so the laptop's sends get in between the steps of connecting.
        stuck = asyncio.ensure_future(server.rest("GET", "/api/bounties"))
        await until(lambda: server.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        for _ in range(5):
            acks = [f"{uuid.uuid4()}" for _ in range(30)]
            for key in acks:
                await laptop.send("message.send", conversationId=chat, text="x", clientMessageId=key)
            tablet = await device(server, bob)
            # Acted on right after `connected`: where it stands in what the phone hears is where the tablet begins.
            await tablet.send("typing", conversationId=chat, isTyping=True)
            last = [await laptop.get("message.ack") for _ in acks][-1]["seq"]
            await phone.get("typing.start")
            heard = {seq for _, seq in places(await phone.flush())}
            await tablet.all_until("replay.complete")
            await tablet.flush()
            seqs = check_order(tablet, chat)
            assert heard <= set(seqs)
            assert set(range(1, 61)) <= set(seqs)
            assert seqs[-1] <= last
            await tablet.close()
    await stuck


async def test_receipts_and_typing_wait_behind_the_replay(server: Server) -> None:
    """What is told while a socket catches up comes after what it missed, and is not lost."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 100, chars=4000)
    phone, laptop = await server.messages(alice), await server.messages(bob)
    theirs = await device(server, bob)
    await theirs.get("connected")
    await laptop.send("message.read", conversationId=chat, seq=100)
    await phone.get("message.read")
    await theirs.get("message.read")
    assert len(places(theirs.seen)) == 100
