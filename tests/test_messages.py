"""Sending a message: who hears of it, in which order, once, and only after its commit."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.harness import Client, Server, token

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
EMOJI = "\N{GRINNING FACE}"


async def collect(client: Client, count: int) -> list[int]:
    """Return the seqs of the next ``count`` message.new frames, in order of arrival."""
    return [(await client.get("message.new"))["seq"] for _ in range(count)]


async def refused(client: Client, code: str, **fields: Any) -> dict[str, Any]:
    """Send a message that has to be refused with ``code``."""
    send = client.wrong if code == "INVALID_FRAME" else client.send
    await send("message.send", **fields)
    error = await client.error(code)
    assert error["requestType"] == "message.send"
    return error


def stored(server: Server, conversation_id: str) -> int:
    """Return how many messages a conversation has in Postgres."""
    return int(server.sql("SELECT count(*) FROM messages WHERE conversation_id = %s", conversation_id)[0][0])


async def test_connected_has_all_its_fields(server: Server) -> None:
    """connected: message, userId, conversationIds, timestamp, connectionId, onlineUserIds, interval, expiry."""
    alice, bob, chat = await server.pair()
    carol = await server.person()
    group = await server.conversation(alice, bob, carol)
    await server.messages(carol)
    client = await server.socket("/messages/subscribe", token=token(alice, exp=4102444800))
    connected = await client.frame()
    assert connected.keys() == {
        "type", "message", "userId", "conversationIds", "timestamp",
        "connectionId", "onlineUserIds", "heartbeatIntervalMs", "expiresAt",
    }  # fmt: skip
    assert connected["type"] == "connected"
    assert connected["message"] == "Connected to BountyExpo messaging"
    assert connected["userId"] == alice
    assert sorted(connected["conversationIds"]) == sorted([chat, group])
    assert connected["onlineUserIds"] == [carol]
    assert connected["heartbeatIntervalMs"] == 25_000
    assert connected["expiresAt"] == "2100-01-01T00:00:00.000Z"
    assert MOMENT.fullmatch(connected["timestamp"])
    assert uuid.UUID(connected["connectionId"])


async def test_a_ping_is_answered_with_its_ts(server: Server) -> None:
    """pong: ts as sent, whatever kind of value, and the server's time."""
    client = await server.messages(await server.person())
    for ts in (0, 1767355200123, 12.5, "later", None):
        await client.send("ping", ts=ts)
        pong = await client.get("pong")
        assert pong["ts"] == ts
        assert MOMENT.fullmatch(pong["timestamp"])


async def test_a_message_reaches_every_other_socket_of_every_participant(server: Server) -> None:
    """message.new: to all sockets of all participants, the sender's other ones too, but not to its own or strangers."""
    alice, bob, carol, stranger = [await server.person() for _ in range(4)]
    chat = await server.conversation(alice, bob, carol)
    phone, laptop, theirs, hers, other = [await server.messages(one) for one in (alice, alice, bob, carol, stranger)]
    tablet = await server.messages(bob)
    ack = await phone.say(chat, "hello")
    for client in (laptop, theirs, tablet, hers):
        assert (await client.get("message.new"))["messageId"] == ack["messageId"]
    for client in (phone, other, laptop, theirs):
        assert not [frame for frame in await client.flush() if frame["type"] == "message.new"]


async def test_message_new_and_ack_have_all_their_fields(server: Server) -> None:
    """message.new and message.ack: every field, its type, and what Postgres has."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    first = await phone.say(chat, "first")
    plain = await theirs.get("message.new")
    assert (plain["replyTo"], plain["mediaUrl"]) == (None, None)
    url = "https://cdn.example/cat.jpg?size=1"
    ack = await phone.say(chat, "second", "key-2", replyTo=first["messageId"], mediaUrl=url)
    message = await theirs.get("message.new")
    assert ack == {
        "type": "message.ack", "clientMessageId": "key-2", "messageId": message["messageId"],
        "conversationId": chat, "seq": 2, "timestamp": message["timestamp"],
    }  # fmt: skip
    assert message == {
        "type": "message.new", "conversationId": chat, "messageId": ack["messageId"], "senderId": alice,
        "text": "second", "timestamp": ack["timestamp"], "status": "sent", "seq": 2,
        "replyTo": first["messageId"], "mediaUrl": url, "clientMessageId": "key-2",
    }  # fmt: skip
    assert MOMENT.fullmatch(ack["timestamp"])
    row = server.sql(
        "SELECT conversation_id::text, sender_id::text, text, reply_to::text, media_url, seq, client_message_id,"
        """ to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') FROM messages WHERE id = %s""",
        ack["messageId"],
    )
    assert row == [(chat, alice, "second", first["messageId"], url, 2, "key-2", ack["timestamp"])]


