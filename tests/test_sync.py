"""``sync``: all that is newer than what a client has, in order."""

import asyncio
import uuid
from typing import Any

from tests.harness import Client, Server
from tests.test_replay import Start, check_order, fill, places


async def synced(client: Client, positions: dict[str, int]) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Sync, and return the places of the messages that came and the sync.complete."""
    await client.send("sync", conversations=positions)
    *frames, complete = await client.all_until("sync.complete")
    assert all(frame["replayed"] for frame in frames if frame["type"] == "message.new")
    return places(frames), complete


async def test_sync_sends_all_that_is_newer(server: Server) -> None:
    """message.new with replayed true for all past each position, one's own included; then sync.complete."""
    alice, bob, chat = await server.pair()
    other = await server.conversation(alice, bob, isGroup=True)
    phone, theirs = await server.messages(alice), await server.messages(bob)
    for client, target in ((phone, chat), (theirs, chat), (phone, other), (phone, chat), (theirs, other)):
        await client.say(target, "x")
    await phone.flush()
    came, complete = await synced(phone, {chat: 1, other: 0})
    assert came == [(chat, 2), (other, 1), (chat, 3), (other, 2)]
    assert complete == {"type": "sync.complete", "count": 4, "truncated": []}
    assert (await synced(phone, {chat: 2}))[0] == [(chat, 3)]
    live = next(frame for frame in theirs.seen if frame["type"] == "message.new" and frame["conversationId"] == other)
    await theirs.flush()
    await theirs.send("sync", conversations={other: 0})
    assert await theirs.get("message.new") == {**live, "replayed": True}


async def test_a_position_at_or_past_the_newest_gives_nothing(server: Server) -> None:
    """A client that has all, or thinks it has more, gets count 0; so does one that asks for no conversation."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 2)
    theirs = await server.messages(bob)
    for positions in ({chat: 2}, {chat: 99}, {chat: 2**63 - 1}, {}):
        assert await synced(theirs, positions) == ([], {"type": "sync.complete", "count": 0, "truncated": []})
    await (await server.messages(alice)).say(chat, "live")
    assert (await theirs.get("message.new"))["seq"] == 3


async def test_sync_moves_no_cursor(server: Server) -> None:
    """What was synced is not delivered before the client says so."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 2)
    theirs = await server.messages(bob)
    await synced(theirs, {chat: 0})
    assert server.sql("SELECT max(delivered_seq) FROM conversation_participants") == [(0,)]


async def test_sync_is_capped(start: Start) -> None:
    """The caps of the replay hold: the oldest come, and truncated names where to go on."""
    server = await start(replay_max_per_conversation=3, replay_max=5)
    alice, bob, chat = await server.pair()
    other = await server.conversation(alice, bob, isGroup=True)
    fill(server, chat, alice, 7)
    fill(server, other, bob, 3)
    theirs = await server.messages(bob)
    came, complete = await synced(theirs, {chat: 0, other: 0})
    assert came == [(chat, 1), (chat, 2), (chat, 3), (other, 1), (other, 2)]
    assert (complete["count"], sorted(complete["truncated"])) == (5, sorted([chat, other]))
    steps = []
    seq, truncated = 0, [chat]
    while truncated:
        came, complete = await synced(theirs, {chat: seq})
        steps.append([place[1] for place in came])
        seq, truncated = came[-1][1], complete["truncated"]
    assert steps == [[1, 2, 3], [4, 5, 6], [7]]


async def test_a_stranger_can_not_sync(server: Server) -> None:
    """NOT_PARTICIPANT, the same as for an id that does not exist, and nothing of any conversation comes."""
    alice, _, chat = await server.pair()
    fill(server, chat, alice, 2)
    stranger = await server.person()
    own = await server.conversation(stranger, alice)
    fill(server, own, alice, 1)
    intruder = await server.messages(stranger, replay="0")
    answers = set()
    for target in (chat, str(uuid.uuid4())):
        for positions in ({target: 0}, {own: 0, target: 0}):
            await intruder.send("sync", conversations=positions)
            error = await intruder.error("NOT_PARTICIPANT")
            assert (error["requestType"], error["conversationId"]) == ("sync", target)
            answers.add(error["message"])
    assert len(answers) == 1
    assert [frame for frame in await intruder.flush() if frame["type"] in ("message.new", "sync.complete")] == []
    # A refused sync holds nothing back afterwards.
    phone = await server.messages(alice)
    await phone.say(own, "live")
    await intruder.get("message.new", seq=2)


async def test_a_wrong_sync_is_named(server: Server) -> None:
    """INVALID_FRAME: no conversations, or wrong ids or positions in it."""
    _, bob, chat = await server.pair()
    theirs = await server.messages(bob)
    for wrong in (None, [], {"x": 0}, {chat: -1}, {chat: "1"}, {chat: 2**63}):
        await theirs.wrong("sync", conversations=wrong)
        assert "conversations" in (await theirs.error("INVALID_FRAME"))["message"]
    await theirs.wrong("sync")
    assert "conversations" in (await theirs.error("INVALID_FRAME"))["message"]


async def test_live_messages_during_a_sync_come_once_and_in_order(server: Server) -> None:
    """Order: a client that syncs from nothing while others write gets each message once, rising."""
    alice, bob, chat = await server.pair()
    fill(server, chat, alice, 100, chars=3000)
    phone, laptop = await server.messages(alice), await server.messages(bob)

    async def write(client: Client) -> None:
        for _ in range(40):
            await client.say(chat, "x")

    async def catch_up() -> None:
        while not writing.done():
            tablet = await server.messages(bob, replay="0")
            await tablet.flush()
            tablet.seen.clear()
            await tablet.send("sync", conversations={chat: 0})
            await tablet.all_until("sync.complete")
            await tablet.flush()
            # What came live before the server took the sync comes again, as asked for.
            while "replayed" not in tablet.seen[0]:
                del tablet.seen[0]
            seqs = check_order(tablet, chat)
            assert seqs == list(range(1, len(seqs) + 1))
            await tablet.close()

    writing = asyncio.gather(write(phone), write(laptop))
    await asyncio.gather(writing, catch_up())


async def test_syncs_and_sends_of_one_socket_are_acted_on_in_order(server: Server) -> None:
    """A sync after a send has it; what is sent after a sync is acked after its sync.complete."""
    alice, _, chat = await server.pair()
    phone = await server.messages(alice)
    for number in range(1, 4):
        await phone.send("message.send", conversationId=chat, text="x", clientMessageId=f"k{number}")
        await phone.send("sync", conversations={chat: number - 1})
    frames = [frame for _ in range(3) for frame in await phone.all_until("sync.complete")]
    told = [(frame["type"], frame.get("seq") or frame["count"]) for frame in frames]
    expected = [[("message.ack", number), ("message.new", number), ("sync.complete", 1)] for number in range(1, 4)]
    assert told == [step for steps in expected for step in steps]
