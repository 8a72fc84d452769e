"""Typing, and the rooms of a socket: join and leave."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from tests.harness import SOON_S, Client, Server
from tests.test_messages import MOMENT

TYPING = ("typing.start", "typing.stop")


async def types(client: Client, chat: str, is_typing: bool = True) -> None:
    """Start or stop to type, and wait until the server has acted on it."""
    await client.send("typing", conversationId=chat, isTyping=is_typing)
    await client.flush()


async def heard(client: Client) -> list[str]:
    """Return the typing frames that have come to a socket and were not looked at yet."""
    return [frame["type"] for frame in await client.flush() if frame["type"] in TYPING]


async def test_typing_is_told_to_the_others(server: Server) -> None:
    """typing.start and typing.stop: their fields; to every device of the others, not to one's own, nor strangers."""
    alice, bob, carol, stranger = [await server.person() for _ in range(4)]
    chat = await server.conversation(alice, bob, carol)
    phone, laptop, theirs, hers, other = [await server.messages(one) for one in (alice, alice, bob, carol, stranger)]
    tablet = await server.messages(bob)
    for is_typing, kind in ((True, "typing.start"), (False, "typing.stop")):
        await types(phone, chat, is_typing)
        for client in (theirs, tablet, hers):
            frame = await client.get(*TYPING)
            assert MOMENT.fullmatch(frame.pop("timestamp"))
            assert frame == {"type": kind, "conversationId": chat, "senderId": alice}
        for client in (phone, laptop, other):
            assert await heard(client) == []


async def test_repeated_starts_are_merged(server: Server) -> None:
    """Starts within 3 s are told once, from any of one's devices; after a stop the next start is told again."""
    alice, bob, chat = await server.pair()
    phone, laptop, theirs = [await server.messages(one) for one in (alice, alice, bob)]
    for client in (phone, phone, laptop):
        await types(client, chat)
    assert await heard(theirs) == ["typing.start"]
    await types(phone, chat, is_typing=False)
    await types(phone, chat, is_typing=False)
    await types(phone, chat)
    assert await heard(theirs) == ["typing.stop", "typing.start"]


async def test_who_goes_on_typing_is_told_again_after_3_s(start: Callable[..., Awaitable[Server]]) -> None:
    """The merge ends after 3 s; and each start puts off the stop, so there is none in between."""
    server = await start(typing_ttl_s=2)
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    began = time.monotonic()
    told: list[str] = []
    while told != ["typing.start", "typing.start"]:
        assert told in ([], ["typing.start"])
        assert time.monotonic() - began < SOON_S
        await types(phone, chat)
        told += await heard(theirs)
        await theirs.nothing("typing.stop", within=0.1)
        told += [frame["type"] for frame in theirs.seen[-1:] if frame["type"] == "typing.start"]
    assert time.monotonic() - began >= 2.9


async def test_a_stop_follows_by_itself(start: Callable[..., Awaitable[Server]]) -> None:
    """After TYPING_TTL_S of silence the others hear typing.stop, once; over REST too."""
    server = await start(typing_ttl_s=0.2)
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    began = time.monotonic()
    await types(phone, chat)
    await theirs.get("typing.start")
    await theirs.get("typing.stop", senderId=alice, conversationId=chat)
    assert time.monotonic() - began > 0.19
    await server.rest("POST", f"/api/conversations/{chat}/typing", {"isTyping": True}, user=alice)
    assert [(await theirs.get(*TYPING))["type"] for _ in range(2)] == ["typing.start", "typing.stop"]
    await theirs.nothing(*TYPING, within=0.3)


async def test_a_sent_message_stops_typing(server: Server) -> None:
    """A message ends its sender's typing in that conversation: typing.stop comes just before it."""
    alice, bob, chat = await server.pair()
    other = await server.conversation(alice, bob, isGroup=True)
    phone, theirs = await server.messages(alice), await server.messages(bob)
    for over_rest in (False, True):
        await types(phone, chat)
        await types(phone, other)
        if over_rest:
            await server.rest("POST", f"/api/conversations/{chat}/messages", {"text": "x"}, user=alice)
        else:
            await phone.say(chat, "x")
        frames = [frame for frame in await theirs.flush() if frame["type"] in (*TYPING, "message.new")]
        told = [(frame["type"], frame["conversationId"] == chat) for frame in frames]
        starts = [("typing.start", True)] if over_rest else [("typing.start", True), ("typing.start", False)]
        assert told == [*starts, ("typing.stop", True), ("message.new", True)]


async def test_a_disconnect_stops_typing(server: Server) -> None:
    """The close of the socket that types ends it; the close of another device of the same person does not."""
    alice, bob, chat = await server.pair()
    phone, laptop, theirs = [await server.messages(one) for one in (alice, alice, bob)]
    await types(phone, chat)
    await laptop.close()
    assert await heard(theirs) == ["typing.start"]
    await phone.close()
    await theirs.get("typing.stop", senderId=alice)


async def test_no_typing_after_the_disconnect(server: Server) -> None:
    """A typing frame that was waiting when its socket closed starts nothing."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    with server.locked("messages"):
        await phone.send("message.send", conversationId=chat, text="x", clientMessageId="k")
        await phone.send("typing", conversationId=chat, isTyping=True)
        await phone.close()
    await theirs.get("message.new")
    await theirs.nothing(*TYPING)


async def test_a_stop_of_nothing_is_not_told(server: Server) -> None:
    """isTyping false, or a message, of somebody who was not typing tells nobody."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    await types(phone, chat, is_typing=False)
    await phone.say(chat, "x")
    assert await heard(theirs) == []


