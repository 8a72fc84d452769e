"""Trouble of the store that is no fault of anybody's frame: told as STORE_UNAVAILABLE, and over when it is over."""

import asyncio
import time

import pytest

from tests.harness import Server, until

_RAISE = """
    CREATE FUNCTION in_trouble() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = %s; END $$;
    CREATE TRIGGER in_trouble BEFORE INSERT ON messages EXECUTE FUNCTION in_trouble();
"""


@pytest.mark.parametrize("state", ["53100", "25006", "57P03", "58030"])
async def test_a_full_disk_and_its_like(server: Server, state: str) -> None:
    """A full disk, a read-only database, a recovery, an I/O error: STORE_UNAVAILABLE, not INTERNAL; nothing is lost."""
    alice, bob, chat = await server.pair()
    client, other = await server.messages(alice), await server.messages(bob)
    server.sql(_RAISE, state)
    await client.send("message.send", conversationId=chat, text="hi", clientMessageId="k")
    error = await client.error("STORE_UNAVAILABLE")
    assert error["clientMessageId"] == "k"
    assert error["retryAfterMs"] > 0
    answer = await server.rest("POST", f"/api/conversations/{chat}/messages", {"text": "hi"}, user=alice)
    assert (answer.status, answer.body["code"]) == (503, "STORE_UNAVAILABLE")
    server.sql("DROP TRIGGER in_trouble ON messages")
    assert (await client.say(chat, "hi", "k"))["seq"] == 1
    await other.get("message.new", text="hi", seq=1)


async def test_lists_that_wait_keep_no_message_from_being_written(server: Server) -> None:
    """However many ask for what is locked, or slow: half of the connections are left to chat, and to who connects."""
    alice, bob, chat = await server.pair()
    phone, other = await server.messages(alice), await server.messages(bob)
    with server.locked("bounties"):
        asked = [asyncio.ensure_future(server.rest("GET", "/api/bounties")) for _ in range(30)]
        await until(lambda: server.app.database.waiting > 20)
        began = time.monotonic()
        for number in range(20):
            sent = await phone.say(chat, "still there?")
            frame = await other.get("message.new", messageId=sent["messageId"])
            await other.send("message.read", conversationId=chat, seq=frame["seq"])
            await phone.get("message.read", seq=frame["seq"])
            assert sent["seq"] == number + 1
        await server.messages(alice)
        assert time.monotonic() - began < 2
        assert not any(each.done() for each in asked)
    assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
    assert server.app.database.waiting == 0
