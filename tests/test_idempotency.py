"""Once: ``(sender, clientMessageId)`` names one message for ever. And sends over REST, which have the same key."""

import asyncio
import uuid
from typing import Any

from tests.harness import Answer, Client, Server


async def send_over_rest(server: Server, user: str, chat: str, key: str | None = None, **headers: str) -> Answer:
    """Send a message over REST with a key in the body, if any, and headers (``_`` for ``-``)."""
    body = {"text": "once"} if key is None else {"text": "once", "clientMessageId": key}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await server.rest("POST", f"/api/conversations/{chat}/messages", body, user=user, headers=given)


async def pour(client: Client, chat: str, key: str, times: int) -> list[dict[str, Any]]:
    """Send one message ``times`` times without waiting, and return the acks."""
    for _ in range(times):
        await client.send("message.send", conversationId=chat, text="once", clientMessageId=key)
    return [await client.get("message.ack") for _ in range(times)]


def news(frames: list[dict[str, Any]]) -> list[str]:
    """Return the ids of the message.new among frames."""
    return [frame["messageId"] for frame in frames if frame["type"] == "message.new"]


async def test_a_key_sent_a_hundred_times_at_once_is_one_message(server: Server) -> None:
    """Once: one row, one message.new, and acks of one message with duplicate true on all but one."""
    alice, bob, chat = await server.pair()
    devices = [await server.messages(alice) for _ in range(5)]
    theirs = await server.messages(bob)
    acks = [ack for acks in await asyncio.gather(*(pour(one, chat, "k", 20) for one in devices)) for ack in acks]
    assert len({(ack["messageId"], ack["seq"], ack["timestamp"]) for ack in acks}) == 1
    assert sorted(ack.get("duplicate", False) for ack in acks) == [False] + [True] * 99
    assert server.sql("SELECT count(*) FROM messages WHERE conversation_id = %s", chat) == [(1,)]
    assert news(await theirs.flush()) == [acks[0]["messageId"]]
    for device in devices:
        await device.flush()
    # Every device of the sender's but the one whose send was the first.
    assert sum(len(news(device.seen)) for device in devices) == 4
    assert all(len(news(device.seen)) <= 1 for device in devices)


async def test_sockets_and_rest_at_once_are_one_message(server: Server) -> None:
    """Once, by whatever way: sockets, the body's key and the header's key at the same moment make one message."""
    alice, bob, chat = await server.pair()
    devices = [await server.messages(alice) for _ in range(2)]
    theirs = await server.messages(bob)
    poured, answers, headed = await asyncio.gather(
        asyncio.gather(*(pour(device, chat, "k", 20) for device in devices)),
        asyncio.gather(*(send_over_rest(server, alice, chat, "k") for _ in range(30))),
        asyncio.gather(*(send_over_rest(server, alice, chat, Idempotency_Key="k") for _ in range(30))),
    )
    acks = [ack for some in poured for ack in some]
    messages = [answer.body["message"] for answer in answers + headed]
    assert {answer.status for answer in answers + headed} == {201}
    ids = {ack["messageId"] for ack in acks} | {message["id"] for message in messages}
    assert len(ids) == 1
    assert sum("duplicate" not in ack for ack in acks) <= 1
    assert len({tuple(sorted(message.items())) for message in messages}) == 1
    assert news(await theirs.flush()) == list(ids)
    assert server.sql("SELECT count(*) FROM messages") == [(1,)]


async def test_a_key_is_remembered_across_connections(server: Server) -> None:
    """Sent again after a reconnect it gives the first one's ack with duplicate true, and nobody hears it twice."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    first = await phone.say(chat, "once", "k")
    assert "duplicate" not in first
    await phone.close()
    phone, laptop = await server.messages(alice), await server.messages(alice)
    await phone.say(chat, "between", "k2")
    again = await phone.say(chat, "another text", "k")
    assert again == {**first, "duplicate": True}
    await theirs.get("message.new", seq=2)
    assert news(await theirs.flush()) == []
    assert len(news(await laptop.flush())) == 1
    assert server.sql("SELECT text FROM messages ORDER BY seq") == [("once",), ("between",)]


async def test_a_key_survives_a_restart_of_the_server(server: Server, start: Any) -> None:
    """The key is in Postgres: another server gives the same ack."""
    alice, _, chat = await server.pair()
    first = await (await server.messages(alice)).say(chat, "once", "k")
    other: Server = await start()
    again = await (await other.messages(alice)).say(chat, "once", "k")
    assert again == {**first, "duplicate": True}


async def test_a_key_belongs_to_its_sender(server: Server) -> None:
    """(sender, key) is the name: another person's same key is another message."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    one, other = await phone.say(chat, "mine", "k"), await theirs.say(chat, "mine too", "k")
    assert "duplicate" not in one
    assert "duplicate" not in other
    assert one["messageId"] != other["messageId"]


