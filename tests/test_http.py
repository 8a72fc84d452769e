"""HTTP: errors as JSON, request ids, bodies, slow and malformed requests, and the addresses that are open to anyone."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from protocol.inbound import BOUNTY_STATUSES
from tests.harness import SOON_S, Answer, Server, token
from tests.raw import exchange, handshake

Start = Callable[..., Awaitable[Server]]
OPEN = ("/health", "/health/detailed", "/events/stats", "/messages/stats", "/events/subscribe-info", "/")
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ANY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-")


def request(method: str, path: str, *lines: str, body: bytes = b"") -> bytes:
    """Return a request as bytes; its connection ends with the answer."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def is_error(answer: Answer, status: int, code: str) -> None:
    """Check that an answer is an error as the contract has them."""
    assert answer.status == status, answer
    assert set(answer.body) == {"error", "message", "code", "requestId"}
    assert answer.body["code"] == code and answer.body["error"] and answer.body["message"].endswith(".")
    assert answer.body["requestId"] == answer.headers["X-Request-Id"]
    assert answer.headers["Content-Type"].startswith("application/json")


async def test_unknown_addresses_and_methods(server: Server) -> None:
    """Errors are JSON with the fitting status: 404 for an unknown address, 405 for a method that it does not take."""
    for path in ("/nowhere", "/api", "/api/", "/api/conversations/", "/health/", "//", "/events", "/%00", "/..%2f"):
        for method in ("GET", "POST", "DELETE"):
            is_error(await server.rest(method, path), 404, "NOT_FOUND")
    for method, path in (("POST", "/health"), ("PUT", "/"), ("DELETE", "/events/stats"), ("PATCH", "/messages/stats")):
        is_error(await server.rest(method, path), 405, "METHOD_NOT_ALLOWED")
    user = await server.person()
    is_error(await server.rest("PUT", "/api/conversations", {}, user=user), 405, "METHOD_NOT_ALLOWED")
    is_error(await server.rest("BREW", "/api/conversations", user=user), 405, "METHOD_NOT_ALLOWED")


async def test_a_socket_s_address_without_a_handshake(server: Server) -> None:
    """A plain request to a WebSocket's address is an error as any other, as is a handshake that lacks something."""
    for path in ("/events/subscribe", "/messages/subscribe"):
        for method in ("GET", "POST", "DELETE"):
            is_error(await server.rest(method, path), 400, "INVALID_REQUEST")
    head = await exchange(server.port, handshake(Sec_WebSocket_Version="8"), until=b"\r\n\r\n")
    assert b" 426 " in head and b"Sec-Websocket-Version: 13" in head


async def test_every_answer_has_a_request_id(server: Server) -> None:
    """X-Request-Id is the request's own, if that is 1 to 64 safe characters, else a new one; on sockets too."""
    for own in ("a", "req-1.2_3", "A" * 64, str(uuid.uuid4())):
        for path in ("/health", "/nowhere", "/api/conversations"):
            assert (await server.rest("GET", path, headers={"X-Request-Id": own})).headers["X-Request-Id"] == own
    for wrong in ("A" * 65, "a b", "a\tb", "<b>", "é", "a,b", ""):
        answer = await server.rest("GET", "/health", headers={"X-Request-Id": wrong})
        assert uuid.UUID(answer.headers["X-Request-Id"])
    for origin, status in (("http://localhost", b" 101 "), ("x", b" 403 ")):
        head = await exchange(server.port, handshake(X_Request_Id="mine", Origin=origin), until=b"\r\n\r\n")
        assert status in head and b"X-Request-Id: mine\r\n" in head
    first, second = [(await server.rest("GET", "/health")).headers["X-Request-Id"] for _ in range(2)]
    assert first != second


