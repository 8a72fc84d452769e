"""Which pages may talk to the server, and whose address a request counts for."""

from collections.abc import Callable
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from connections.limits import RateLimiter
from tests.harness import Server
from tests.raw import exchange, handshake

APP = "https://app.example"


async def may_connect(server: Server, origin: str, **headers: str) -> bool:
    """Say whether a page of this origin gets a socket; a refusal has to be a 403."""
    head = await exchange(server.port, handshake(Origin=origin, **headers), until=b"\r\n\r\n")
    assert b" 101 " in head or b" 403 " in head, head
    return b" 101 " in head


@pytest.fixture
def production(start: Callable[..., Any]) -> Callable[..., Any]:
    """Start a server for production; settings as keywords."""
    return lambda **settings: start(environment="production", **settings)


async def test_foreign_pages_are_refused(server: Server) -> None:
    """A WebSocket of a foreign page's is refused with 403 and the errors' JSON."""
    for origin in (APP, "null", "file://", "http://localhost.evil.example", "http://evil.example:3001", "http://["):
        assert not await may_connect(server, origin), origin
    with pytest.raises(HTTPClientError) as refused:
        await server.socket("/messages/subscribe", headers={"Origin": APP})
    assert refused.value.code == 403
    assert refused.value.response is not None
    assert b'"code":"FORBIDDEN"' in refused.value.response.body
    assert refused.value.response.headers["X-Request-Id"]


async def test_clients_that_are_no_page(server: Server, production: Callable[..., Any]) -> None:
    """A client that sends no Origin, as apps and servers do, may connect anywhere."""
    for some in (server, await production()):
        await some.events()


async def test_the_same_origin(server: Server, production: Callable[..., Any]) -> None:
    """A page of the server's own origin may connect, in production too; another port is another origin."""
    for some in (server, await production()):
        assert await may_connect(some, "https://chat.example:8443", Host="chat.example:8443")
        assert await may_connect(some, "HTTPS://Chat.Example", Host="chat.example")
        assert not await may_connect(some, "https://chat.example:8444", Host="chat.example:8443")


async def test_loopback_pages(server: Server, production: Callable[..., Any]) -> None:
    """Pages on loopback may connect in development, whatever their port, and not in production."""
    in_production = await production()
    for origin in ("http://localhost:5173", "http://127.0.0.1", "https://localhost", "http://[::1]:8080"):
        assert await may_connect(server, origin, Host="chat.example"), origin
        assert not await may_connect(in_production, origin, Host="chat.example"), origin


async def test_allowed_origins(production: Callable[..., Any]) -> None:
    """Pages of ALLOWED_ORIGINS may connect, those that only look like them may not; `*` lets all in."""
    server = await production(allowed_origins=(APP,))
    assert await may_connect(server, APP)
    for origin in (f"{APP}.evil.example", f"{APP}:444", "http://app.example", "https://evil.example"):
        assert not await may_connect(server, origin), origin
    assert await may_connect(await production(allowed_origins=("*",)), "https://any.example")


