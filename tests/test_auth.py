"""Who may connect: where a token is looked for, and which tokens are good. Published keys: ``test_keys.py``."""

import base64
import gc
import hashlib
import hmac
import json
import time
import uuid
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from tornado.web import Application

from handlers.context import Context
from tests.harness import SECRET, Server, token, until
from tests.raw import RawSocket, exchange, handshake

REQUIRED = "Authentication required. Provide token in query string or Authorization header."
FAILED = "Authentication failed. Invalid or expired token."
USER = "11111111-2222-4333-8444-555555555555"


# What the whole server has in common.
_SHARED = (type, ModuleType, FunctionType, Context, Application, AbstractEventLoop, IOLoop)


def bearer(given: str) -> dict[str, str]:
    """Return the header that brings a token."""
    return {"Authorization": f"Bearer {given}"}


def part(value: object) -> str:
    """Return one part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(header: object, claims: object, key: bytes = SECRET.encode()) -> str:
    """Return a token as no library would make it, signed with HMAC-SHA256 whatever its header says."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def claims_of(user: str | None = USER, **claims: Any) -> dict[str, Any]:
    """Return the claims of a good token, changed."""
    return {"sub": user, "aud": "authenticated", "exp": int(time.time()) + 600, **claims}


async def refused(server: Server, given: str) -> None:
    """Check that a token is AUTH_FAILED for a socket, which then closes with 4401, and for REST."""
    client = await server.socket("/messages/subscribe", headers=bearer(given))
    assert (await client.error("AUTH_FAILED"))["message"] == FAILED
    assert await client.closed() == 4401
    answer = await server.rest("GET", "/api/conversations", headers=bearer(given))
    assert (answer.status, answer.body["code"], answer.body["message"]) == (401, "AUTH_FAILED", FAILED)


async def user_of(server: Server, **how: Any) -> str:
    """Return who the server takes a socket for."""
    client = await server.socket("/messages/subscribe", **how)
    return str((await client.get("connected"))["userId"])


async def test_a_token_comes_in_one_of_three_ways(server: Server) -> None:
    """A token reaches a WebSocket by the Authorization header, the subprotocol list or the query."""
    given = token(USER)
    assert await user_of(server, headers=bearer(given)) == USER
    assert await user_of(server, subprotocols=["bountyexpo.v1", f"bearer.{given}"]) == USER
    assert await user_of(server, token=given) == USER


async def test_the_ways_are_looked_at_in_order(server: Server) -> None:
    """The Authorization header goes before the subprotocol, and that before the query; a bad first one ends it."""
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    listed = ["bountyexpo.v1", f"bearer.{token(second)}"]
    assert await user_of(server, headers=bearer(token(first)), subprotocols=listed, token=token(third)) == first
    assert await user_of(server, subprotocols=listed, token=token(third)) == second
    other = {"Authorization": "Basic Zm9vOmJhcg=="}
    assert await user_of(server, headers=other, subprotocols=listed) == second
    client = await server.socket("/messages/subscribe", headers=bearer("nonsense"), token=token(third))
    await client.error("AUTH_FAILED")


async def test_the_subprotocol_is_answered_and_the_token_is_not(server: Server) -> None:
    """The server answers `bountyexpo.v1` and never echoes the token; where it is not offered, no subprotocol."""
    given = token(USER)
    for offered in (f"bountyexpo.v1, bearer.{given}", f"bearer.{given}, bountyexpo.v1"):
        request = handshake("/messages/subscribe", Sec_WebSocket_Protocol=offered)
        head = await exchange(server.port, request, until=b"\r\n\r\n")
        assert b"protocol: bountyexpo.v1\r\n" in head.lower()
        assert given.encode() not in head
    request = handshake("/messages/subscribe", Sec_WebSocket_Protocol=f"bearer.{given}, chat")
    assert b"websocket-protocol" not in (await exchange(server.port, request, until=b"\r\n\r\n")).lower()


