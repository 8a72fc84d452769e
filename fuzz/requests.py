"""Raw HTTP requests at every route: nearly right, or hardly a request."""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from conformance.client import handshake
from fuzz.mutate import spoiled_bytes
from fuzz.values import STRANGER

# Route: the fields of its body.
ROUTES: dict[str, list[str]] = {
    "/": [],
    "/health": [],
    "/health/detailed": [],
    "/events/stats": [],
    "/messages/stats": [],
    "/events/subscribe-info": [],
    "/events/subscribe": [],
    "/messages/subscribe": [],
    "/api/conversations": ["participantIds", "bountyId", "isGroup"],
    "/api/conversations/{id}": [],
    "/api/conversations/{id}/messages": ["text", "replyTo", "mediaUrl", "clientMessageId"],
    "/api/conversations/{id}/messages/status": ["messageIds", "status"],
    "/api/conversations/{id}/typing": ["isTyping"],
    "/api/bounties": ["title", "amountCents"],
    "/api/bounties/{id}": [],
    "/api/bounties/{id}/status": ["status", "hunterId"],
    "/api/push-tokens": ["token", "deviceId"],
    "/api/notifications": [],
    "/api/notifications/read": ["ids", "all"],
    "/api/notification-preferences": ["messagesEnabled", "quietHours", "mutedConversationIds"],
    "/nowhere": [],
}
_METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "get", "", "X" * 50]
_QUERIES = [
    "",
    "",
    "page=1&limit=50",
    "page=-1",
    "limit=201",
    "before=9",
    "after=99999999999999999999",
    "page=%00",
    "status=open",
]
_QUERIES += ["limit=1e3", "token=%ff", "a=" + "b" * 2000, "page=1&page=2", "before=1&after=1", "lastEventId=x", "%"]
_HEADERS = [
    "X-Request-Id: \x00",
    "X-Request-Id: " + "a" * 100,
    "Idempotency-Key: \xff\xfe",
    "Idempotency-Key: " + "k" * 3000,
    "X-Connection-Id: ../../x",
    "X-Forwarded-For: 1.2.3.4, ::1, unknown, " + "9" * 200,
    "Origin: http://[",
    "Origin: null",
    "Authorization: Bearer",
    "Authorization: Bearer a.b.c",
    "Authorization: Basic Og==",
    "Authorization: Bearer " + "x" * 9000,
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: application/x-www-form-urlencoded; charset=\xff",
    "Content-Encoding: gzip",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Expect: 100-continue",
    "Cookie: " + "; ".join(f"a{i}=b" for i in range(300)),
    "Sec-WebSocket-Extensions: x; a*1=b; a*=c",
    "Sec-WebSocket-Protocol: " + ",".join(["bearer."] * 100),
    "Sec-Fetch-Site: cross-site",
    "Range: bytes=0-",
    " folded",
    "No colon",
    ": no name",
    "Host: other",
    "Accept-Language: " + "x" * 20_000,
]


class Request(NamedTuple):
    """Bytes, and whether they are whole: then there has to be an answer."""

    data: bytes
    is_whole: bool


def request(bodies: Mapping[str, Sequence[str]], ids: Sequence[str], token: str, rng: random.Random) -> Request:
    """Return a request; ``bodies``: by route; ``ids``: that are somebody's."""
    route = rng.choice(list(ROUTES))
    known = (
        rng.choice((*ids, STRANGER)) if rng.randint(0, 3) else quote(rng.choice(("\x00", "../..", "x" * 300, "%", "é")))
    )
    path = route.replace("{id}", known)
    query = rng.choice(_QUERIES)
    target = f"{path}?{query}" if query else path
    if route.endswith("/subscribe") and rng.randint(0, 3):
        data = handshake(target)
        return Request(data if rng.randint(0, 1) else spoiled_bytes(data, rng), is_whole=False)
    method = rng.choice(_METHODS[:5]) if rng.randint(0, 4) else rng.choice(_METHODS)
    body = rng.choice(bodies[route]).encode("utf-8", "surrogatepass") if method in ("POST", "PUT", "DELETE") else b""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    if rng.randint(0, 5):
        lines.append(f"Authorization: Bearer {token}")
    is_odd = not rng.randint(0, 2)
    if is_odd:
        lines += rng.sample(_HEADERS, rng.choice((1, 1, 2)))
    data = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
    if rng.randint(0, 3):
        return Request(data, is_whole=not is_odd and method in _METHODS[:5])
    return Request(spoiled_bytes(data, rng), is_whole=False)
