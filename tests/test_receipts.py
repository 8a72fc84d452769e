"""Delivered and read: cursors that only go forward, receipts of what moved, and a message's status in REST."""

import asyncio
import uuid
from typing import Any

from tests.harness import Client, Server
from tests.test_messages import MOMENT

RECEIPTS = ("message.delivered", "message.read")


async def said(server: Server, sender: str, chat: str, count: int) -> list[str]:
    """Have ``sender`` say ``count`` messages; return their ids."""
    phone = await server.messages(sender, replay="0")
    ids = [(await phone.say(chat, f"{number}"))["messageId"] for number in range(1, count + 1)]
    await phone.close()
    return ids


async def receipts(client: Client) -> list[dict[str, Any]]:
    """Return the receipts that have come to a socket and were not looked at yet."""
    return [frame for frame in await client.flush() if frame["type"] in RECEIPTS]


async def mark(client: Client, kind: str, chat: str, **fields: Any) -> dict[str, Any]:
    """Move a cursor, and return the receipt."""
    await client.send(kind, conversationId=chat, **fields)
    return await client.get(kind, conversationId=chat)


def cursors(server: Server, chat: str, user: str) -> tuple[int, int]:
    """Return somebody's delivered and read cursors in Postgres."""
    statement = "SELECT delivered_seq, read_seq FROM conversation_participants WHERE conversation_id = %s"
    delivered, read = server.sql(statement + " AND user_id = %s", chat, user)[0]
    return delivered, read


async def statuses(server: Server, chat: str, user: str) -> list[str]:
    """Return the statuses of a conversation's messages, oldest first, as ``user`` sees them."""
    answer = await server.rest("GET", f"/api/conversations/{chat}/messages", user=user)
    return [message["status"] for message in answer.body["messages"]]


async def test_receipts_go_to_every_socket_of_every_participant(server: Server) -> None:
    """message.delivered and message.read: every field; to all, one's own devices too, not to strangers."""
    alice, bob, carol, stranger = [await server.person() for _ in range(4)]
    chat = await server.conversation(alice, bob, carol)
    ids = await said(server, alice, chat, 2)
    phone, laptop, theirs, hers = [await server.messages(one) for one in (bob, bob, alice, carol)]
    other = await server.messages(stranger)
    for kind, named in (("message.delivered", {"messageId": ids[0]}), ("message.read", {"seq": 2})):
        await phone.send(kind, conversationId=chat, **named)
        receipt = await phone.get(*RECEIPTS)
        seq = 1 if "messageId" in named else 2
        assert MOMENT.fullmatch(receipt["timestamp"])
        assert receipt == {
            "type": kind, "conversationId": chat, "messageId": ids[seq - 1], "senderId": bob, "userId": bob,
            "timestamp": receipt["timestamp"], "status": kind.removeprefix("message."), "seq": seq,
        }  # fmt: skip
        for client in (laptop, theirs, hers):
            assert await client.get(*RECEIPTS) == receipt
    for client in (phone, laptop, theirs, hers, other):
        assert await receipts(client) == []


async def test_cursors_only_go_forward(server: Server) -> None:
    """What is marked again, or marked behind the cursor, moves nothing and nobody hears of it."""
    alice, bob, chat = await server.pair()
    ids = await said(server, alice, chat, 3)
    phone, theirs = await server.messages(bob), await server.messages(alice)
    await mark(phone, "message.read", chat, seq=2)
    for kind in RECEIPTS:
        for named in ({"seq": 2}, {"seq": 1}, {"messageId": ids[0]}, {"messageId": ids[1]}):
            await phone.send(kind, conversationId=chat, **named)
    await mark(phone, "message.delivered", chat, seq=3)
    assert cursors(server, chat, bob) == (3, 2)
    assert [(frame["status"], frame["seq"]) for frame in await receipts(theirs)] == [("read", 2), ("delivered", 3)]


async def test_read_moves_both_cursors(server: Server) -> None:
    """read moves delivered too, with one receipt; a read behind delivered still moves read."""
    alice, bob, chat = await server.pair()
    await said(server, alice, chat, 3)
    phone, theirs = await server.messages(bob), await server.messages(alice)
    await mark(phone, "message.read", chat, seq=1)
    assert cursors(server, chat, bob) == (1, 1)
    await mark(phone, "message.delivered", chat, seq=3)
    await mark(phone, "message.read", chat, seq=2)
    assert cursors(server, chat, bob) == (3, 2)
    told = [(frame["status"], frame["seq"]) for frame in await receipts(theirs)]
    assert told == [("read", 1), ("delivered", 3), ("read", 2)]


