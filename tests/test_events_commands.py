"""What a subscriber of the public stream may send: pings, narrowing, and frames that are wrong."""

import uuid
from typing import Any

from protocol.inbound import MAX_TOPICS
from tests.bounty_stream import ISO_TIME, new_bounty, old_bounties, set_status, statuses
from tests.harness import Client, Server


async def narrowed(client: Client, kind: str, *bounties: str) -> list[str]:
    """Subscribe or unsubscribe, and return the bounties of the answer."""
    await client.send(kind, bountyIds=list(bounties))
    answer = await client.get("subscribed")
    assert set(answer) == {"type", "bountyIds"}
    return list(answer["bountyIds"])


async def refused(client: Client, code: str, **fields: Any) -> str:
    """Check the next error, with what is known of its frame, and return its message."""
    error = await client.error(code)
    assert error == {**error, **fields}
    assert set(error) == {"type", "code", "message", "timestamp", *fields}
    assert ISO_TIME.fullmatch(error["timestamp"])
    return str(error["message"])


async def test_ping(server: Server) -> None:
    """A ping's ts comes back in the pong as it was sent: a number, a string, null or none."""
    client = await server.events()
    for ts in (1, -1, 0, 1767355200123, 1.5, 2**53, "", "abc", "2026-01-02T12:00:00.000Z", None):
        await client.send("ping", ts=ts)
        pong = await client.frame()
        assert (pong["type"], pong["ts"], type(pong["ts"])) == ("pong", ts, type(ts))
    await client.send("ping")
    assert (await client.frame()).get("ts") is None


async def test_pings_are_answered_in_order(server: Server) -> None:
    """Many pings at once get a pong each, in the order in which they were sent."""
    client = await server.events()
    for ts in range(100):
        await client.send("ping", ts=ts)
    assert [(await client.get("pong"))["ts"] for _ in range(100)] == list(range(100))


async def test_an_unknown_type_is_told(server: Server) -> None:
    """An unknown type, those of messaging included, is UNKNOWN_TYPE with requestType, and the socket lives."""
    client = await server.events()
    for kind in ("dance", "join", "message.send", "Ping"):
        await client.wrong(kind, conversationId=7)
        await refused(client, "UNKNOWN_TYPE", requestType=kind)
    await client.send("ping", ts=1)
    await client.get("pong")


async def test_what_is_no_frame_is_told(server: Server) -> None:
    """No JSON is INVALID_JSON; no object, no or a wrong type, binary are INVALID_FRAME; the socket lives."""
    client = await server.events()
    for text in ("", "{", "hello", "{'type': 'ping'}", '{"type": "ping"} {}', "NaN", '{"a":' + "[" * 5000):
        await client.raw(text)
        await refused(client, "INVALID_JSON")
    for frame in ("[]", "7", "null", "{}", '{"type": 7}', '{"type": null}', b'{"type": "ping"}'):
        await client.raw(frame)
        await refused(client, "INVALID_FRAME")
    await client.send("ping", ts=1)
    await client.get("pong")


async def test_unknown_fields_are_ignored(server: Server) -> None:
    """A frame may hold fields that nobody knows."""
    client = await server.events()
    await client.send("ping", ts=1, mood="fine", deep={"a": [1]})
    assert (await client.frame())["type"] == "pong"


async def test_a_wrong_ts_is_named(server: Server) -> None:
    """A ts that is neither number nor string is INVALID_FRAME naming it."""
    client = await server.events()
    for ts in ({}, [1], True):
        await client.wrong("ping", ts=ts)
        assert "ts" in await refused(client, "INVALID_FRAME", requestType="ping")


# Narrowing


async def test_the_query_narrows_the_stream(server: Server) -> None:
    """bountyId in the query, one or several, upper case too: only these bounties."""
    one, two, other = await old_bounties(server, 3)
    single, double = await server.events(bountyId=one.upper()), await server.events(bountyId=[one, two])
    everything = await server.events()
    for bounty in (other, two, one):
        set_status(server, bounty, "archived")
    assert await statuses(single, 1) == [(one, "archived")]
    assert await statuses(double, 2) == [(two, "archived"), (one, "archived")]
    assert [bounty for bounty, _ in await statuses(everything, 3)] == [other, two, one]


async def test_subscribe_narrows_and_adds(server: Server) -> None:
    """subscribe narrows the stream to its bounties and those before; the answer names all of them."""
    one, two, other = await old_bounties(server, 3)
    client = await server.events()
    assert await narrowed(client, "subscribe", one) == [one]
    assert await narrowed(client, "subscribe", two, one, two.upper()) == sorted([one, two])
    for bounty in (other, one, two):
        set_status(server, bounty, "archived")
    assert await statuses(client, 2) == [(one, "archived"), (two, "archived")]