async def test_a_key_in_another_conversation_names_the_first_message(server: Server) -> None:
    """One message for ever: the key used again elsewhere gives the first one's ack, and nothing is sent there."""
    alice, _, chat = await server.pair()
    other = await server.conversation(alice, await server.person())
    phone = await server.messages(alice)
    first = await phone.say(chat, "once", "k")
    again = await phone.say(other, "once", "k")
    assert (again["conversationId"], again["messageId"], again["duplicate"]) == (chat, first["messageId"], True)
    assert server.sql("SELECT last_seq FROM conversations WHERE id = %s", other) == [(0,)]


async def test_a_refused_message_leaves_its_key_free(server: Server) -> None:
    """An error is no message: the same key may be sent again, corrected."""
    alice, _, chat = await server.pair()
    phone = await server.messages(alice)
    fields = {"conversationId": chat, "text": "x", "clientMessageId": "k"}
    await phone.send("message.send", **fields, replyTo=str(uuid.uuid4()))
    await phone.error("UNKNOWN_MESSAGE")
    assert "duplicate" not in await phone.say(chat, "x", "k")


async def test_a_message_over_rest_has_all_its_fields(server: Server) -> None:
    """POST messages: 201 with the message as the list has it; message.new to the others, with the key."""
    alice = await server.person("alice_rest")
    bob = await server.person()
    chat = await server.conversation(alice, bob)
    theirs = await server.messages(bob)
    answer = await send_over_rest(server, alice, chat, "k")
    assert answer.status == 201
    message = answer.body["message"]
    assert message == {
        "id": message["id"], "conversationId": chat, "senderId": alice, "senderHandle": "alice_rest", "text": "once",
        "createdAt": message["createdAt"], "updatedAt": message["createdAt"], "mediaUrl": None, "replyTo": None,
        "isPinned": False, "status": "sent", "seq": 1,
    }  # fmt: skip
    listed = await server.rest("GET", f"/api/conversations/{chat}/messages", user=alice)
    assert listed.body["messages"] == [message]
    told = await theirs.get("message.new")
    assert (told["messageId"], told["clientMessageId"], told["timestamp"]) == (message["id"], "k", message["createdAt"])
    assert server.sql("SELECT client_message_id FROM messages WHERE id = %s", message["id"]) == [("k",)]


async def test_without_a_key_each_send_is_a_message(server: Server) -> None:
    """clientMessageId is optional over REST: two sends without are two messages."""
    alice, _, chat = await server.pair()
    answers = [await send_over_rest(server, alice, chat) for _ in range(2)]
    assert [answer.body["message"]["seq"] for answer in answers] == [1, 2]


async def test_a_duplicate_over_rest_shows_the_message_as_it_is_now(server: Server) -> None:
    """The same key over REST gives the first message, here read meanwhile."""
    alice, bob, chat = await server.pair()
    first = await send_over_rest(server, alice, chat, Idempotency_Key="k")
    theirs = await server.messages(bob)
    await theirs.send("message.read", conversationId=chat, seq=1)
    await theirs.get("message.read")
    again = await send_over_rest(server, alice, chat, "k")
    assert again.status == 201
    assert again.body["message"] == {**first.body["message"], "status": "read"}


async def test_a_wrong_idempotency_key_is_named(server: Server) -> None:
    """Idempotency-Key has the limits of clientMessageId: 1 to 64 characters."""
    alice, _, chat = await server.pair()
    assert (await send_over_rest(server, alice, chat, Idempotency_Key="k" * 64)).status == 201
    answer = await send_over_rest(server, alice, chat, Idempotency_Key="k" * 65)
    assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
    assert "Idempotency-Key" in answer.body["message"]


async def test_the_senders_own_sockets_hear_of_a_rest_send_only_with_its_connection_id(server: Server) -> None:
    """X-Connection-Id: with it all own sockets but that one get message.new; without, or with a wrong one, none."""
    alice, bob, chat = await server.pair()
    phone, laptop, theirs = [await server.messages(one) for one in (alice, alice, bob)]
    foreign = theirs.seen[0]["connectionId"]
    for headers in ({}, {"X_Connection_Id": foreign}, {"X_Connection_Id": str(uuid.uuid4())}):
        answer = await send_over_rest(server, alice, chat, **headers)
        assert news(await theirs.flush()) == [answer.body["message"]["id"]]
        assert news(await phone.flush()) == []
        assert news(await laptop.flush()) == []
    answer = await send_over_rest(server, alice, chat, X_Connection_Id=phone.seen[0]["connectionId"])
    assert news(await theirs.flush()) == [answer.body["message"]["id"]]
    assert news(await laptop.flush()) == [answer.body["message"]["id"]]
    assert news(await phone.flush()) == []
