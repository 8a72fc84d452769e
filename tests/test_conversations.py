"""Conversations over REST: the list, making one, hiding one."""

import asyncio
import uuid
from typing import Any

from tests.harness import Answer, Server
from tests.test_messages import MOMENT

FIELDS = {
    "id", "isGroup", "bountyId", "createdAt", "updatedAt", "participants",
    "lastMessage", "unreadCount", "deliveredSeq", "readSeq", "lastSeq",
}  # fmt: skip


async def create(server: Server, user: str, *others: str, **fields: Any) -> Answer:
    """Make a conversation over REST."""
    return await server.rest("POST", "/api/conversations", {"participantIds": list(others), **fields}, user=user)


async def listed(server: Server, user: str) -> list[dict[str, Any]]:
    """Return somebody's list."""
    answer = await server.rest("GET", "/api/conversations", user=user)
    assert answer.status == 200
    assert answer.body.keys() == {"conversations"}
    return list(answer.body["conversations"])


async def say(server: Server, user: str, chat: str, text: str = "x") -> dict[str, Any]:
    """Send a message over REST and return it."""
    answer = await server.rest("POST", f"/api/conversations/{chat}/messages", {"text": text}, user=user)
    assert answer.status == 201
    message: dict[str, Any] = answer.body["message"]
    return message


async def test_a_new_conversation_has_all_its_fields(server: Server) -> None:
    """POST /api/conversations: 201, every field, the participants with their handles, existing false."""
    alice, bob = await server.person("alice_new"), await server.person("bob_new")
    answer = await create(server, alice, bob)
    conversation = answer.body["conversation"]
    assert answer.status == 201
    assert conversation.keys() == FIELDS | {"existing"}
    assert MOMENT.fullmatch(conversation["createdAt"])
    assert conversation["createdAt"] == conversation["updatedAt"]
    people = sorted(conversation["participants"], key=lambda person: person["handle"])
    assert people == [{"id": alice, "handle": "alice_new"}, {"id": bob, "handle": "bob_new"}]
    values = {name: conversation[name] for name in FIELDS - {"id", "createdAt", "updatedAt", "participants"}}
    assert values == {
        "isGroup": False, "bountyId": None, "lastMessage": None,
        "unreadCount": 0, "deliveredSeq": 0, "readSeq": 0, "lastSeq": 0,
    }  # fmt: skip
    del conversation["existing"]
    assert await listed(server, alice) == await listed(server, bob) == [conversation]


async def test_the_list_says_where_one_stands(server: Server) -> None:
    """By person: lastMessage, unreadCount (others' messages past the read cursor), deliveredSeq, readSeq, lastSeq."""
    alice, bob, chat = await server.pair()
    for user in (alice, alice, bob, alice):
        last = await say(server, user, chat, f"from {user}")
    theirs = await server.messages(bob)
    await theirs.send("message.read", conversationId=chat, seq=1)
    await theirs.send("message.delivered", conversationId=chat, seq=2)
    await theirs.get("message.delivered")
    expected_last = {name: last[name] for name in ("id", "text", "senderId", "createdAt", "seq")}
    for user, stands in ((bob, (2, 2, 1, 4)), (alice, (1, 0, 0, 4))):
        [conversation] = await listed(server, user)
        assert conversation["lastMessage"] == expected_last
        assert tuple(conversation[name] for name in ("unreadCount", "deliveredSeq", "readSeq", "lastSeq")) == stands
        assert conversation["updatedAt"] == last["createdAt"]


async def test_the_list_is_latest_first_and_ones_own(server: Server) -> None:
    """Latest first: by the newest message, or the making where there is none; others' conversations are not in it."""
    alice, bob, first = await server.pair()
    second = await server.conversation(alice, await server.person())
    third = await server.conversation(alice, bob, isGroup=True)
    foreign = await server.conversation(bob, await server.person())
    assert [conversation["id"] for conversation in await listed(server, alice)] == [third, second, first]
    await say(server, bob, first)
    await say(server, bob, foreign)
    assert [conversation["id"] for conversation in await listed(server, alice)] == [first, third, second]
    assert await listed(server, await server.person()) == []


