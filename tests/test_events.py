"""The public stream: who may connect, what an event looks like, where events come from and what is none."""

import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing

import psycopg2

from protocol.inbound import BOUNTY_STATUSES
from tests.bounty_stream import ISO_TIME, SERVICE, caught_up, new_bounty, set_status, statuses
from tests.harness import Server, token


async def test_the_greeting(start: Callable[..., Awaitable[Server]]) -> None:
    """connection: message, timestamp, connectionId, lastEventId (the newest) and heartbeatIntervalMs."""
    server = await start(heartbeat_interval_s=7)
    set_status(server, new_bounty(server), "archived")
    assert await caught_up(server) == 2
    client = await server.socket("/events/subscribe")
    greeting = await client.frame()
    assert set(greeting) == {"type", "message", "timestamp", "connectionId", "lastEventId", "heartbeatIntervalMs"}
    assert (greeting["type"], greeting["message"]) == ("connection", "Connected to BountyExpo realtime events")
    assert ISO_TIME.fullmatch(greeting["timestamp"])
    assert (greeting["lastEventId"], greeting["heartbeatIntervalMs"]) == (2, 7000)
    assert uuid.UUID(greeting["connectionId"])


async def test_an_empty_log_starts_at_0(server: Server) -> None:
    """The greeting's lastEventId is 0 before the first event, and the first event is 1."""
    client = await server.socket("/events/subscribe")
    assert (await client.frame())["lastEventId"] == 0
    new_bounty(server)
    assert (await client.get("bounty.status"))["eventId"] == 1


async def test_every_connection_has_its_own_id(server: Server) -> None:
    """connectionId names one connection."""
    clients = [await server.events() for _ in range(3)]
    assert len({client.seen[0]["connectionId"] for client in clients}) == 3


async def test_anyone_may_connect(server: Server) -> None:
    """The stream is given with no token and with a valid, expired, forged or nonsense one, in any of the three ways."""
    user = await server.person()
    given = [None, token(user), token(user, exp=1), token(user, secret="x" * 40), token(None, **SERVICE), "nonsense"]
    clients = [await server.events(**({} if text is None else {"token": text})) for text in given]
    for text in given[1:]:
        header, protocols = {"Authorization": f"Bearer {text}"}, ["bountyexpo.v1", f"bearer.{text}"]
        clients.append(await server.socket("/events/subscribe", headers=header))
        clients.append(await server.socket("/events/subscribe", subprotocols=protocols))
        assert clients[-1].socket.selected_subprotocol == "bountyexpo.v1"
    bounty = new_bounty(server)
    for client in clients:
        assert (await client.get("bounty.status"))["id"] == bounty


async def test_a_valid_token_only_adds_the_limit_of_its_user(start: Callable[..., Awaitable[Server]]) -> None:
    """Past MAX_CONNECTIONS_PER_USER a valid token gets CONNECTION_LIMIT and 4429; others are not counted with it."""
    server = await start(max_connections_per_user=1)
    user = await server.person()
    await server.events(token=token(user))
    second = await server.socket("/events/subscribe", token=token(user))
    await second.error("CONNECTION_LIMIT")
    assert await second.closed() == 4429
    for other in (token(await server.person()), token(user, exp=1), ""):
        await server.events(token=other)


# What an event is


async def test_the_fields_of_an_event(server: Server) -> None:
    """bounty.status: id, status, timestamp and eventId, of their types, and nothing else."""
    client = await server.events()
    before = time.time()
    bounty = new_bounty(server)
    event = await client.get("bounty.status")
    assert set(event) == {"type", "id", "status", "timestamp", "eventId"}
    assert (event["id"], event["status"], event["eventId"]) == (bounty, "open", 1)
    assert type(event["eventId"]) is int
    assert ISO_TIME.fullmatch(event["timestamp"])
    written = server.sql("SELECT extract(epoch FROM %s::timestamptz)", event["timestamp"])[0][0]
    assert before - 1 < written < time.time() + 1


async def test_a_new_bounty_is_an_event(server: Server) -> None:
    """Every committed new bounty is an event with its status, over REST and with SQL."""
    client = await server.events()
    posted, _ = await server.bounty()
    inserted = new_bounty(server, "in_progress")
    assert await statuses(client, 2) == [(posted, "open"), (inserted, "in_progress")]


async def test_every_status_is_an_event(server: Server) -> None:
    """status is each of the seven, and eventId rises by one."""
    bounty, client = new_bounty(server, "archived"), await server.events()
    set_status(server, bounty, *BOUNTY_STATUSES)
    events = [await client.get("bounty.status", id=bounty, status=status) for status in BOUNTY_STATUSES]
    first = events[0]["eventId"]
    assert [event["eventId"] for event in events] == [first + place for place in range(7)]
    expected = "open in_progress completed archived deleted cancelled cancellation_requested"
    assert expected.split() == [event["status"] for event in events]