async def test_no_token(server: Server) -> None:
    """No token is AUTH_REQUIRED with its exact message, then close 4401; over REST a 401 that asks for one."""
    for how in ({}, {"token": ""}, {"headers": {"Authorization": "Bearer"}}, {"subprotocols": ["bountyexpo.v1"]}):
        client = await server.socket("/messages/subscribe", **how)
        assert (await client.error("AUTH_REQUIRED"))["message"] == REQUIRED
        assert await client.closed() == 4401
    answer = await server.rest("GET", "/api/conversations")
    assert (answer.status, answer.body["code"], answer.body["message"]) == (401, "AUTH_REQUIRED", REQUIRED)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_rest_takes_the_header_only(server: Server) -> None:
    """/api takes the token as `Authorization: Bearer`, not from the query."""
    answer = await server.rest("GET", f"/api/conversations?token={token(USER)}")
    assert (answer.status, answer.body["code"]) == (401, "AUTH_REQUIRED")
    assert (await server.rest("GET", "/api/conversations", headers=bearer(token(USER)))).status == 200


async def test_a_claim_is_wrong(server: Server) -> None:
    """Expired, no `exp`, no `sub` or none that is a UUID, an `aud` other than `authenticated`: AUTH_FAILED, 4401."""
    for wrong in (
        {"exp": int(time.time()) - 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": [1]},
        {"sub": None},
        {"sub": ""},
        {"sub": "bob"},
        {"sub": f"{USER}\n"},
        {"sub": 17},
        {"aud": None},
        {"aud": "anon"},
        {"aud": ["anon"]},
        {"aud": {"authenticated": 1}},
        {"aud": "authenticated2"},
        {"nbf": int(time.time()) + 600},
    ):
        claims = {name: value for name, value in claims_of(**wrong).items() if value is not None}
        await refused(server, handmade({"alg": "HS256"}, claims))


async def test_the_signature_is_wrong(server: Server) -> None:
    """Another key, a changed claim, no signature, `alg` none or one of the token's own choice: AUTH_FAILED, 4401."""
    good = handmade({"alg": "HS256"}, claims_of())
    assert await user_of(server, token=good) == USER
    header, claims, signature = good.split(".")
    for forged in (
        token(USER, secret="another secret, which is long enough too"),
        f"{header}.{part(claims_of(role='service_role'))}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-4]}",
        f"{part({'alg': 'none'})}.{claims}.",
        f"{part({'alg': 'None'})}.{claims}.",
        handmade({"alg": "none"}, claims_of()),
        handmade({"alg": "HS512"}, claims_of()),
        handmade({"alg": "RS256"}, claims_of()),
        handmade({"alg": "HS256"}, claims_of(), key=b""),
    ):
        await refused(server, forged)


async def test_what_is_no_token(server: Server) -> None:
    """Garbage of every kind is AUTH_FAILED, 4401: never a fault of the server."""
    claims = claims_of()
    for garbage in (
        "nonsense",
        "a.b.c",
        "...",
        "\u00ff.\u00ff.\u00ff",
        f"{part(b'[]')}.{part(claims)}.x",
        f"{part(b'{' * 3000)}.{part(claims)}.x",
        f"{part(b'[' * 2900 + b']' * 2900)}.{part(claims)}.x",
        handmade({}, claims),
        handmade({"alg": ["HS256"]}, claims),
        handmade({"alg": "HS256", "kid": {}}, claims),
        handmade({"alg": "HS256"}, []),
        handmade({"alg": "HS256"}, b"{"),
        token(USER, filler="x" * 7000),
    ):
        await refused(server, garbage)


async def test_a_header_that_must_be_understood(server: Server) -> None:
    """A token whose `crit` names what the server does not know is refused (RFC 7515, section 4.1.11)."""
    await refused(server, handmade({"alg": "HS256", "crit": ["exam"], "exam": 1}, claims_of()))
    await refused(server, handmade({"alg": "HS256", "crit": "exam"}, claims_of()))


async def test_a_query_that_is_no_utf8(server: Server) -> None:
    """A token in the query that is no text is a bad token: AUTH_FAILED and 4401 on messages, anonymous on events."""
    answer = await exchange(server.port, handshake("/messages/subscribe?token=%ff%fe"), until=b"\x88\x02\x11\x31")
    assert b'"code":"AUTH_FAILED"' in answer
    greeting = await exchange(server.port, handshake("/events/subscribe?token=%ff"), until=b"heartbeatIntervalMs")
    assert b'"type":"connection"' in greeting


async def test_a_token_of_a_megabyte(server: Server) -> None:
    """A token larger than all headers may be ends its connection; the server goes on."""
    huge = "a" * 1_000_000
    for request in (handshake(Authorization=f"Bearer {huge}"), handshake(f"/messages/subscribe?token={huge}")):
        assert b" 101 " not in await exchange(server.port, request)
    assert (await server.rest("GET", "/health")).status == 200


async def test_what_a_good_token_may_hold(server: Server) -> None:
    """A list with `authenticated` as `aud`, a clock a little ahead, an end past all calendars, a `sub` in capitals."""
    for claims in (
        {"aud": ["other", "authenticated"]},
        {"iat": int(time.time()) + 5},
        {"exp": 10**15},
        {"sub": USER.upper()},
        {"app_metadata": {"role": ["admin"]}},
    ):
        assert await user_of(server, token=token(USER, **claims)) == USER


async def test_iss_is_checked_where_supabase_is_known(start: Any) -> None:
    """With SUPABASE_URL `iss` has to be its auth address; without one it is not looked at."""
    server = await start(supabase_url="http://127.0.0.1:9")
    await refused(server, token(USER))
    await refused(server, token(USER, iss="http://127.0.0.1:9/auth/v2"))
    assert await user_of(server, token=token(USER, iss="http://127.0.0.1:9/auth/v1")) == USER


async def test_a_bad_token_on_the_event_stream(server: Server) -> None:
    """Anyone may have the event stream: who brings a bad token gets it too, and is anonymous."""
    for how in ({}, {"token": "nonsense"}, {"token": token(USER, exp=1)}, {"token": token(None, role="service_role")}):
        client = await server.socket("/events/subscribe", **how)
        await client.get("connection")
    assert server.app.registry.count_of_address("127.0.0.1") == 4


async def test_the_service_role_has_no_messages(server: Server) -> None:
    """The service role's key is a token, but nobody's: AUTH_FAILED, 4401."""
    await refused(server, token(None, role="service_role", aud=None))


async def test_a_newcomer_gets_a_profile(server: Server) -> None:
    """A valid token of a user with no profile makes it: their handle, else the e-mail's local part, else by the id."""
    for claims, handle in (
        ({"user_metadata": {"handle": "zoe"}, "email": "other@example.org"}, "zoe"),
        ({"email": "zoe.b@example.org"}, "zoe.b"),
        ({"user_metadata": {"handle": " <b>&\u202e "}, "email": 7}, "b"),
        ({"user_metadata": "handle"}, None),
    ):
        user = str(uuid.uuid4())
        await user_of(server, token=token(user, **claims))
        stored = server.sql("SELECT username FROM profiles WHERE id = %s", user)
        assert stored == [(handle or f"user_{user[:8]}",)]


async def test_a_handle_that_others_have_taken_on_purpose(server: Server) -> None:
    """Whoever wants a taken handle gets another one, even where the usual other one is taken too; nobody else waits."""
    await server.person("bob")
    await server.person(f"bob_{USER[:8]}")
    assert await user_of(server, token=token(USER, user_metadata={"handle": "bob"})) == USER
    [(handle,)] = server.sql("SELECT username FROM profiles WHERE id = %s", USER)
    assert handle.startswith("bob_")
    assert await user_of(server, token=token(str(uuid.uuid4())))


async def test_a_token_is_forgotten_after_the_handshake(server: Server) -> None:
    """Nothing that an open socket keeps in memory holds its token."""
    given = token(USER)
    for path, headers in (
        (f"/messages/subscribe?token={given}", {}),
        ("/messages/subscribe", {"Authorization": f"Bearer {given}"}),
        ("/messages/subscribe", {"Sec_WebSocket_Protocol": f"bountyexpo.v1, bearer.{given}"}),
    ):
        async with RawSocket.open(server.port, path, **headers) as raw:
            while b"replay.complete" not in (await raw.frame())[1]:
                pass
            [connection] = server.app.registry.connections.values()
            kept = list(reachable(connection))
            assert any(isinstance(each, IOStream) for each in kept)
            signature = given.rpartition(".")[2]
            assert not [each for each in kept if isinstance(each, str | bytes | bytearray) and signature in str(each)]
        await until(lambda: not server.app.registry.connections)


def reachable(thing: object) -> Iterator[object]:
    """Give all that is kept alive by a connection and not by the server as a whole."""
    seen, waiting = {id(thing)}, [thing]
    while waiting:
        found = waiting.pop()
        yield found
        for each in gc.get_referents(found):
            if id(each) not in seen and not isinstance(each, _SHARED):
                seen.add(id(each))
                waiting.append(each)
