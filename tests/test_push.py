"""When people who are away are pushed to, when not, and what a push says."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import harness
from tests.expo import ExpoStandIn, device, in_one_moment, mark, pushing, settled, write
from tests.harness import Server, until

Start = Callable[..., Awaitable[Server]]
Scene = tuple[Server, str, str, str, str]


async def scene(start: Start, expo: ExpoStandIn, **settings: Any) -> Scene:
    """Return a server with pushes on, two people, their conversation and the second one's device."""
    server = await start(**pushing(expo, **settings))
    alice, bob = await server.person("alice"), await server.person("bob")
    return server, alice, bob, await server.conversation(alice, bob), await device(server, bob)


async def test_somebody_away_is_pushed_to(start: Start, expo: ExpoStandIn) -> None:
    """Once, soon, and with all that the app needs."""
    server, alice, _, chat, token = await scene(start, expo)
    (message_id,) = await write(server, alice, chat, "Is the cat back?")
    await settled(server)
    (message,) = expo.messages
    assert 3500 < message.pop("ttl") <= 3600
    assert message == {
        "to": token,
        "title": "alice",
        "body": "Is the cat back?",
        "data": {
            "conversationId": chat, "senderId": alice, "messageId": message_id, "notificationType": "messages",
        },
        "badge": 1,
        "sound": "default",
        "priority": "high",
        "channelId": "messages",
    }  # fmt: skip
    assert expo.silent == []


async def test_a_message_sent_by_socket_is_pushed_too(start: Start, expo: ExpoStandIn) -> None:
    """And the sender's own devices hear nothing, nor does anybody's who is no participant."""
    server, alice, bob, chat, token = await scene(start, expo)
    mine, strangers = await device(server, alice), await device(server, await server.person())
    second = await device(server, bob)
    socket = await server.messages(alice)
    await socket.say(chat, "one of many", "key")
    await socket.say(chat, "one of many", "key")
    await settled(server)
    assert sorted(message["to"] for message in expo.messages) == sorted([token, second])
    assert {message["body"] for message in expo.messages} == {"one of many"}
    assert not expo.to(mine) and not expo.to(strangers)


async def test_who_is_there_and_receives_is_not_pushed_to(start: Start, expo: ExpoStandIn) -> None:
    """A receipt withdraws it."""
    server, alice, bob, chat, _ = await scene(start, expo, push_after_s=2)
    socket = await server.messages(bob)
    await write(server, alice, chat, "hello")
    frame = await socket.get("message.new")
    await socket.send("message.delivered", conversationId=chat, seq=frame["seq"])
    await settled(server)
    assert expo.requests == []
    # Answered besides: one's own messages are no reason to think that the other's are missing.
    await socket.say(chat, "hello yourself")
    await settled(server)
    assert expo.requests == []


async def test_who_is_there_and_acks_nothing_is_pushed_to(start: Start, expo: ExpoStandIn) -> None:
    """After PUSH_AFTER_S, not before."""
    server, alice, bob, chat, token = await scene(start, expo, push_after_s=1.5)
    socket = await server.messages(bob)
    began = time.monotonic()
    await write(server, alice, chat, "hello")
    await socket.get("message.new")
    await until(lambda: expo.messages)
    assert time.monotonic() - began >= 1.5
    await settled(server)
    assert [message["to"] for message in expo.messages] == [token]


async def test_the_presence_grace_counts_as_being_there(start: Start, expo: ExpoStandIn) -> None:
    """Whoever has just lost their socket is waited for; one who comes back and receives is not pushed to."""
    server, alice, bob, chat, _ = await scene(start, expo, presence_grace_s=20, push_after_s=3)
    socket = await server.messages(bob)
    await socket.close()
    await write(server, alice, chat, "hello")
    await until(lambda: server.sql("SELECT 1 FROM push_queue"))
    socket = await server.socket("/messages/subscribe", token=harness.token(bob))
    await socket.get("message.new", replayed=True)
    await socket.send("message.delivered", conversationId=chat, seq=1)
    await settled(server)
    assert expo.requests == []


