"""In-app notifications: over REST, live, and again at each connect until they are read."""

import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.faults import terminate_backends
from tests.harness import Client, Server, token, until
from tests.raw import TEXT, RawSocket, exchange

Start = Callable[..., Awaitable[Server]]


def notify(server: Server, user: str, title: str, kind: str = "system") -> str:
    """Write a notification past the server, as the app's backend does."""
    rows = server.sql(
        "INSERT INTO notifications (user_id, title, body, type) VALUES (%s, %s, 'b', %s) RETURNING id::text",
        user, title, kind,
    )  # fmt: skip
    return str(rows[0][0])


async def connect(server: Server, user: str, **query: Any) -> tuple[Client, list[dict[str, Any]]]:
    """Open a device; return it with the notifications that it was sent at once."""
    client = await server.socket("/messages/subscribe", token=token(user), **query)
    greeting = [await client.frame()]
    assert greeting[0]["type"] == "connected"
    count = server.sql("SELECT count(*) FROM notifications WHERE user_id = %s AND is_read IS NOT TRUE", user)[0][0]
    if query.get("replay") == "0":
        return client, []
    return client, [await client.get("notification.new") for _ in range(count)]


async def page(server: Server, user: str, query: str = "") -> dict[str, Any]:
    """Return a page."""
    answer = await server.rest("GET", f"/api/notifications{query}", user=user)
    assert answer.status == 200, answer
    return dict(answer.body)


async def read(server: Server, user: str, body: object) -> int:
    """Mark read; return how many were."""
    answer = await server.rest("POST", "/api/notifications/read", body, user=user)
    assert answer.status == 200 and answer.body["success"] is True, answer
    return int(answer.body["updatedCount"])


async def test_a_bounty_s_creator_and_hunter_hear_of_its_status(server: Server) -> None:
    """Whoever changed it, live and in the list; once where the two are one."""
    alice, bob = await server.person(), await server.person()
    bounty, _ = await server.bounty(alice)
    phones = [await server.messages(user) for user in (alice, bob)]
    stranger = await server.messages(await server.person())
    body = {"status": "in_progress", "hunterId": bob}
    await server.rest("POST", f"/api/bounties/{bounty}/status", body, user=alice)
    for phone in phones:
        frame = await phone.get("notification.new")
        assert uuid.UUID(frame["id"]) and frame["timestamp"].endswith("Z")
        assert {name: frame[name] for name in ("notificationType", "title", "body", "data")} == {
            "notificationType": "acceptances",
            "title": "Find my cat",
            "body": "It is now in progress.",
            "data": {"bountyId": bounty, "status": "in_progress"},
        }
        assert "replayed" not in frame
    server.sql("UPDATE bounties SET status = 'completed' WHERE id = %s", bounty)
    for phone in phones:
        assert (await phone.get("notification.new"))["notificationType"] == "completions"
    server.sql("UPDATE bounties SET status = 'completed', title = 'Found' WHERE id = %s", bounty)
    server.sql("UPDATE bounties SET hunter_id = creator_id, status = 'cancellation_requested' WHERE id = %s", bounty)
    assert (await phones[0].get("notification.new"))["body"] == "Its cancellation was requested."
    await stranger.nothing("notification.new")
    assert await phones[0].flush() == [] and await phones[1].flush() == []
    listed = await page(server, alice)
    assert [one["type"] for one in listed["notifications"]] == ["system", "completions", "acceptances"]
    assert listed["unreadCount"] == 3
    assert len((await page(server, bob))["notifications"]) == 2


async def test_a_table_that_refuses_does_not_keep_a_bounty_from_changing(server: Server) -> None:
    """The app's own checks may."""
    bounty, creator = await server.bounty()
    server.sql("ALTER TABLE notifications ADD CONSTRAINT own CHECK (type = 'nothing of ours')")
    answer = await server.rest("POST", f"/api/bounties/{bounty}/status", {"status": "archived"}, user=creator)
    assert answer.status == 200
    assert (await page(server, creator))["notifications"] == []


async def test_replayed_until_read(server: Server) -> None:
    """At each connect, oldest first, after which they are live; what is read comes no more."""
    alice = await server.person()
    ids = [notify(server, alice, f"n{number}", "payments") for number in range(3)]
    for _ in range(2):
        phone, replayed = await connect(server, alice)
        assert [(frame["id"], frame["replayed"]) for frame in replayed] == [(one, True) for one in ids]
        assert replayed[0]["title"] == "n0" and replayed[0]["notificationType"] == "payments"
        await phone.close()
    assert await read(server, alice, {"ids": ids[:2]}) == 2
    phone, replayed = await connect(server, alice)
    assert [frame["id"] for frame in replayed] == ids[2:]
    live = notify(server, alice, "live")
    frame = await phone.get("notification.new")
    assert frame["id"] == live and "replayed" not in frame
    assert await read(server, alice, {"all": True}) == 2
    assert sorted((await phone.get("notification.read"))["ids"]) == sorted([ids[2], live])
    await phone.close()
    phone, replayed = await connect(server, alice)
    assert replayed == []
    await phone.nothing("notification.new", "notification.read")