async def test_preflight(production: Callable[..., Any]) -> None:
    """A CORS preflight is answered without a token and not counted; for a foreign page it allows nothing."""
    server = await production(allowed_origins=(APP,), rest_rate_per_minute=1)
    for _ in range(3):
        answer = await server.rest("OPTIONS", "/api/conversations", headers={"Origin": APP})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, APP)
    assert {"GET", "POST", "PUT", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    for needed in ("authorization", "content-type", "idempotency-key", "x-connection-id", "x-request-id"):
        assert needed in allowed
    foreign = await server.rest("OPTIONS", "/api/conversations", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in foreign.headers


async def test_cors_headers_on_every_answer(production: Callable[..., Any]) -> None:
    """A page may read successes and errors alike, with request id and rate limit; caches are told that it varies."""
    server = await production(allowed_origins=(APP,))
    user = await server.person()
    calls = [
        (200, await server.rest("GET", "/api/conversations", user=user, headers={"Origin": APP})),
        (401, await server.rest("GET", "/api/conversations", headers={"Origin": APP})),
        (404, await server.rest("GET", "/nowhere", headers={"Origin": APP})),
        (405, await server.rest("POST", "/health", headers={"Origin": APP})),
        (400, await server.rest("POST", "/api/bounties", {}, user=user, headers={"Origin": APP})),
    ]
    for status, answer in calls:
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Vary"] == "Origin"
        assert {"X-Request-Id", "Retry-After"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))
        assert "Access-Control-Allow-Credentials" not in answer.headers
    foreign = await server.rest("GET", "/health", headers={"Origin": "https://evil.example"})
    assert foreign.status == 200 and "Access-Control-Allow-Origin" not in foreign.headers


async def seen_as(server: Server, *forwarded: str) -> str:
    """Return the address that a socket counts for, which came with these X-Forwarded-For."""
    client = await server.socket("/events/subscribe", headers={"X-Forwarded-For": ",".join(forwarded)})
    greeting = await client.get("connection")
    return server.app.registry.connections[greeting["connectionId"]].address


async def test_forwarded_for_is_not_believed_from_anyone(start: Callable[..., Any]) -> None:
    """X-Forwarded-For counts only from TRUSTED_PROXIES: without any, and from another peer, it is ignored."""
    for proxies in ((), ("10.0.0.0/8", "::1")):
        server = await start(trusted_proxies=proxies)
        assert await seen_as(server, "198.51.100.7") == "127.0.0.1"


async def test_forwarded_for_is_read_from_its_end(start: Callable[..., Any]) -> None:
    """Of a chain the last address that is no proxy of ours counts: what a client writes stands further left."""
    server = await start(trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
    for chain, address in (
        (("198.51.100.7",), "198.51.100.7"),
        (("203.0.113.9", "198.51.100.7"), "198.51.100.7"),
        (("203.0.113.9", "198.51.100.7", "10.1.2.3", " 10.0.0.9"), "198.51.100.7"),
        (("10.1.2.3", "10.0.0.9"), "10.1.2.3"),
        (("198.51.100.7", "unknown"), "127.0.0.1"),
        (("",), "127.0.0.1"),
        (("::ffff:198.51.100.7",), "198.51.100.7"),
        (("198.51.100.7:4711",), "198.51.100.7"),
        (("[2001:db8::7]:4711",), "2001:db8::/64"),
    ):
        assert await seen_as(server, *chain) == address, chain


async def test_a_forged_address_does_not_get_past_the_limits(start: Callable[..., Any]) -> None:
    """Who is turned away for their address stays so, whatever X-Forwarded-For they write."""
    server = await start(connect_rate_per_10s=2)
    await seen_as(server, "198.51.100.1")
    await seen_as(server, "198.51.100.2")
    with pytest.raises(HTTPClientError) as refused:
        await seen_as(server, "198.51.100.3")
    assert refused.value.code == 429


async def test_one_ipv6_network_is_one_client(start: Callable[..., Any]) -> None:
    """Limits count an IPv6 address by its /64: changing the rest of it, which costs nothing, gains nothing."""
    server = await start(trusted_proxies=("127.0.0.1",), max_connections_per_ip=2)
    await seen_as(server, "2001:db8:1:2::1")
    await seen_as(server, "2001:DB8:1:2:ffff:ffff:ffff:ffff")
    third = await server.socket("/events/subscribe", headers={"X-Forwarded-For": "2001:db8:1:2::3"})
    await third.error("CONNECTION_LIMIT")
    await seen_as(server, "2001:db8:1:3::1")


async def test_full_buckets_are_not_kept() -> None:
    """A limit's memory is bounded by who is using it up now, not by how many addresses have ever come."""
    now = [0.0]
    limiter = RateLimiter(1, 2, clock=lambda: now[0])
    for number in range(100_000):
        assert limiter.take(f"address {number}") == 0
        now[0] += 0.01
    assert len(limiter._buckets) < 2000