async def test_messages_within_moments_are_one_push(start: Start, expo: ExpoStandIn) -> None:
    """Of one sender in one conversation; what comes later is another."""
    server, alice, bob, chat, _ = await scene(start, expo)
    carol = await server.person("carol")
    group = await server.conversation(alice, bob, carol)
    with in_one_moment(server):
        last = (await write(server, alice, chat, "one", "two", "three"))[-1]
        await write(server, alice, group, "four")
        await write(server, carol, group, "five", "six")
    await settled(server)
    assert len(expo.messages) == 3
    by_body = {message["body"]: message for message in expo.messages}
    assert set(by_body) == {"3 new messages from @alice", "four", "2 new messages from @carol"}
    together = by_body["3 new messages from @alice"]
    assert together["title"] == "alice" and together["data"]["messageId"] == last
    assert {message["badge"] for message in expo.messages} == {6}
    await write(server, alice, chat, "seven")
    await settled(server)
    assert expo.messages[3]["body"] == "seven" and len(expo.messages) == 4


@pytest.mark.parametrize("status", ["delivered", "read"])
async def test_withdrawn_when_received_elsewhere(start: Start, expo: ExpoStandIn, status: str) -> None:
    """In part or in whole."""
    server, alice, bob, chat, _ = await scene(start, expo)
    with in_one_moment(server):
        ids = await write(server, alice, chat, "one", "two")
        await mark(server, bob, chat, status, ids[0])
    await settled(server)
    assert [message["body"] for message in expo.messages] == ["two"]
    with in_one_moment(server):
        ids = await write(server, alice, chat, "three", "four")
        await mark(server, bob, chat, status, ids[1])
    await settled(server)
    assert len(expo.messages) == 1


async def test_withdrawn_while_it_waits_for_expo(start: Start, expo: ExpoStandIn) -> None:
    """What is read between two tries is not sent by the second."""
    server, alice, bob, chat, _ = await scene(start, expo)
    expo.trouble = [lambda handler: handler.set_status(503)] * 50
    ids = await write(server, alice, chat, "one")
    await until(lambda: len(expo.trouble) < 50)
    await mark(server, bob, chat, "read", *ids)
    expo.trouble.clear()
    await settled(server)
    assert expo.messages == []
    assert server.app.push is not None and server.app.push.dropped["withdrawn"] == 1


async def test_nothing_old_after_a_restart(start: Start, expo: ExpoStandIn) -> None:
    """Older than PUSH_MAX_AGE_S, in the outbox or the queue, is dropped; what is younger is sent."""
    server, alice, _, chat, _ = await scene(start, expo)
    expo.trouble = [lambda handler: handler.set_status(503)] * 50
    await write(server, alice, chat, "yesterday's, queued")
    await until(lambda: server.sql("SELECT 1 FROM push_queue WHERE claimed_by IS NULL") and len(expo.trouble) < 50)
    await server.app.stop()
    server.sql("UPDATE push_queue SET first_at = now() - interval '61 minutes'")
    expo.trouble.clear()
    expo.requests.clear()
    again = await start(**pushing(expo))
    with in_one_moment(again):
        await write(again, alice, chat, "today's")
        again.sql("UPDATE push_outbox SET first_at = now() - interval '59 minutes', from_seq = 1")
    await settled(again)
    assert [message["body"] for message in expo.messages] == ["2 new messages from @alice"]
    assert 0 < expo.messages[0]["ttl"] <= 60
    with in_one_moment(again):
        await write(again, alice, chat, "late")
        again.sql("UPDATE push_outbox SET first_at = now() - interval '61 minutes'")
    await settled(again)
    assert len(expo.messages) == 1