async def test_a_reply_to_no_message_of_the_conversation_is_refused(server: Server) -> None:
    """UNKNOWN_MESSAGE: replyTo is of another conversation, or of none; the error says about what."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    elsewhere = await phone.say(await server.conversation(alice, bob, isGroup=True), "elsewhere")
    for number, target in enumerate((elsewhere["messageId"], str(uuid.uuid4()))):
        fields = {"conversationId": chat, "text": "x", "clientMessageId": f"k{number}", "replyTo": target}
        error = await refused(phone, "UNKNOWN_MESSAGE", **fields)
        assert (error["conversationId"], error["clientMessageId"]) == (chat, f"k{number}")
        answer = await server.rest("POST", f"/api/conversations/{chat}/messages", fields, user=alice)
        assert (answer.status, answer.body["code"]) == (404, "UNKNOWN_MESSAGE")
    assert stored(server, chat) == 0
    assert not [frame for frame in await theirs.flush() if frame.get("conversationId") == chat]


WRONG_FIELDS = [
    ("replyTo", "not-an-id"),
    ("replyTo", 7),
    ("mediaUrl", "ftp://cdn.example/cat.jpg"),
    ("mediaUrl", "javascript:alert(1)"),
    ("mediaUrl", "https://cdn.example/a cat.jpg"),
    ("mediaUrl", "https://cdn.example/" + "x" * 2048),
    ("clientMessageId", ""),
    ("clientMessageId", "k" * 65),
    ("clientMessageId", "a\x00b"),
    ("clientMessageId", 5),
    ("text", 5),
    ("conversationId", "not-an-id"),
    ("conversationId", None),
]


async def test_a_wrong_field_is_named(server: Server) -> None:
    """INVALID_FRAME: the message names the field; nothing is stored and the socket stays open."""
    alice, _, chat = await server.pair()
    phone = await server.messages(alice)
    right = {"conversationId": chat, "text": "x", "clientMessageId": "k"}
    for field, value in WRONG_FIELDS:
        error = await refused(phone, "INVALID_FRAME", **{**right, field: value})
        assert field in error["message"], (field, value, error)
    for field in right:
        error = await refused(phone, "INVALID_FRAME", **{name: right[name] for name in right if name != field})
        assert field in error["message"], error
    assert stored(server, chat) == 0
    await phone.say(chat, "still open", "k")


async def test_a_wrong_field_is_named_over_rest(server: Server) -> None:
    """INVALID_REQUEST, 400: a REST send with a wrong field names it."""
    alice, _, chat = await server.pair()
    for field, value in WRONG_FIELDS[:11]:
        body = {"text": "x", field: value}
        answer = await server.rest("POST", f"/api/conversations/{chat}/messages", body, user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
        assert field in answer.body["message"]
    assert stored(server, chat) == 0


# As JSON: the lone surrogate is an escape, for no UTF-8 holds one.
BAD_TEXTS = [
    '""',
    '" \\n\\t\\u2003"',
    f'"{"x" * 4001}"',
    f'"{EMOJI * 4001}"',
    '"a\\u0000b"',
    '"a\\ud800b"',
    '"\\udc00"',
]


async def test_text_that_is_no_text_is_refused(server: Server) -> None:
    """INVALID_TEXT: empty, only spaces, over 4000 characters, U+0000, a lone surrogate; on the socket and over REST."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    for text in BAD_TEXTS:
        await phone.raw(f'{{"type":"message.send","conversationId":"{chat}","clientMessageId":"k","text":{text}}}')
        error = await phone.error("INVALID_TEXT")
        assert (error["requestType"], error["conversationId"], error["clientMessageId"]) == ("message.send", chat, "k")
        body = f'{{"text":{text}}}'.encode()
        answer = await server.rest("POST", f"/api/conversations/{chat}/messages", raw=body, user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_TEXT"), text[:20]
    assert stored(server, chat) == 0
    assert not [frame for frame in await theirs.flush() if frame["type"] == "message.new"]


async def test_the_longest_text_and_key_arrive_whole(server: Server) -> None:
    """4000 characters are counted as characters, not bytes, and a key of 64 is no longer than allowed."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    key = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 64
    await phone.say(chat, EMOJI * 4000, key)
    message = await theirs.get("message.new")
    assert message["text"] == EMOJI * 4000
    assert message["clientMessageId"] == key
    hostile = "\"}\\{NULL,'; DROP TABLE messages; -- %s %(p1)s $1"
    await phone.say(chat, hostile, hostile[:64], mediaUrl="https://x/\"}{,'%s")
    message = await theirs.get("message.new")
    assert (message["text"], message["mediaUrl"]) == (hostile, "https://x/\"}{,'%s")


async def test_a_stranger_can_not_send(server: Server) -> None:
    """NOT_PARTICIPANT: the same answer as for an id that does not exist; nothing is written, nobody hears of it."""
    _, bob, chat = await server.pair()
    stranger = await server.person()
    theirs, intruder = await server.messages(bob), await server.messages(stranger)
    answers = []
    for target in (chat, str(uuid.uuid4())):
        error = await refused(intruder, "NOT_PARTICIPANT", conversationId=target, text="x", clientMessageId="k")
        assert error["conversationId"] == target
        rest = await server.rest("POST", f"/api/conversations/{target}/messages", {"text": "x"}, user=stranger)
        answers.append((error["message"], rest.status, rest.body["code"], rest.body["message"]))
    assert answers[0] == answers[1]
    assert answers[0][1:3] == (403, "NOT_PARTICIPANT")
    assert stored(server, chat) == 0
    assert not [frame for frame in await theirs.flush() if frame["type"] == "message.new"]


async def test_nothing_is_told_before_the_commit(server: Server) -> None:
    """Persist, then tell: while Postgres holds the row up there is no ack and no message.new; then both come."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    with server.locked("messages"):
        await phone.send("message.send", conversationId=chat, text="x", clientMessageId="k")
        await asyncio.gather(phone.nothing("message.ack"), theirs.nothing("message.new"))
    await phone.get("message.ack")
    await theirs.get("message.new")


async def test_pipelined_messages_are_acked_and_told_in_order(server: Server) -> None:
    """Frames of one socket are acted on in order, without the client waiting in between."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    keys = [f"k{number}" for number in range(150)]
    for key in keys:
        await phone.send("message.send", conversationId=chat, text=key, clientMessageId=key)
    acks = [await phone.get("message.ack") for _ in keys]
    assert [(ack["clientMessageId"], ack["seq"]) for ack in acks] == [(key, n) for n, key in enumerate(keys, 1)]
    texts = [(await theirs.get("message.new"))["text"] for _ in keys]
    assert texts == keys


async def test_what_is_sent_before_connected_is_acted_on_after_it_in_order(server: Server) -> None:
    """A client need not wait for connected: its frames are kept, and answered after it, in order."""
    alice, _, chat = await server.pair()
    with server.locked("conversation_participants"):
        early = await server.socket("/messages/subscribe", token=token(alice), replay="0")
        await early.send("ping", ts=1)
        await early.send("message.send", conversationId=chat, text="x", clientMessageId="k1")
        await early.send("leave", conversationId=chat)
        await early.send("message.send", conversationId=chat, text="y", clientMessageId="k2")
        await early.send("ping", ts=2)
        await early.nothing(within=0.1)
    types = [frame["type"] for frame in [await early.frame() for _ in range(6)]]
    assert types == ["connected", "pong", "message.ack", "left", "message.ack", "pong"]


async def test_seq_has_no_gap_and_rises_on_every_socket(server: Server) -> None:
    """Order: many senders at once on many sockets; seq is 1..n, and each socket gets it rising, each message once."""
    people = [await server.person() for _ in range(3)]
    chat = await server.conversation(*people)
    clients = [await server.messages(person) for person in people for _ in range(2)]
    each, total = 25, 25 * len(clients)

    async def talk(client: Client) -> tuple[list[int], list[int]]:
        for number in range(each):
            await client.send("message.send", conversationId=chat, text=f"{number}", clientMessageId=uuid.uuid4().hex)
        acks, news = [], []
        while len(acks) + len(news) < total:
            frame = await client.get("message.ack", "message.new")
            (acks if frame["type"] == "message.ack" else news).append(frame["seq"])
        return acks, news

    for acks, news in await asyncio.gather(*map(talk, clients)):
        assert news == sorted(news)
        assert acks == sorted(acks)
        assert sorted(acks + news) == list(range(1, total + 1))
    assert server.sql("SELECT last_seq FROM conversations WHERE id = %s", chat) == [(total,)]
    assert stored(server, chat) == total


async def test_two_servers_give_one_gapless_seq(start: Callable[..., Awaitable[Server]]) -> None:
    """seq has no gap however many servers write to one database, and a key sent to both at once is one message."""
    one, two = await start(), await start()
    alice, bob, chat = await one.pair()
    clients = [await one.messages(alice), await two.messages(alice), await one.messages(bob), await two.messages(bob)]

    async def talk(client: Client) -> list[tuple[str, int]]:
        for number in range(30):
            await client.send("message.send", conversationId=chat, text="x", clientMessageId=f"k{number}")
        acks = [await client.get("message.ack") for _ in range(30)]
        return [(ack["messageId"], ack["seq"]) for ack in acks]

    acks = await asyncio.gather(*map(talk, clients))
    assert acks[0] == acks[1]
    assert acks[2] == acks[3]
    assert sorted(seq for _, seq in acks[0] + acks[2]) == list(range(1, 61))
    assert stored(one, chat) == 60


@pytest.mark.parametrize("url", ["http://cdn.example/x", "https://cdn.example/" + "x" * 2028])
async def test_a_media_url_is_kept(server: Server, url: str) -> None:
    """mediaUrl: an http(s) address of up to 2048 characters comes back as it was sent, over REST too."""
    alice, bob, chat = await server.pair()
    theirs = await server.messages(bob)
    body = {"text": "x", "mediaUrl": url}
    answer = await server.rest("POST", f"/api/conversations/{chat}/messages", body, user=alice)
    assert answer.body["message"]["mediaUrl"] == (await theirs.get("message.new"))["mediaUrl"] == url