async def test_own_messages_move_nothing(server: Server) -> None:
    """One's own messages are neither delivered nor read by oneself: no cursor, no receipt, and no error."""
    alice, _, chat = await server.pair()
    ids = await said(server, alice, chat, 2)
    phone, laptop = await server.messages(alice), await server.messages(alice)
    for kind in RECEIPTS:
        await phone.send(kind, conversationId=chat, messageId=ids[1])
        await phone.send(kind, conversationId=chat, seq=1)
    answer = await server.rest(
        "POST", f"/api/conversations/{chat}/messages/status", {"messageIds": ids, "status": "read"}, user=alice
    )
    assert answer.body == {"success": True, "updatedCount": 0}
    for client in (phone, laptop):
        assert not [frame for frame in await client.flush() if frame["type"] in (*RECEIPTS, "error")]
    assert cursors(server, chat, alice) == (0, 0)


async def test_an_unknown_message_can_not_be_marked(server: Server) -> None:
    """UNKNOWN_MESSAGE: no such seq, no such id, or an id of another conversation; the cursor stays."""
    alice, bob, chat = await server.pair()
    await said(server, alice, chat, 1)
    elsewhere = await said(server, alice, await server.conversation(alice, bob, isGroup=True), 1)
    phone = await server.messages(bob)
    for kind in RECEIPTS:
        unknown: list[dict[str, Any]] = [
            {"seq": 2}, {"seq": 0}, {"seq": 2**63 - 1}, {"messageId": str(uuid.uuid4())}, {"messageId": elsewhere[0]},
        ]  # fmt: skip
        for named in unknown:
            await phone.send(kind, conversationId=chat, **named)
            error = await phone.error("UNKNOWN_MESSAGE")
            assert (error["requestType"], error["conversationId"]) == (kind, chat)
            assert next(iter(named)) in error["message"]
    assert cursors(server, chat, bob) == (0, 0)


async def test_a_wrong_receipt_is_named(server: Server) -> None:
    """INVALID_FRAME: neither messageId nor seq, or a wrong one; the message names it."""
    _, bob, chat = await server.pair()
    phone = await server.messages(bob)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("messageId", {"conversationId": chat}), ("seq", {"conversationId": chat, "seq": -1}),
        ("seq", {"conversationId": chat, "seq": 2**63}), ("seq", {"conversationId": chat, "seq": "1"}),
        ("messageId", {"conversationId": chat, "messageId": "x"}), ("conversationId", {"seq": 1}),
    ]  # fmt: skip
    for field, fields in wrong:
        await phone.wrong("message.read", **fields)
        assert field in (await phone.error("INVALID_FRAME"))["message"]


async def test_a_stranger_can_not_mark(server: Server) -> None:
    """NOT_PARTICIPANT, the same as for an id that does not exist, on the socket and over REST; nobody hears of it."""
    alice, bob, chat = await server.pair()
    ids = await said(server, alice, chat, 1)
    stranger = await server.person()
    intruder, theirs = await server.messages(stranger), await server.messages(alice)
    answers = set()
    for target in (chat, str(uuid.uuid4())):
        for fields in ({"messageId": ids[0]}, {"seq": 1}, {"seq": 99}):
            await intruder.send("message.read", conversationId=target, **fields)
            error = await intruder.error("NOT_PARTICIPANT")
            assert error["conversationId"] == target
            answers.add(error["message"])
        body = {"messageIds": ids, "status": "read"}
        rest = await server.rest("POST", f"/api/conversations/{target}/messages/status", body, user=stranger)
        assert (rest.status, rest.body["code"]) == (403, "NOT_PARTICIPANT")
        answers.add(rest.body["message"])
    assert len(answers) == 1
    assert await receipts(theirs) == []
    assert cursors(server, chat, bob) == (0, 0)


async def test_a_status_is_what_every_other_participant_did(server: Server) -> None:
    """status in REST: read or delivered once every other participant's cursor has passed it, else sent."""
    alice, bob, carol = [await server.person() for _ in range(3)]
    chat = await server.conversation(alice, bob, carol)
    await said(server, alice, chat, 2)
    await said(server, bob, chat, 1)
    theirs, hers = await server.messages(bob), await server.messages(carol)
    assert await statuses(server, chat, alice) == ["sent", "sent", "sent"]
    await mark(theirs, "message.read", chat, seq=2)
    assert await statuses(server, chat, alice) == ["sent", "sent", "sent"]
    await mark(hers, "message.delivered", chat, seq=3)
    assert await statuses(server, chat, alice) == ["delivered", "delivered", "sent"]
    await mark(hers, "message.read", chat, seq=1)
    for person in (alice, bob, carol):
        assert await statuses(server, chat, person) == ["read", "delivered", "sent"]
    await mark(await server.messages(alice), "message.read", chat, seq=3)
    assert await statuses(server, chat, alice) == ["read", "delivered", "delivered"]