async def test_every_device_hears_what_was_read(server: Server) -> None:
    """Once, whichever way it was read; what another user reads is not theirs to hear."""
    alice, bob = await server.person(), await server.person()
    ids = [notify(server, alice, f"n{number}") for number in range(3)]
    phone, _ = await connect(server, alice)
    tablet, _ = await connect(server, alice)
    await read(server, alice, {"ids": [ids[0], ids[0], str(uuid.uuid4())]})
    server.sql("UPDATE notifications SET is_read = true WHERE id = %s", ids[1])
    server.sql("DELETE FROM notifications WHERE id = %s", ids[2])
    for device in (phone, tablet):
        heard: list[str] = []
        while len(heard) < 3:
            heard += (await device.get("notification.read"))["ids"]
        assert sorted(heard) == sorted(ids)
    assert await read(server, alice, {"all": True}) == 0
    other = notify(server, alice, "mine")
    await phone.get("notification.new")
    assert await read(server, bob, {"ids": [other]}) == 0 and await read(server, bob, {"all": True}) == 0
    await phone.nothing("notification.read")


async def test_replay_0_skips_what_was_there(server: Server) -> None:
    """And nothing that comes."""
    alice = await server.person()
    old = notify(server, alice, "old")
    phone, _ = await connect(server, alice, replay="0")
    await phone.nothing("notification.new")
    new = notify(server, alice, "new")
    frame = await phone.get("notification.new")
    assert frame["id"] == new and "replayed" not in frame
    await read(server, alice, {"ids": [old]})
    assert (await phone.get("notification.read"))["ids"] == [old]


@pytest.mark.parametrize("replay", ["0", "1"])
async def test_a_change_while_a_socket_is_coming(server: Server, monkeypatch: pytest.MonkeyPatch, replay: str) -> None:
    """A look at the person then is too early for the socket: it still gets what it asked for, and all that is new."""
    alice = await server.person()
    notify(server, alice, "old")
    arrive = server.app.conversations.arrive

    async def slowly(*given: Any) -> Any:
        arrived = await arrive(*given)
        server.app.notifications.changed(alice)
        await until(lambda: server.app.notifications._telling is None)
        return arrived

    monkeypatch.setattr(server.app.conversations, "arrive", slowly)
    phone, _ = await connect(server, alice, replay=replay)
    if replay == "0":
        await phone.nothing("notification.new")
    new = notify(server, alice, "new")
    frame = await phone.get("notification.new")
    assert frame["id"] == new and "replayed" not in frame
    await phone.nothing("notification.new")


