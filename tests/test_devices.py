"""Push tokens over REST: whose a device is."""

import asyncio

import pytest

from storage.devices import MAX_DEVICES
from tests.expo import device, new_token
from tests.harness import Server


def owners(server: Server, token: str) -> list[str]:
    """Return whose the token is."""
    rows = server.sql("SELECT user_id::text FROM realtime_push_tokens WHERE token = %s", token)
    return [row[0] for row in rows]


async def test_it_belongs_to_who_registered_it_last(server: Server) -> None:
    """And to nobody else."""
    alice, bob = await server.person(), await server.person()
    token = await device(server, alice)
    assert owners(server, token) == [alice]
    for user in (bob, bob, alice, bob):
        answer = await server.rest("POST", "/api/push-tokens", {"token": token, "deviceId": "phone"}, user=user)
        assert (answer.status, answer.body) == (204, None)
        assert owners(server, token) == [user]
    assert server.sql("SELECT count(*) FROM push_tokens") == [(1,)]


@pytest.mark.parametrize("unique", ["", "token", "user_id, token", "user_id, device_id"])
async def test_many_at_once(server: Server, unique: str) -> None:
    """It is one person's, whatever the order, and whatever an older table holds unique."""
    if unique:
        server.sql(f"ALTER TABLE push_tokens ADD UNIQUE ({unique})")
    people = [await server.person() for _ in range(6)]
    for _ in range(10):
        body = {"token": new_token(), "deviceId": "phone"}
        answers = await asyncio.gather(
            *(server.rest("POST", "/api/push-tokens", body, user=user) for user in people * 3)
        )
        assert {answer.status for answer in answers} == {204}
        assert len(owners(server, body["token"])) == 1


async def test_a_first_visit_may_be_this_one(server: Server) -> None:
    """A user without a profile gets one."""
    await device(server, "00000000-0000-4000-8000-0000000000aa")


async def test_unregistering(server: Server) -> None:
    """One's own is forgotten; somebody else's and nobody's look the same, and stay."""
    alice, bob = await server.person(), await server.person()
    token = await device(server, alice)
    for body in ({"token": token}, {"token": new_token()}):
        assert (await server.rest("DELETE", "/api/push-tokens", body, user=bob)).status == 204
    assert owners(server, token) == [alice]
    assert (await server.rest("DELETE", "/api/push-tokens", {"token": token}, user=alice)).status == 204
    assert server.sql("SELECT 1 FROM push_tokens") == []


async def test_a_device_has_one_token(server: Server) -> None:
    """A new one takes the place of the old."""
    alice = await server.person()
    tokens = [new_token() for _ in range(2)]
    for token in tokens:
        await server.rest("POST", "/api/push-tokens", {"token": token, "deviceId": "phone"}, user=alice)
    assert server.sql("SELECT token FROM push_tokens") == [(tokens[1],)]


async def test_the_oldest_of_too_many_gives_way(server: Server) -> None:
    """Each is a push for each message."""
    alice = await server.person()
    tokens = [await device(server, alice) for _ in range(MAX_DEVICES + 2)]
    kept = {row[0] for row in server.sql("SELECT token FROM push_tokens")}
    assert kept == set(tokens[2:])


@pytest.mark.parametrize(
    "token", ["ExponentPushToken[abc_-:D]", "ExpoPushToken[abc]", "f4f3c1d2-0000-4000-8000-0123456789ab"]
)
async def test_forms_of_tokens(server: Server, token: str) -> None:
    """That Expo gives out."""
    user = await server.person()
    assert (await server.rest("POST", "/api/push-tokens", {"token": token}, user=user)).status == 204


@pytest.mark.parametrize(
    "body",
    [
        {"token": "fcm-token"},
        {"token": "ExponentPushToken[]"},
        {"token": "ExponentPushToken[a]\n"},
        {"token": "ExponentPushToken[a b]"},
        {"token": "ExponentPushToken[" + "x" * 3000 + "]"},
        {"token": "ExponentPushToken[\x00]"},
        {"token": 5},
        {"token": None},
        {},
        {"token": "ExponentPushToken[a]", "deviceId": ""},
        {"token": "ExponentPushToken[a]", "deviceId": "\x00"},
    ],
)
async def test_what_is_no_expo_token(server: Server, body: object) -> None:
    """Gets 400 with the field's name."""
    user = await server.person()
    for method in ("POST", "DELETE"):
        answer = await server.rest(method, "/api/push-tokens", body, user=user)
        assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
        assert "token" in answer.body["message"] or "deviceId" in answer.body["message"]
    assert server.sql("SELECT 1 FROM push_tokens") == []


async def test_who_may(server: Server) -> None:
    """A token is needed."""
    for method in ("POST", "DELETE"):
        assert (await server.rest(method, "/api/push-tokens", {"token": new_token()})).status == 401