async def test_reading_elsewhere_updates_the_badge_in_silence(start: Start, expo: ExpoStandIn) -> None:
    """Once it has been set by a push; reading what never was pushed costs nothing, and neither does receiving."""
    server, alice, bob, chat, token = await scene(start, expo)
    other = await server.conversation(alice, bob, bountyId=(await server.bounty())[0])
    with in_one_moment(server):
        first = await write(server, alice, chat, "one", "two")
        second = await write(server, alice, other, "three")
    await settled(server)
    assert {message["badge"] for message in expo.messages} == {3}
    await mark(server, bob, chat, "delivered", *first)
    await settled(server)
    assert expo.silent == []
    await mark(server, bob, chat, "read", *first)
    await until(lambda: len(expo.silent) == 1)
    silent = expo.silent[0]
    silent.pop("ttl")
    assert silent == {
        "to": token, "badge": 1, "_contentAvailable": True, "priority": "normal",
        "data": {"notificationType": "badge"},
    }  # fmt: skip
    await mark(server, bob, other, "read", *second)
    await until(lambda: len(expo.silent) == 2)
    assert expo.silent[1]["badge"] == 0
    await settled(server)
    with in_one_moment(server):
        third = await write(server, alice, chat, "four")
        await mark(server, bob, chat, "read", *third)
    await settled(server)
    assert len(expo.silent) == 2 and len(expo.messages) == 2
    assert server.app.push is not None and not server.app.push.dropped, "there was nothing to be withdrawn"


async def test_the_badge_is_what_the_list_counts(start: Start, expo: ExpoStandIn) -> None:
    """Unread messages of others in all conversations that are shown; not one's own, not hidden ones."""
    server, alice, bob, chat, _ = await scene(start, expo)
    carol = await server.person("carol")
    with_carol = await server.conversation(bob, carol)
    await write(server, carol, with_carol, "hidden")
    await server.rest("DELETE", f"/api/conversations/{with_carol}", user=bob)
    ids = await write(server, alice, chat, "read", "unread")
    await mark(server, bob, chat, "read", ids[0])
    await write(server, bob, chat, "my own")
    await settled(server)
    expo.requests.clear()
    await write(server, alice, chat, "new")
    await settled(server)
    listed = (await server.rest("GET", "/api/conversations", user=bob)).body["conversations"]
    assert expo.messages[-1]["badge"] == sum(one["unreadCount"] for one in listed) == 2


async def test_a_badge_that_counts_much_keeps_nobody_waiting(start: Start, expo: ExpoStandIn) -> None:
    """Somebody who reads nothing, on many devices, costs one count, and one with an end."""
    server = await start(**pushing(expo, request_timeout_s=0.5))
    alice, bob, chat = await server.pair()
    tokens = {await device(server, bob) for _ in range(20)}
    server.sql(
        """
        WITH made AS (
            INSERT INTO conversations (is_group) SELECT true FROM generate_series(1, 100) RETURNING id
        ), people AS (
            INSERT INTO conversation_participants (conversation_id, user_id)
            SELECT id, person::uuid FROM made, unnest(ARRAY[%s, %s]) AS p (person)
        ), written AS (
            INSERT INTO messages (conversation_id, sender_id, text, seq)
            SELECT id, %s, 'unread', n FROM made, generate_series(1, 1000) n
        )
        SELECT 1
        """,
        alice, bob, alice,
    )  # fmt: skip
    server.sql("UPDATE conversations SET last_seq = 1000 WHERE is_group")
    await write(server, alice, chat, "hello")
    await settled(server)
    assert {message["to"]: message["badge"] for message in expo.messages} == dict.fromkeys(tokens, 10_000)