async def test_subscribe_adds_to_the_query(server: Server) -> None:
    """subscribe adds to the bounties of the query."""
    one, two, other = await old_bounties(server, 3)
    client = await server.events(bountyId=one)
    assert await narrowed(client, "subscribe", two) == sorted([one, two])
    for bounty in (other, one, two):
        set_status(server, bounty, "archived")
    assert await statuses(client, 2) == [(one, "archived"), (two, "archived")]


async def test_unsubscribe_takes_bounties_out(server: Server) -> None:
    """unsubscribe leaves the other bounties; one that was not there changes nothing."""
    one, two, other = await old_bounties(server, 3)
    client = await server.events(bountyId=[one, two])
    assert await narrowed(client, "unsubscribe", one, other) == [two]
    for bounty in (one, other, two):
        set_status(server, bounty, "archived")
    assert await statuses(client, 1) == [(two, "archived")]


async def test_an_empty_list_means_all_again(server: Server) -> None:
    """subscribe [] and unsubscribe [], and unsubscribing the last one, answer [] and give the whole stream again."""
    one, other = await old_bounties(server, 2)
    for kind, bounties in (("subscribe", []), ("unsubscribe", []), ("unsubscribe", [one])):
        client = await server.events(bountyId=one)
        assert await narrowed(client, kind, *bounties) == []
        set_status(server, other, "archived", "open")
        assert await statuses(client, 2) == [(other, "archived"), (other, "open")]


async def test_narrowing_is_one_connection_s(server: Server) -> None:
    """What one connection narrows or closes changes nothing for another of the same bounty."""
    [bounty] = await old_bounties(server, 1)
    first, second, third = [await server.events(bountyId=bounty) for _ in range(3)]
    await narrowed(first, "unsubscribe", bounty)
    await second.close()
    set_status(server, bounty, "archived")
    assert await statuses(third, 1) == [(bounty, "archived")]


async def test_a_bounty_that_does_not_exist_yet(server: Server) -> None:
    """The stream may be narrowed to a bounty before there is one: its first event is its creation."""
    bounty = str(uuid.uuid4())
    client = await server.events(bountyId=bounty)
    new_bounty(server)
    server.sql("INSERT INTO bounties (id, title) VALUES (%s, 'x')", bounty)
    assert await statuses(client, 1) == [(bounty, "open")]


async def test_a_bad_uuid_in_a_command_is_named(server: Server) -> None:
    """bountyIds that is missing, no list or holds no UUID is INVALID_FRAME naming it, and narrows nothing."""
    bounty, other = await old_bounties(server, 2)
    client = await server.events(bountyId=bounty)
    for kind in ("subscribe", "unsubscribe"):
        for wrong in (["7"], [other, "x"], [7], [None], [[other]], other, None, {"a": 1}):
            await client.wrong(kind, bountyIds=wrong)
            assert "bountyIds" in await refused(client, "INVALID_FRAME", requestType=kind)
    await client.wrong("subscribe")
    assert "bountyIds" in await refused(client, "INVALID_FRAME", requestType="subscribe")
    for changed in (other, bounty):
        set_status(server, changed, "archived")
    assert await statuses(client, 1) == [(bounty, "archived")]


async def test_a_bad_uuid_in_the_query_is_named(server: Server) -> None:
    """A bountyId in the query that is no UUID gets an error naming it; the others count, and the socket lives."""
    bounty, other = await old_bounties(server, 2)
    client = await server.events(bountyId=["17", bounty])
    assert "bountyId" in await refused(client, "INVALID_FRAME")
    for changed in (other, bounty):
        set_status(server, changed, "archived")
    assert await statuses(client, 1) == [(bounty, "archived")]


async def test_too_many_bounties_are_refused(server: Server) -> None:
    """More bounties than the limit, at once or by and by, are INVALID_FRAME, and what was narrowed stays."""
    bounty, other = await old_bounties(server, 2)
    client = await server.events(bountyId=bounty)
    many = [str(uuid.uuid4()) for _ in range(MAX_TOPICS)]
    for too_many, send in (([*many, other], client.wrong), ([*many[1:], other], client.send)):
        await send("subscribe", bountyIds=too_many)
        assert "bountyIds" in await refused(client, "INVALID_FRAME", requestType="subscribe")
    for changed in (other, bounty):
        set_status(server, changed, "archived")
    assert await statuses(client, 1) == [(bounty, "archived")]
    assert len(await narrowed(client, "subscribe", *many[1:])) == MAX_TOPICS
