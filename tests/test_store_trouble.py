"""Trouble of the store that is no fault of anybody's frame: told as STORE_UNAVAILABLE, and over when it is over."""

import pytest

from tests.harness import Server

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