async def test_preview_off_sends_no_text(start: Start, expo: ExpoStandIn) -> None:
    """Neither of messages nor of notifications."""
    server, alice, bob, chat, _ = await scene(start, expo, push_preview="off")
    await write(server, alice, chat, "a secret")
    server.sql(
        "INSERT INTO notifications (user_id, title, body, type) VALUES (%s, 'a secret', 'a secret', 'payments')", bob
    )
    await settled(server)
    assert len(expo.messages) == 2 and "secret" not in str(expo.messages)
    assert "New message from @alice" in {message.get("body") for message in expo.messages}


async def test_who_wants_none_gets_none(start: Start, expo: ExpoStandIn) -> None:
    """By kind, by conversation, by the clock where they are."""
    server, alice, bob, chat, _ = await scene(start, expo)
    other = await server.conversation(alice, bob, bountyId=(await server.bounty())[0])

    async def prefer(**preferences: Any) -> None:
        answer = await server.rest("PUT", "/api/notification-preferences", preferences, user=bob)
        assert answer.status == 200, answer

    async def pushed(conversation: str) -> int:
        expo.requests.clear()
        await write(server, alice, conversation, "hello")
        await settled(server)
        return len(expo.messages)

    await prefer(messagesEnabled=False)
    assert await pushed(chat) == 0
    await prefer(messagesEnabled=True, mutedConversationIds=[chat])
    assert (await pushed(chat), await pushed(other)) == (0, 1)
    now = datetime.now(UTC)
    hours = {"start": f"{now - timedelta(hours=1):%H:%M}", "end": f"{now + timedelta(hours=2):%H:%M}"}
    await prefer(mutedConversationIds=[], quietHours={**hours, "timeZone": "UTC"})
    assert await pushed(chat) == 0
    await prefer(quietHours={**hours, "timeZone": "Asia/Kolkata"})
    assert await pushed(chat) == 1
    await prefer(quietHours=None)
    assert await pushed(chat) == 1
    # A type that the app's earlier rows have is of the same kind.
    await prefer(paymentsEnabled=False)
    for kind, count in (("payment", 0), ("payments", 0), ("follow", 1), ("no such", 2)):
        server.sql("INSERT INTO notifications (user_id, title, type) VALUES (%s, 't', %s)", bob, kind)
        await settled(server)
        assert len(expo.messages) == count + 1
    assert [message["channelId"] for message in expo.messages] == ["messages", "default", "default"]


async def test_nonsense_in_the_table_keeps_nothing_back(start: Start, expo: ExpoStandIn) -> None:
    """Quiet hours that no clock has, written past the server, are none, for their owner and for all others."""
    server = await start(**pushing(expo))
    alice, bob, chat = await server.pair()
    carol, dave, other_chat = await server.pair()
    tokens = {await device(server, bob), await device(server, dave)}
    server.sql(
        "INSERT INTO notification_preferences (user_id, quiet_start, quiet_end, quiet_time_zone)"
        " VALUES (%s, '00:00', '24:00', 'UTC')",
        bob,
    )
    await write(server, alice, chat, "hello")
    await write(server, carol, other_chat, "hello")
    await settled(server)
    assert {message["to"] for message in expo.messages} == tokens
    answer = await server.rest("GET", "/api/notification-preferences", user=bob)
    assert answer.body["quietHours"] is None


async def test_a_device_that_changed_hands(start: Start, expo: ExpoStandIn) -> None:
    """What was queued for its earlier owner is not shown to the next."""
    server, alice, _, chat, token = await scene(start, expo)
    expo.trouble = [lambda handler: handler.set_status(503)] * 50
    await write(server, alice, chat, "for bob's eyes")
    await until(lambda: len(expo.trouble) < 50)
    carol = await server.person()
    assert (await server.rest("POST", "/api/push-tokens", {"token": token}, user=carol)).status == 204
    expo.trouble.clear()
    await settled(server)
    assert expo.messages == []