async def test_typing_over_rest(server: Server) -> None:
    """POST typing: success true; the others hear start and stop, one's own devices nothing."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    path = f"/api/conversations/{chat}/typing"
    for is_typing, kind in ((True, "typing.start"), (False, "typing.stop")):
        answer = await server.rest("POST", path, {"isTyping": is_typing}, user=alice)
        assert (answer.status, answer.body) == (200, {"success": True})
        assert (await theirs.get(*TYPING))["type"] == kind
    assert await heard(phone) == []
    for body in ({}, {"isTyping": "yes"}):
        answer = await server.rest("POST", path, body, user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
        assert "isTyping" in answer.body["message"]


async def test_a_stranger_can_not_join_leave_or_type(server: Server) -> None:
    """NOT_PARTICIPANT: the same answer as for an id that does not exist; nobody hears of it."""
    _, bob, chat = await server.pair()
    stranger = await server.person()
    theirs, intruder = await server.messages(bob), await server.messages(stranger)
    answers = set()
    for target in (chat, str(uuid.uuid4())):
        frames: list[tuple[str, dict[str, Any]]] = [("join", {}), ("leave", {}), ("typing", {"isTyping": True})]
        for kind, fields in frames:
            await intruder.send(kind, conversationId=target, **fields)
            error = await intruder.error("NOT_PARTICIPANT")
            assert (error["requestType"], error["conversationId"]) == (kind, target)
            answers.add(error["message"])
        rest = await server.rest("POST", f"/api/conversations/{target}/typing", {"isTyping": True}, user=stranger)
        assert (rest.status, rest.body["code"]) == (403, "NOT_PARTICIPANT")
        answers.add(rest.body["message"])
    assert len(answers) == 1
    assert await heard(theirs) == []
    await types(theirs, chat)
    assert await heard(intruder) == []


async def test_leave_spares_a_socket_typing_and_presence_only(server: Server) -> None:
    """left: no typing and presence for this socket; messages and receipts go on, and so do its other devices."""
    alice, bob, chat = await server.pair()
    other = await server.conversation(alice, bob, isGroup=True)
    theirs, phone, laptop = [await server.messages(one) for one in (bob, alice, alice)]
    await phone.send("leave", conversationId=chat)
    assert await phone.get("joined", "left") == {"type": "left", "conversationId": chat}
    await types(theirs, chat)
    await theirs.close()
    await laptop.get("presence.update", conversationId=chat, isOnline=False)
    assert await heard(laptop) == []  # both came before the presence
    assert {"typing.start", "typing.stop"} <= {frame["type"] for frame in laptop.seen}
    theirs = await server.messages(bob)
    await theirs.say(chat, "x")
    await theirs.send("message.read", conversationId=chat, seq=1)
    ack = await phone.say(chat, "y")
    await theirs.send("message.read", conversationId=chat, seq=ack["seq"])
    await phone.get("message.read")
    await phone.flush()
    about = [frame["type"] for frame in phone.seen if frame.get("conversationId") == chat]
    assert about == ["left", "message.new", "message.ack", "message.read"]
    # The other conversation of the same people goes on as before.
    assert [frame["isOnline"] for frame in phone.seen if frame.get("conversationId") == other] == [False, True]


async def test_join_gives_typing_and_presence_back(server: Server) -> None:
    """joined: typing and presence come again; joining twice is joining once."""
    alice, bob, chat = await server.pair()
    theirs, phone = await server.messages(bob), await server.messages(alice)
    for kind in ("leave", "leave", "join", "join"):
        await phone.send(kind, conversationId=chat)
    answers = [await phone.get("joined", "left") for _ in range(4)]
    assert [answer["type"] for answer in answers] == ["left", "left", "joined", "joined"]
    assert {answer["conversationId"] for answer in answers} == {chat}
    await types(theirs, chat)
    assert await heard(phone) == ["typing.start"]
    await theirs.close()
    await phone.get("typing.stop")
    await phone.get("presence.update", isOnline=False)


async def test_who_has_left_may_still_write_and_type(server: Server) -> None:
    """leave is about what a socket gets; what it sends goes on."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    await phone.send("leave", conversationId=chat)
    await phone.get("left")
    await types(phone, chat)
    await phone.say(chat, "x")
    assert await heard(theirs) == ["typing.start", "typing.stop"]


async def test_typing_past_its_rate_is_dropped_in_silence(start: Callable[..., Awaitable[Server]]) -> None:
    """TYPING_RATE and TYPING_BURST are per user, all devices together; past them no frame and no error."""
    server = await start(typing_rate=0.001, typing_burst=4)
    alice, bob, chat = await server.pair()
    phone, laptop, theirs = [await server.messages(one) for one in (alice, alice, bob)]
    for client in (phone, laptop, phone, laptop):
        await types(client, chat, True)
        await types(client, chat, False)
    assert await heard(theirs) == ["typing.start", "typing.stop"] * 2
    await asyncio.gather(phone.nothing("error", within=0.05), laptop.nothing("error", within=0.05))
