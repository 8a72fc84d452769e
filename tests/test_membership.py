"""Who is in a conversation: put in while connected, taken out while connected, whoever changes the rows."""

from typing import Any

from tests.harness import Client, Server
from tests.test_replay import Start

ABOUT_IT = ("conversation.new", "message.new", "message.read", "typing.start", "typing.stop", "presence.update")


def put_in(server: Server, chat: str, *users: str) -> None:
    """Make people participants with SQL."""
    for user in users:
        server.sql("INSERT INTO conversation_participants (conversation_id, user_id) VALUES (%s, %s)", chat, user)


def take_out(server: Server, chat: str, user: str) -> None:
    """Make somebody no participant with SQL."""
    server.sql("DELETE FROM conversation_participants WHERE conversation_id = %s AND user_id = %s", chat, user)


def new_chat(server: Server, *users: str) -> str:
    """Make a conversation with SQL, in one transaction."""
    rows = server.sql(
        "WITH made AS (INSERT INTO conversations (is_group) VALUES (true) RETURNING id)"
        " INSERT INTO conversation_participants (conversation_id, user_id)"
        " SELECT made.id, unnest(%s::uuid[]) FROM made RETURNING conversation_id::text",
        list(users),
    )
    return str(rows[0][0])


def about(frames: list[dict[str, Any]], chat: str) -> list[str]:
    """Return the types of the frames that are about a conversation."""
    told = [frame for frame in frames if frame["type"] in ABOUT_IT]
    return [
        frame["type"]
        for frame in told
        if chat in (frame.get("conversationId"), frame.get("conversation", {}).get("id"))
    ]


async def flows(chat: str, sender: Client, receiver: Client) -> None:
    """Assert that messages and typing of a conversation reach a socket, without a join."""
    await sender.send("typing", conversationId=chat, isTyping=True)
    await receiver.get("typing.start", conversationId=chat)
    ack = await sender.say(chat, "x")
    await receiver.get("message.new", messageId=ack["messageId"])
    await receiver.send("message.read", conversationId=chat, seq=ack["seq"])
    await sender.get("message.read", conversationId=chat)


async def test_everybody_online_hears_of_a_new_conversation(server: Server) -> None:
    """conversation.new: to every socket of every participant, with the conversation as in REST; then all flows."""
    alice, bob, carol, stranger = [await server.person() for _ in range(4)]
    phone, laptop, theirs, other = [await server.messages(one) for one in (alice, alice, bob, stranger)]
    chat = await server.conversation(alice, bob, carol)
    for client, user in ((phone, alice), (laptop, alice), (theirs, bob)):
        told = await client.get("conversation.new")
        rest = await server.rest("GET", "/api/conversations", user=user)
        assert told == {"type": "conversation.new", "conversation": rest.body["conversations"][0]}
    await flows(chat, phone, theirs)
    await other.nothing(*ABOUT_IT)
    for client in (phone, laptop, theirs):
        await client.flush()
        assert about(client.seen, chat).count("conversation.new") == 1


async def test_an_existing_conversation_is_not_new(server: Server) -> None:
    """Creating the one that exists tells nobody."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    assert await server.conversation(bob, alice) == chat
    await phone.nothing("conversation.new")
    assert about(await theirs.flush(), chat) == []


async def test_rows_of_somebody_elses_making_count(server: Server) -> None:
    """A conversation made with SQL: conversation.new, and messages, typing and receipts flow at once."""
    alice, bob = await server.person(), await server.person()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    chat = new_chat(server, alice, bob)
    for client in (phone, theirs):
        assert (await client.get("conversation.new"))["conversation"]["id"] == chat
    await flows(chat, phone, theirs)


async def test_who_is_put_in_later_starts_at_the_end(server: Server) -> None:
    """A newcomer hears conversation.new with nothing unread, gets no old message in the queue, but may read them."""
    alice, bob, _ = await server.pair()
    chat = await server.conversation(alice, bob, isGroup=True)
    phone = await server.messages(alice)
    await phone.say(chat, "before")
    carol = await server.person()
    hers = await server.messages(carol)
    put_in(server, chat, carol)
    conversation = (await hers.get("conversation.new"))["conversation"]
    assert [conversation[name] for name in ("unreadCount", "deliveredSeq", "readSeq", "lastSeq")] == [0, 1, 1, 1]
    assert {person["id"] for person in conversation["participants"]} == {alice, bob, carol}
    await phone.get("presence.update", userId=carol, conversationId=chat, isOnline=True)
    await flows(chat, phone, hers)
    page = await server.rest("GET", f"/api/conversations/{chat}/messages", user=carol)
    assert [message["text"] for message in page.body["messages"]] == ["before", "x"]


async def test_two_servers_on_one_database(start: Start) -> None:
    """Whichever server makes the conversation, who is connected to the other one hears of it and is in it."""
    one, two = await start(), await start()
    alice, bob, carol = [await one.person() for _ in range(3)]
    phone, theirs, hers = await one.messages(alice), await two.messages(bob), await two.messages(carol)
    chat = await one.conversation(alice, bob, carol)
    for client in (phone, theirs, hers):
        assert (await client.get("conversation.new"))["conversation"]["id"] == chat
    await flows(chat, theirs, hers)
    for client in (phone, theirs, hers):
        assert about(client.seen, chat).count("conversation.new") == 1


async def test_many_conversations_at_once_are_all_told(server: Server) -> None:
    """Rows for many conversations in one transaction: each is told once to each, none is lost."""
    alice, bob = await server.person(), await server.person()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    rows = server.sql(
        "WITH made AS (INSERT INTO conversations (is_group) SELECT true FROM generate_series(1, 40) RETURNING id)"
        " INSERT INTO conversation_participants (conversation_id, user_id)"
        " SELECT made.id, unnest(%s::uuid[]) FROM made RETURNING conversation_id::text",
        [alice, bob],
    )
    expected = {row[0] for row in rows}
    for client in (phone, theirs):
        told = [(await client.get("conversation.new"))["conversation"]["id"] for _ in expected]
        assert set(told) == expected
        await client.nothing("conversation.new", within=0.05)


async def test_who_is_taken_out_hears_no_more(server: Server) -> None:
    """A participant deleted with SQL gets no message, receipt, typing or presence of it from then on."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    chat = await server.conversation(alice, bob, carol)
    kept = await server.conversation(alice, bob)
    phone, theirs, hers = [await server.messages(one) for one in (alice, bob, carol)]
    await phone.say(chat, "before")
    await theirs.get("message.new")
    await theirs.flush()
    take_out(server, chat, bob)
    # At once: messages and receipts go by the rows.
    ack = await phone.say(chat, "after")
    await hers.get("message.new", seq=2)
    await hers.send("message.read", conversationId=chat, seq=ack["seq"])
    await phone.get("message.read")
    assert about(await theirs.flush(), chat) == []
    # And the room follows, as soon as the server has been told.
    await refused(theirs, chat)
    await phone.send("typing", conversationId=chat, isTyping=True)
    await hers.get("typing.start")
    await hers.close()
    await phone.get("presence.update", conversationId=chat, userId=carol, isOnline=False)
    assert about(await theirs.flush(), chat) == []
    await flows(kept, phone, theirs)