async def test_new_while_a_socket_is_coming(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written after the look at what is unread comes all the same."""
    alice = await server.person()
    arrive = server.app.conversations.arrive
    written: list[str] = []

    async def slowly(*given: Any) -> Any:
        arrived = await arrive(*given)
        written.append(notify(server, alice, "new"))
        server.app.notifications.changed(alice)
        await until(lambda: server.app.notifications._telling is None)
        return arrived

    monkeypatch.setattr(server.app.conversations, "arrive", slowly)
    client = await server.socket("/messages/subscribe", token=token(alice))
    assert (await client.get("notification.new"))["id"] == written[0]
    await client.nothing("notification.new")


async def test_at_another_server(start: Start) -> None:
    """New and read alike."""
    one, two = await start(), await start()
    alice = await one.person()
    phone, _ = await connect(one, alice)
    tablet, _ = await connect(two, alice)
    new = notify(one, alice, "new")
    for device in (phone, tablet):
        assert (await device.get("notification.new"))["id"] == new
    await read(one, alice, {"all": True})
    for device in (phone, tablet):
        assert (await device.get("notification.read"))["ids"] == [new]


async def test_what_a_lost_wake_up_hid_is_found(server: Server) -> None:
    """When the listening connection is back."""
    await until(lambda: server.app.listener.connected)  # its coming up is a reason to look, too
    alice = await server.person()
    phone, _ = await connect(server, alice)
    # The look at the start is over when what was written after it has come, and nothing follows.
    heard = notify(server, alice, "with one")
    await phone.get("notification.new", id=heard)
    await phone.nothing("notification.new")
    server.sql("ALTER TABLE notifications DISABLE TRIGGER USER")
    quiet = notify(server, alice, "without a wake-up")
    server.sql("ALTER TABLE notifications ENABLE TRIGGER USER")
    await phone.nothing("notification.new")
    terminate_backends(server.dsn)
    assert (await phone.get("notification.new"))["id"] == quiet


async def test_pages(server: Server) -> None:
    """Newest first, by keyset; unread ones alone; another user's id is nothing to go on from."""
    alice, bob = await server.person(), await server.person()
    ids = [notify(server, alice, f"n{number}") for number in range(7)][::-1]
    theirs = notify(server, bob, "theirs")
    found: list[str] = []
    query = "?limit=3"
    while True:
        body = await page(server, alice, query)
        found += [one["id"] for one in body["notifications"]]
        if not body["pagination"]["hasMore"]:
            break
        query = f"?limit=3&before={found[-1]}"
    assert found == ids
    await read(server, alice, {"ids": ids[:5]})
    body = await page(server, alice, "?unread=true")
    assert [one["id"] for one in body["notifications"]] == ids[5:] and body["unreadCount"] == 2
    assert [one["isRead"] for one in (await page(server, alice))["notifications"]] == [True] * 5 + [False] * 2
    assert (await page(server, alice, f"?before={theirs}"))["notifications"] == []
    assert set(body["notifications"][0]) == {"id", "type", "title", "body", "data", "isRead", "createdAt"}


async def test_what_is_wrong_is_named(server: Server) -> None:
    """400, and 401 without a token."""
    alice = await server.person()
    for query in ("limit=0", "limit=201", "limit=x", "before=x", "unread=maybe"):
        answer = await server.rest("GET", f"/api/notifications?{query}", user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
        assert query.split("=")[0] in answer.body["message"]
    for body in ({}, {"ids": []} | {"all": True}, {"ids": ["x"]}, {"all": False}, {"ids": [str(uuid.uuid4())] * 1001}):
        answer = await server.rest("POST", "/api/notifications/read", body, user=alice)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST"), body
    assert await read(server, alice, {"ids": []}) == 0
    for method, path in (("GET", ""), ("POST", "/read")):
        assert (await server.rest(method, f"/api/notifications{path}", {})).status == 401


async def test_thousands_of_them(server: Server) -> None:
    """The newest 200 are replayed; reading them all is one frame's worth for each device."""
    alice = await server.person()
    server.sql(
        "INSERT INTO notifications (user_id, title, created_at) SELECT %s, 'n' || n, now() - n * interval '1 second'"
        " FROM generate_series(1, 3000) n", alice,
    )  # fmt: skip
    phone = await server.messages(alice)
    titles = [(await phone.get("notification.new"))["title"] for _ in range(200)]
    assert titles == [f"n{number}" for number in range(200, 0, -1)]
    await read(server, alice, {"all": True})
    heard: list[str] = []
    while len(heard) < 200:
        heard += (await phone.get("notification.read"))["ids"]
    await phone.nothing("notification.new")


async def test_large_ones_are_no_reason_to_be_closed(server: Server) -> None:
    """More at once than may wait for a slow reader: they come as they are read, each once and marked replayed."""
    alice = await server.person()
    server.sql(
        "INSERT INTO notifications (user_id, title, body, created_at)"
        " SELECT %s, 'n' || n, repeat('x', 50000), now() - n * interval '1 second' FROM generate_series(1, 200) n",
        alice,
    )
    path = "/messages/subscribe"
    async with RawSocket.open(server.port, path, Authorization=f"Bearer {token(alice)}") as phone:
        await until(lambda: any(one.lagging for one in server.app.registry.connections_of([alice])))
        late = notify(server, alice, "live")
        told: list[dict[str, Any]] = []
        while len(told) < 201:
            opcode, payload = await phone.frame()
            assert opcode == TEXT, payload
            frame = json.loads(payload)
            told += [frame] if frame["type"] == "notification.new" else []
    assert [frame["title"] for frame in told] == [*(f"n{number}" for number in range(200, 0, -1)), "live"]
    assert all(frame.get("replayed") for frame in told[:-1]) and "replayed" not in told[-1]
    assert told[-1]["id"] == late
    await until(lambda: not server.app.notifications._replaying)


async def test_data_however_deep_is_handed_on(server: Server) -> None:
    """As it stands in the table; what is odd about one person's keeps nothing from others."""
    alice, bob = await server.person(), await server.person()
    deep = f'{{"list": {"[" * 3000}{"]" * 3000}}}'  # deeper than any decoder here goes
    bobs = await server.messages(bob)
    authorization = f"Bearer {token(alice)}"
    async with RawSocket.open(server.port, "/messages/subscribe", Authorization=authorization) as phone:
        while b'"replay.complete"' not in (await phone.frame())[1]:
            pass
        server.sql("INSERT INTO notifications (user_id, title, data) VALUES (%s, 'deep', %s)", alice, deep)
        notify(server, bob, "plain")
        assert (await bobs.get("notification.new"))["title"] == "plain"
        assert deep.encode() in (await phone.frame())[1]
    head = f"GET /api/notifications HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n"
    answer = await exchange(server.port, f"{head}Connection: close\r\n\r\n".encode())
    assert b" 200 " in answer and deep.encode() in answer


async def test_nothing_is_kept_of_who_has_gone(server: Server) -> None:
    """Of a socket that closed."""
    alice = await server.person()
    notify(server, alice, "n")
    phone, _ = await connect(server, alice)
    silent, _ = await connect(server, alice, replay="0")
    notifications = server.app.notifications
    await until(lambda: len(notifications._told) == 2)
    await phone.close()
    await silent.close()
    await until(
        lambda: not any((notifications._told, notifications._new, notifications._early, notifications._replaying))
    )