async def test_a_statement_for_many_bounties_is_an_event_each(server: Server) -> None:
    """Every changed row of one UPDATE is an event of its own."""
    bounties = {new_bounty(server) for _ in range(5)}
    client = await server.events(lastEventId=5)
    server.sql("UPDATE bounties SET status = 'archived'")
    assert {bounty for bounty, _ in await statuses(client, 5)} == bounties


async def test_changes_of_one_transaction_come_in_order(server: Server) -> None:
    """Each change of a status in one transaction is an event, in the order in which they were made."""
    client = await server.events()
    with closing(psycopg2.connect(server.dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO bounties (title) VALUES ('x') RETURNING id")
        bounty = cursor.fetchone()[0]
        for status in ("in_progress", "completed", "open"):
            cursor.execute("UPDATE bounties SET status = %s WHERE id = %s", (status, bounty))
    assert await statuses(client, 4) == [(bounty, status) for status in ("open", "in_progress", "completed", "open")]


# Where events come from, and what is none


async def test_a_change_over_rest_is_one_event(server: Server) -> None:
    """POST /api/bounties/{id}/status by the creator, an admin or the service role is one event, as any change."""
    bounty, creator = await server.bounty()
    client = await server.events(bountyId=bounty, lastEventId=1)
    admin = {"app_metadata": {"role": "admin"}}
    tokens = [token(creator), token(str(uuid.uuid4()), **admin), token(None, **SERVICE)]
    wanted = ["in_progress", "completed", "archived"]
    for status, text in zip(wanted, tokens, strict=True):
        headers = {"Authorization": f"Bearer {text}"}
        answer = await server.rest("POST", f"/api/bounties/{bounty}/status", {"status": status}, headers=headers)
        assert answer.status == 200
    assert await statuses(client, 3) == [(bounty, status) for status in wanted]
    await client.nothing("bounty.status")


async def test_a_refused_change_is_no_event(server: Server) -> None:
    """What REST refuses (403, 404 UNKNOWN_USER, 400) is not told."""
    bounty, creator = await server.bounty()
    client = await server.events(lastEventId=1)
    path = f"/api/bounties/{bounty}/status"
    stranger, nobody = await server.person(), str(uuid.uuid4())
    assert (await server.rest("POST", path, {"status": "deleted"}, user=stranger)).status == 403
    assert (await server.rest("POST", path, {"status": "deleted", "hunterId": nobody}, user=creator)).status == 404
    assert (await server.rest("POST", path, {"status": "sold"}, user=creator)).status == 400
    marker = new_bounty(server)
    event = await client.get("bounty.status")
    assert (event["id"], event["eventId"]) == (marker, 2)


async def test_the_same_status_again_is_no_event(server: Server) -> None:
    """Only a change of bounties.status is an event: not the same status again, nor another column, nor a DELETE."""
    bounty, creator = await server.bounty()
    client = await server.events(lastEventId=1)
    set_status(server, bounty, "open", "open")
    path = f"/api/bounties/{bounty}/status"
    assert (await server.rest("POST", path, {"status": "open"}, user=creator)).status == 200
    server.sql("UPDATE bounties SET title = 'another', updated_at = now()")
    server.sql("DELETE FROM bounties")
    marker = new_bounty(server)
    event = await client.get("bounty.status")
    assert (event["id"], event["eventId"]) == (marker, 2)


async def test_what_was_rolled_back_is_no_event(server: Server) -> None:
    """A rolled back new bounty or change is not told, and leaves no gap in eventId."""
    bounty = new_bounty(server)
    client = await server.events(lastEventId=1)
    with closing(psycopg2.connect(server.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO bounties (title) VALUES ('x')")
        cursor.execute("UPDATE bounties SET status = 'deleted' WHERE id = %s", (bounty,))
        connection.rollback()
    set_status(server, bounty, "completed")
    event = await client.get("bounty.status")
    assert (event["id"], event["status"], event["eventId"]) == (bounty, "completed", 2)


async def test_an_event_is_in_the_log_before_it_is_told(server: Server) -> None:
    """Whoever saw an event finds it in the log, under its eventId."""
    client = await server.events()
    bounty = new_bounty(server)
    event = await client.get("bounty.status")
    logged = server.sql("SELECT bounty_id, status FROM bounty_events WHERE event_id = %s", event["eventId"])
    assert logged == [(bounty, "open")]
