"""Long-lived sockets: a token that expires, and one that is refreshed."""

import math
import time
import uuid

import pytest

from services import expiry
from tests.harness import Client, Server, token


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for expired tokens more often than usual."""
    monkeypatch.setattr(expiry, "_LOOK_S", 0.02)


async def device(server: Server, user: str, *, lives_s: float, **claims: object) -> Client:
    """Open a device whose token expires in ``lives_s`` seconds, or up to a second later."""
    bearer = token(user, exp=math.ceil(time.time() + lives_s), **claims)
    client = await server.socket("/messages/subscribe", token=bearer)
    await client.get("connected")
    return client


async def test_a_token_about_to_expire_is_announced_once(server: Server) -> None:
    """auth.expiring comes 60 s before the end, with expiresAt."""
    client = await device(server, await server.person(), lives_s=30)
    frame = await client.get("auth.expiring")
    assert frame["expiresAt"].endswith(".000Z")
    await client.nothing("auth.expiring", within=0.3)


async def test_a_token_that_lives_long_is_not_announced(server: Server) -> None:
    """auth.expiring does not come earlier."""
    client = await device(server, await server.person(), lives_s=90)
    await client.nothing("auth.expiring", within=0.3)


async def test_an_expired_token_closes_the_socket(server: Server) -> None:
    """At expiry the socket is closed with 4401, after AUTH_FAILED."""
    client = await device(server, await server.person(), lives_s=2)
    await client.error("AUTH_FAILED")
    assert await client.closed() == 4401


async def test_a_refreshed_token_keeps_the_socket_open(server: Server) -> None:
    """auth.refresh with a fresh token of the same user is answered by auth.refreshed, and the old expiry is off."""
    user = await server.person()
    client = await device(server, user, lives_s=2)
    await client.get("auth.expiring")
    await client.send("auth.refresh", token=token(user))
    refreshed = await client.get("auth.refreshed")
    assert refreshed["expiresAt"] > client.seen[0]["expiresAt"]
    await client.nothing("error", within=3.5)
    await client.send("ping", ts=1)
    await client.get("pong")


@pytest.mark.parametrize("bad", ["garbage", "", "other"])
async def test_a_refresh_that_is_refused_changes_nothing(server: Server, bad: str) -> None:
    """A bad token, or another user's, is refused with an error, and the socket lives on as it was."""
    client = await device(server, await server.person(), lives_s=600)
    await client.send("auth.refresh", token=token(str(uuid.uuid4())) if bad == "other" else bad)
    frame = await client.get("error")
    assert frame["code"] in ("AUTH_FAILED", "AUTH_REQUIRED")
    assert frame["requestType"] == "auth.refresh"
    await client.send("ping", ts=1)
    await client.get("pong")


async def test_expiry_is_counted_on_the_monotonic_clock(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is set back an hour keeps no expired token's socket open."""
    client = await device(server, await server.person(), lives_s=2)
    back = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: back)
    assert await client.closed() == 4401
    assert expiry.NOTICE_S == 60