async def test_two_people_have_one_conversation(server: Server) -> None:
    """The same two people, whoever asks: 200, existing true, the same one; also when isGroup is said to be false."""
    alice, bob, chat = await server.pair()
    for user, other, fields in ((alice, bob, {}), (bob, alice, {}), (alice, bob, {"isGroup": False, "bountyId": None})):
        answer = await create(server, user, other, **fields)
        assert (answer.status, answer.body["conversation"]["existing"]) == (200, True)
        assert answer.body["conversation"]["id"] == chat
    answer = await create(server, alice, alice, bob, bob.upper())
    assert (answer.status, answer.body["conversation"]["id"]) == (200, chat)


async def test_each_bounty_is_a_conversation_of_its_own(server: Server) -> None:
    """With the same bounty or none: another bounty, or none, is another conversation; the same is the same one."""
    alice, bob, chat = await server.pair()
    bounties = [(await server.bounty())[0] for _ in range(2)]
    made = [await create(server, alice, bob, bountyId=bounty) for bounty in bounties]
    assert [answer.status for answer in made] == [201, 201]
    assert [answer.body["conversation"]["bountyId"] for answer in made] == bounties
    assert len({chat, *(answer.body["conversation"]["id"] for answer in made)}) == 3
    for bounty, answer in zip(bounties, made, strict=True):
        again = await create(server, bob, alice, bountyId=bounty)
        assert (again.status, again.body["conversation"]["id"]) == (200, answer.body["conversation"]["id"])
    answer = await create(server, alice, bob, bountyId=str(uuid.uuid4()))
    assert answer.status == 404
    assert "bountyId" in answer.body["message"]


async def test_groups_are_always_new(server: Server) -> None:
    """More than two people, or isGroup: every call makes another one."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    answers = [await create(server, alice, bob, carol) for _ in range(2)]
    answers += [await create(server, alice, bob, isGroup=True) for _ in range(2)]
    assert [answer.status for answer in answers] == [201] * 4
    assert all(answer.body["conversation"]["isGroup"] for answer in answers)
    assert len({answer.body["conversation"]["id"] for answer in answers}) == 4
    assert {person["id"] for person in answers[0].body["conversation"]["participants"]} == {alice, bob, carol}
    assert (await create(server, alice, bob)).status == 201


async def test_two_at_the_same_moment_make_one(server: Server) -> None:
    """Both people create at once, many times: one 201, else 200 with existing true, all the same conversation."""
    alice, bob = await server.person(), await server.person()
    calls = [create(server, *pair) for pair in [(alice, bob), (bob, alice)] * 10]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({answer.body["conversation"]["id"] for answer in answers}) == 1
    assert all(answer.body["conversation"]["existing"] is (answer.status == 200) for answer in answers)
    assert server.sql("SELECT count(*) FROM conversations") == [(1,)]
    assert server.sql("SELECT count(*) FROM conversation_participants") == [(2,)]


async def test_an_unknown_participant_is_refused(server: Server) -> None:
    """404 UNKNOWN_USER: somebody without a profile; nothing is made, for two people and for a group."""
    alice, bob = await server.person(), await server.person()
    for others in ([str(uuid.uuid4())], [bob, str(uuid.uuid4())]):
        answer = await create(server, alice, *others)
        assert (answer.status, answer.body["code"]) == (404, "UNKNOWN_USER")
    assert server.sql("SELECT count(*) FROM conversations") == [(0,)]


async def test_a_wrong_body_is_named(server: Server) -> None:
    """400: oneself only, nobody, no list, ids that are none; the message names the field."""
    alice, bob = await server.person(), await server.person()
    wrong: list[tuple[str, Any]] = [
        ("participantIds", {"participantIds": [alice]}), ("participantIds", {"participantIds": []}),
        ("participantIds", {}), ("participantIds", {"participantIds": bob}),
        ("participantIds", {"participantIds": [bob, "x"]}), ("participantIds", {"participantIds": [None]}),
        ("bountyId", {"participantIds": [bob], "bountyId": "x"}),
        ("isGroup", {"participantIds": [bob], "isGroup": "no"}),
    ]  # fmt: skip
    for field, body in wrong:
        answer = await server.rest("POST", "/api/conversations", body, user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST"), body
        assert field in answer.body["message"]
    assert server.sql("SELECT count(*) FROM conversations") == [(0,)]


async def test_hiding_is_for_oneself(server: Server) -> None:
    """DELETE: 204 without a body; it is gone from this user's list, and stays in the other's."""
    alice, bob, chat = await server.pair()
    await say(server, bob, chat)
    for _ in range(2):
        answer = await server.rest("DELETE", f"/api/conversations/{chat}", user=alice)
        assert (answer.status, answer.body) == (204, None)
    assert await listed(server, alice) == []
    assert [conversation["id"] for conversation in await listed(server, bob)] == [chat]
    # Hidden is not left: history and messages are there as before.
    assert (await server.rest("GET", f"/api/conversations/{chat}/messages", user=alice)).body["pagination"][
        "total"
    ] == 1


async def test_a_new_message_brings_it_back(server: Server) -> None:
    """A hidden conversation is listed again with its next message, whoever sends it; also one that had none."""
    alice, bob, chat = await server.pair()
    for sender in (bob, alice):
        await server.rest("DELETE", f"/api/conversations/{chat}", user=alice)
        assert await listed(server, alice) == []
        message = await say(server, sender, chat)
        [conversation] = await listed(server, alice)
        assert conversation["lastMessage"]["id"] == message["id"]


async def test_a_hidden_conversation_goes_on_live(server: Server) -> None:
    """Hiding is about the list: the person's sockets hear of the next message."""
    alice, bob, chat = await server.pair()
    phone = await server.messages(alice)
    await server.rest("DELETE", f"/api/conversations/{chat}", user=alice)
    message = await say(server, bob, chat)
    assert (await phone.get("message.new"))["messageId"] == message["id"]