async def test_marking_over_rest(server: Server) -> None:
    """POST messages/status: the newest id moves the cursor; updatedCount counts others' messages of this one only."""
    alice, bob, chat = await server.pair()
    other = await server.conversation(alice, bob, isGroup=True)
    ids, own = await said(server, alice, chat, 3), await said(server, bob, chat, 1)
    elsewhere = await said(server, alice, other, 1)
    theirs, phone = await server.messages(alice), await server.messages(bob)
    path = f"/api/conversations/{chat}/messages/status"
    body = {"messageIds": [ids[1], ids[0], *own, *elsewhere, str(uuid.uuid4())], "status": "delivered"}
    assert (await server.rest("POST", path, body, user=bob)).body == {"success": True, "updatedCount": 2}
    for client in (theirs, phone):
        receipt = await client.get(*RECEIPTS)
        assert (receipt["status"], receipt["seq"], receipt["messageId"]) == ("delivered", 2, ids[1])
        assert receipt["userId"] == receipt["senderId"] == bob
    again = await server.rest("POST", path, body, user=bob)
    assert (again.status, again.body["updatedCount"]) == (200, 2)
    assert (await server.rest("POST", path, {"messageIds": [], "status": "read"}, user=bob)).body["updatedCount"] == 0
    assert await receipts(theirs) == []
    await server.rest("POST", path, {"messageIds": ids, "status": "read"}, user=bob)
    assert (await theirs.get(*RECEIPTS))["status"] == "read"
    assert cursors(server, chat, bob) == (3, 3)
    assert cursors(server, other, bob) == (0, 0)


async def test_a_wrong_body_is_named(server: Server) -> None:
    """400: a status that is none, ids that are none, or a field that is missing is named."""
    _, bob, chat = await server.pair()
    wrong: list[tuple[str, Any]] = [
        ("status", {"messageIds": [], "status": "seen"}), ("status", {"messageIds": []}),
        ("messageIds", {"status": "read"}), ("messageIds", {"messageIds": ["x"], "status": "read"}),
        ("messageIds", {"messageIds": "x", "status": "read"}),
    ]  # fmt: skip
    for field, body in wrong:
        answer = await server.rest("POST", f"/api/conversations/{chat}/messages/status", body, user=bob)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
        assert field in answer.body["message"]


async def test_no_receipt_before_the_commit(server: Server) -> None:
    """Persist, then tell: while Postgres holds the cursor up nobody hears of it."""
    alice, bob, chat = await server.pair()
    await said(server, alice, chat, 1)
    phone, theirs = await server.messages(bob), await server.messages(alice)
    with server.locked("conversation_participants"):
        await phone.send("message.read", conversationId=chat, seq=1)
        await asyncio.gather(phone.nothing(*RECEIPTS), theirs.nothing(*RECEIPTS))
    await theirs.get("message.read")
    assert cursors(server, chat, bob) == (1, 1)


async def test_many_marks_at_once_only_ever_rise(server: Server) -> None:
    """Several devices mark at once, out of order: receipts of a kind rise, each place is told once."""
    alice, bob, chat = await server.pair()
    count = 60
    await said(server, alice, chat, count)
    devices, theirs = [await server.messages(bob) for _ in range(3)], await server.messages(alice)

    async def walk(device: Client, step: int) -> None:
        for seq in range(1, count + 1):
            kind = RECEIPTS[(seq + step) % 2]
            await device.send(kind, conversationId=chat, seq=(seq * 7 + step) % count + 1)
        await device.flush()

    await asyncio.gather(*(walk(device, step) for step, device in enumerate(devices)))
    told = await receipts(theirs)
    for kind in RECEIPTS:
        seqs = [frame["seq"] for frame in told if frame["type"] == kind]
        assert seqs == sorted(set(seqs))
    assert max(frame["seq"] for frame in told) == count
    delivered, read = cursors(server, chat, bob)
    assert delivered == count
    assert read == max(frame["seq"] for frame in told if frame["type"] == "message.read")