async def refused(client: Client, chat: str) -> None:
    """Wait until a socket is refused a conversation: the server learns of it by a notification."""
    while True:
        await client.send("join", conversationId=chat)
        answer = await client.get("joined", "error")
        if answer["type"] == "error":
            assert answer["code"] == "NOT_PARTICIPANT"
            return


async def test_who_is_taken_out_is_refused(server: Server) -> None:
    """NOT_PARTICIPANT for all that a deleted participant tries, on the socket and over REST; nothing is written."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    chat = await server.conversation(alice, bob, carol)
    phone, theirs = await server.messages(alice), await server.messages(bob)
    await phone.say(chat, "before")
    take_out(server, chat, bob)
    await refused(theirs, chat)
    frames: list[tuple[str, dict[str, Any]]] = [
        ("leave", {}), ("typing", {"isTyping": True}), ("message.send", {"text": "x", "clientMessageId": "k"}),
        ("message.read", {"seq": 1}), ("message.delivered", {"seq": 1}),
    ]  # fmt: skip
    for kind, fields in frames:
        await theirs.send(kind, conversationId=chat, **fields)
        assert (await theirs.error("NOT_PARTICIPANT"))["requestType"] == kind
    await theirs.send("sync", conversations={chat: 0})
    await theirs.error("NOT_PARTICIPANT")
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/messages", None), ("POST", "/messages", {"text": "x"}), ("DELETE", "", None),
        ("POST", "/messages/status", {"messageIds": [], "status": "read"}), ("POST", "/typing", {"isTyping": True}),
    ]  # fmt: skip
    for method, path, body in calls:
        answer = await server.rest(method, f"/api/conversations/{chat}{path}", body, user=bob)
        assert (answer.status, answer.body["code"]) == (403, "NOT_PARTICIPANT")
    assert (await server.rest("GET", "/api/conversations", user=bob)).body == {"conversations": []}
    assert server.sql("SELECT last_seq FROM conversations") == [(1,)]


async def test_who_types_and_is_taken_out_stops_typing(server: Server) -> None:
    """The others hear typing.stop of somebody who is no participant any more."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    chat = await server.conversation(alice, bob, carol)
    phone, theirs = await server.messages(alice), await server.messages(bob)
    await theirs.send("typing", conversationId=chat, isTyping=True)
    await phone.get("typing.start")
    take_out(server, chat, bob)
    await phone.get("typing.stop", senderId=bob)


async def test_who_is_put_back_in_hears_of_it_again(server: Server) -> None:
    """Taken out and put in again: conversation.new once more, and all flows."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    chat = await server.conversation(alice, bob, carol)
    phone, theirs = await server.messages(alice), await server.messages(bob)
    take_out(server, chat, bob)
    await refused(theirs, chat)
    put_in(server, chat, bob)
    await theirs.get("conversation.new")
    await flows(chat, phone, theirs)


async def test_a_deleted_conversation_is_gone_for_all(server: Server) -> None:
    """The conversation's row deleted with SQL: everybody is refused it, as if it had never been."""
    alice, bob, chat = await server.pair()
    phone, theirs = await server.messages(alice), await server.messages(bob)
    await phone.say(chat, "before")
    server.sql("DELETE FROM conversations WHERE id = %s", chat)
    for client in (phone, theirs):
        await refused(client, chat)
        await client.send("message.send", conversationId=chat, text="x", clientMessageId="k2")
        await client.error("NOT_PARTICIPANT")
    assert await server.conversation(alice, bob) != chat


async def test_a_pair_of_which_one_was_taken_out_may_begin_anew(server: Server) -> None:
    """Who was taken out of a conversation of two gets another one by creating it, not the old one's history."""
    alice, bob, chat = await server.pair()
    await (await server.messages(alice)).say(chat, "before")
    take_out(server, chat, bob)
    answer = await server.rest("POST", "/api/conversations", {"participantIds": [alice]}, user=bob)
    assert answer.status == 201
    conversation = answer.body["conversation"]
    assert conversation["id"] != chat
    assert {person["id"] for person in conversation["participants"]} == {alice, bob}
    assert await server.conversation(alice, bob) == conversation["id"]