async def test_creating_it_again_shows_it(server: Server) -> None:
    """The pair's hidden conversation is listed again for who creates it again, and for nobody else."""
    alice, bob, chat = await server.pair()
    for user in (alice, bob):
        await server.rest("DELETE", f"/api/conversations/{chat}", user=user)
    answer = await create(server, alice, bob)
    assert (answer.status, answer.body["conversation"]["id"]) == (200, chat)
    assert [conversation["id"] for conversation in await listed(server, alice)] == [chat]
    assert await listed(server, bob) == []


async def test_a_stranger_can_not_hide(server: Server) -> None:
    """NOT_PARTICIPANT, 403: the same answer as for an id that does not exist; what is no id is a 400."""
    _, bob, chat = await server.pair()
    stranger = await server.person()
    answers = [
        await server.rest("DELETE", f"/api/conversations/{target}", user=stranger)
        for target in (chat, str(uuid.uuid4()))
    ]
    for answer in answers:
        assert (answer.status, answer.body["code"]) == (403, "NOT_PARTICIPANT")
    assert answers[0].body["message"] == answers[1].body["message"]
    assert len(await listed(server, bob)) == 1
    for path in ("", "/messages", "/messages/status", "/typing"):
        method = "DELETE" if path == "" else "POST"
        answer = await server.rest(method, f"/api/conversations/nonsense{path}", {}, user=bob)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")


async def test_without_a_token_nothing_is_done(server: Server) -> None:
    """/api/** takes a valid token only: 401 for each call about conversations."""
    _, bob, chat = await server.pair()
    calls = [
        ("GET", "", None), ("POST", "", {"participantIds": [bob]}), ("DELETE", f"/{chat}", None),
        ("GET", f"/{chat}/messages", None), ("POST", f"/{chat}/messages", {"text": "x"}),
        ("POST", f"/{chat}/messages/status", {"messageIds": [], "status": "read"}),
        ("POST", f"/{chat}/typing", {"isTyping": True}),
    ]  # fmt: skip
    for method, path, body in calls:
        answer = await server.rest(method, f"/api/conversations{path}", body)
        assert (answer.status, answer.body["code"]) == (401, "AUTH_REQUIRED")
    assert server.sql("SELECT last_seq FROM conversations") == [(0,)]