async def test_who_was_taken_out_is_not_pushed_to(start: Start, expo: ExpoStandIn) -> None:
    """Between the message and the push."""
    server, alice, bob, _, token = await scene(start, expo)
    carol = await server.person()
    theirs = await device(server, carol)
    group = await server.conversation(alice, bob, carol)
    with in_one_moment(server):
        await write(server, alice, group, "hello")
        server.sql("DELETE FROM conversation_participants WHERE conversation_id = %s AND user_id = %s", group, bob)
    await settled(server)
    assert [message["to"] for message in expo.messages] == [theirs] and not expo.to(token)


async def test_a_bounty_s_change_is_pushed(start: Start, expo: ExpoStandIn) -> None:
    """To its creator and its hunter, by kind, with the bounty; not to one who has read of it."""
    server, alice, bob, _, token = await scene(start, expo, push_after_s=2)
    hers = await device(server, alice)
    bounty, _ = await server.bounty(alice)
    body = {"status": "in_progress", "hunterId": bob}
    assert (await server.rest("POST", f"/api/bounties/{bounty}/status", body, user=alice)).status == 200
    await settled(server)
    assert sorted(message["to"] for message in expo.messages) == sorted([token, hers])
    (message,) = expo.to(token)
    assert (message["title"], message["body"]) == ("Find my cat", "It is now in progress.")
    assert message["channelId"] == "bounties"
    data = message["data"]
    assert (data["bountyId"], data["notificationType"]) == (bounty, "acceptances") and data["notificationId"]
    socket = await server.socket("/messages/subscribe", token=harness.token(bob))  # there: waited for
    await socket.get("notification.new")
    server.sql("UPDATE bounties SET status = 'completed' WHERE id = %s", bounty)
    new = await socket.get("notification.new", notificationType="completions")
    await server.rest("POST", "/api/notifications/read", {"ids": [new["id"]]}, user=bob)
    await settled(server)
    assert len(expo.to(token)) == 1 and len(expo.to(hers)) == 2


@pytest.mark.parametrize("settings", [{"push": "off"}, {"expo_access_token": None}])
async def test_off_costs_nothing(start: Start, expo: ExpoStandIn, settings: dict[str, Any]) -> None:
    """No row a message, nothing sent, and the health says so."""
    server, alice, bob, chat, _ = await scene(start, expo, **settings)
    ids = await write(server, alice, chat, "one", "two")
    socket = await server.messages(alice)
    await socket.say(chat, "three")
    await mark(server, bob, chat, "read", *ids)
    server.sql("INSERT INTO notifications (user_id, title) VALUES (%s, 't')", bob)
    health = await server.rest("GET", "/health/detailed")
    assert health.body["push"] == {"status": "off", "latencyMs": None}
    for table in ("push_outbox", "push_queue", "push_servers", "push_tickets"):
        assert server.sql(f"SELECT 1 FROM {table}") == []
    assert not [task for task in asyncio.all_tasks() if "Push" in repr(task)] and expo.requests == []


async def test_health_and_counters(start: Start, expo: ExpoStandIn) -> None:
    """What was sent, what failed and why, what was withdrawn, what waits."""
    server, alice, _, chat, token = await scene(start, expo, push_receipts_after_s=0.3)
    push = server.app.push
    assert push is not None
    await write(server, alice, chat, "one")
    await until(lambda: push.sent == 1)
    health = await server.rest("GET", "/health/detailed")
    assert health.body["push"]["status"] == "up" and health.body["push"]["latencyMs"] > 0
    expo.ticket_errors[token] = "MessageTooBig"
    await write(server, alice, chat, "two")
    await until(lambda: push.failed["MessageTooBig"] == 1)
    expo.trouble = [lambda handler: handler.set_status(503)] * 20
    await write(server, alice, chat, "three")
    await until(lambda: push.depth == 1 and not push.healthy, 15)
    health = await server.rest("GET", "/health/detailed")
    assert (health.body["push"]["status"], health.body["push"]["waiting"]) == ("down", 1)
    assert health.status == 200, "chat works on without Expo"
    assert token not in str(health.body)