async def test_bodies_are_json(server: Server) -> None:
    """A body that is no JSON is INVALID_JSON, one of the wrong shape INVALID_REQUEST that names the field."""
    user, other, chat = await server.pair()
    path = f"/api/conversations/{chat}/messages"
    deep = b"[" * 5000 + b"]" * 5000
    for raw in (b"", b"text=hi", b"\xff\xfe", b'{"text":NaN}', b'{"text":"hi"', b'{"text":"hi","x":%s}' % deep):
        is_error(await server.rest("POST", path, raw=raw, user=user), 400, "INVALID_JSON")
    for raw in (b"[]", b"null", b'"hi"'):
        is_error(await server.rest("POST", path, raw=raw, user=user), 400, "INVALID_REQUEST")
    for where, body, field in (
        (path, {}, "text"),
        (path, {"text": 7}, "text"),
        (path, {"text": "hi", "clientMessageId": "k" * 65}, "clientMessageId"),
        (path, {"text": "hi", "replyTo": "x" * 100_000}, "replyTo"),
        ("/api/conversations", {"participantIds": other}, "participantIds"),
        ("/api/conversations", {"participantIds": ["bob"]}, "participantIds"),
        ("/api/conversations", {"participantIds": []}, "participantIds"),
        (f"{path}/status", {"messageIds": [], "status": "seen"}, "status"),
        (f"/api/conversations/{chat}/typing", {"isTyping": "yes"}, "isTyping"),
    ):
        answer = await server.rest("POST", where, body, user=user)
        is_error(answer, 400, "INVALID_REQUEST")
        assert f"{field}" in answer.body["message"] and len(answer.body["message"]) < 300
    assert (await server.rest("POST", path, {"text": "hi", "unknown": 1}, user=user)).status == 201


async def test_ids_and_queries(server: Server) -> None:
    """Ids in the address and numbers in the query that are none are 400, never a fault."""
    user = await server.person()
    for wrong in ("bob", "2026-01-02", "..", "%00", "%ff", "x" * 8000, f"{uuid.uuid4()}%0a"):
        for path in ("/api/conversations/{}/messages", "/api/bounties/{}"):
            answer = await server.rest("GET", path.format(wrong), user=user)
            assert answer.status in (400, 404), (path, wrong)
    path = f"/api/conversations/{uuid.uuid4()}/messages"
    for query in ("page=0", "limit=201", "limit=x", "before=-1", "after=1e3", "page=%ff", "limit=" + "9" * 400):
        is_error(await server.rest("GET", f"{path}?{query}", user=user), 400, "INVALID_REQUEST")


async def test_a_body_too_large(start: Start) -> None:
    """A body over MAX_BODY_BYTES is 413, whether its length is told or not; one of just that size is taken."""
    server = await start(max_body_bytes=2000)
    user = await server.person()
    fits = b'{"title":"cat"}'.ljust(2000)
    assert (await server.rest("POST", "/api/bounties", raw=fits, user=user)).status == 201
    for size in (2001, 300_000):
        is_error(await server.rest("POST", "/api/bounties", raw=fits.ljust(size), user=user), 413, "TOO_LARGE")
    told = request("POST", "/api/bounties", f"Authorization: Bearer {token(user)}", "Content-Length: 99999999")
    assert b" 413 " in await exchange(server.port, told, until=b"\r\n")
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    chunked = ("Transfer-Encoding: chunked", f"Authorization: Bearer {token(user)}")
    for method, path in (("POST", "/api/bounties"), ("POST", "/api/conversations")):
        body = chunk * 3 + b"0\r\n\r\n"
        assert b'"TOO_LARGE"' in await exchange(server.port, request(method, path, *chunked, body=body))
    assert server.sql("SELECT count(*) FROM bounties") == [(1,)]


async def test_headers_too_large(start: Start) -> None:
    """Headers over MAX_HEADER_BYTES end the connection, without an answer; just below it they do not."""
    server = await start(max_header_bytes=4096)
    assert b" 200 " in await exchange(server.port, request("GET", "/health", "X-Pad: " + "x" * 3500))
    assert await exchange(server.port, request("GET", "/health", "X-Pad: " + "x" * 4096)) == b""


async def test_requests_that_never_end(start: Start) -> None:
    """Headers or a body that take longer than REQUEST_TIMEOUT_S end the connection, and so does idleness."""
    server = await start(request_timeout_s=2)
    body = request("POST", "/api/bounties", f"Authorization: Bearer {token(str(uuid.uuid4()))}", "Content-Length: 9")
    unfinished = (b"", b"GET /health HTTP/1.1\r\nHost:", body + b"{")
    assert await asyncio.gather(*(exchange(server.port, each) for each in unfinished)) == [b""] * 3
    kept = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert (await exchange(server.port, kept)).count(b"HTTP/1.1 404") == 1


async def test_malformed_requests(server: Server) -> None:
    """What is no HTTP is a 400 and ends its connection; nothing that a client sends ends up in a header."""
    body = ("POST", "/api/bounties", f"Authorization: Bearer {token(str(uuid.uuid4()))}")
    for malformed in (
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /he alth HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        request("GET", "/health", "X-Request-Id: a\x00b"),
        request(*body, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request(*body, "Content-Length: -1"),
        request(*body, "Content-Length: 1, 2"),
        request(*body, "Content-Length: " + "9" * 5000),
        request(*body, "Transfer-Encoding: gzip"),
    ):
        assert (await exchange(server.port, malformed)).startswith(b"HTTP/1.1 400 "), malformed
    split = await server.rest("GET", "/health%0d%0aSet-Cookie:%20a=b", headers={"Origin": "http://localhost\tx"})
    assert split.status == 404 and "Set-Cookie" not in split.headers


async def test_answers_are_not_cached_or_guessed(server: Server) -> None:
    """Answers are for nobody's cache, their type is not to be guessed, and they do not say what serves them."""
    for path in (*OPEN, "/nowhere", "/api/conversations"):
        headers = (await server.rest("GET", path)).headers
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert "Server" not in headers


async def test_health(server: Server) -> None:
    """GET /health: 200 with status, timestamp, version, service and database."""
    answer = await server.rest("GET", "/health")
    assert answer.status == 200
    assert set(answer.body) == {"status", "timestamp", "version", "service", "database"}
    assert (answer.body["status"], answer.body["database"]) == ("ok", "connected")
    assert answer.body["service"] == "bountyexpo-realtime"
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.body["version"]) and ISO_TIME.fullmatch(answer.body["timestamp"])


async def test_detailed_health(server: Server) -> None:
    """GET /health/detailed: each part with status up, down or off, and latencyMs."""

    async def relaying() -> Answer:
        while (answer := await server.rest("GET", "/health/detailed")).body["eventRelay"]["status"] != "up":
            await asyncio.sleep(0.01)
        return answer

    answer = await asyncio.wait_for(relaying(), SOON_S)
    parts = {name: answer.body[name] for name in ("database", "redis", "websocket", "push", "eventRelay")}
    assert all(part["status"] in ("up", "down", "off") and "latencyMs" in part for part in parts.values())
    assert parts["database"]["status"] == parts["websocket"]["status"] == "up"
    assert parts["database"]["latencyMs"] > 0
    assert parts["redis"]["status"] == "off"


async def test_stats(server: Server) -> None:
    """GET /events/stats and /messages/stats count the sockets, rooms and people that there are right now."""
    alice, bob, _ = await server.pair()
    await server.events()
    await server.events(token=token(alice))
    await server.messages(alice)
    device = await server.messages(alice)
    await server.messages(bob)
    events = (await server.rest("GET", "/events/stats")).body
    messages = (await server.rest("GET", "/messages/stats")).body
    assert events["events"]["wsClientCount"] == 2
    for counts in (messages, events["messaging"]):
        assert (counts["totalClients"], counts["totalRooms"], counts["onlineUsers"]) == (3, 1, 2)
    assert ISO_TIME.fullmatch(events["timestamp"]) and ISO_TIME.fullmatch(messages["timestamp"])
    await device.close()
    async with asyncio.timeout(SOON_S):
        while (await server.rest("GET", "/messages/stats")).body["totalClients"] != 2:
            pass


async def test_open_addresses_hold_no_ids(server: Server) -> None:
    """What is open to anyone needs no token, and holds counts and states only, never ids."""
    alice, _, chat = await server.pair()
    await server.messages(alice)
    for path in OPEN:
        answer: Any = await server.rest("GET", path, headers={"Authorization": "Bearer nonsense"})
        assert answer.status == 200, path
        assert not ANY_ID.search(str(answer.body)), path
        assert alice not in str(answer.body) and chat not in str(answer.body)


async def test_subscribe_info(server: Server) -> None:
    """GET /events/subscribe-info: how to connect, the event types and their fields, an example."""
    body = (await server.rest("GET", "/events/subscribe-info")).body
    assert body["url"] == f"ws://127.0.0.1:{server.port}/events/subscribe"
    assert body["url"] in body["example"]
    assert body["statuses"] == list(BOUNTY_STATUSES)
    client = await server.socket("/events/subscribe")
    greeting = await client.get("connection")
    assert set(body["events"]["connection"]) == set(greeting) - {"type"}
    await server.bounty()
    assert set(await client.get("bounty.status")) - {"type"} <= set(body["events"]["bounty.status"])


async def test_head_and_allow(server: Server) -> None:
    """HEAD answers as GET does, without the body; 405 says in Allow what is taken."""
    assert (await server.rest("HEAD", "/health")).status == 200
    assert (await server.rest("HEAD", "/nowhere")).status == 404
    answer = await server.rest("POST", "/health")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
