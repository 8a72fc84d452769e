"""Pages over HTTP: which files there are, under which headers, and who is given a token."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from handlers.pages import STATIC
from storage import seed
from tests.harness import SECRET, Server, own_address

Start = Callable[..., Awaitable[Server]]


async def fetch(server: Server, path: str, method: str = "GET", user: str = "alice", **headers: str) -> HTTPResponse:
    """Make a request that is no part of the API's documents; headers with _ for -."""
    return await AsyncHTTPClient(force_instance=True).fetch(
        HTTPRequest(
            f"http://127.0.0.1:{server.port}{path}",
            method,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            body=json.dumps({"user": user}) if method == "POST" else None,
            follow_redirects=False,
        ),
        raise_error=False,
    )


async def test_files(server: Server) -> None:
    """Each with its type, a strict policy, and a tag by which it is not sent twice."""
    for path, kind, content in (
        ("/console", "text/html; charset=utf-8", STATIC / "console" / "index.html"),
        ("/console/", "text/html; charset=utf-8", STATIC / "console" / "index.html"),
        ("/console/main.js", "text/javascript; charset=utf-8", STATIC / "console" / "main.js"),
        ("/console/console.css", "text/css; charset=utf-8", STATIC / "console" / "console.css"),
        ("/console/icon.svg", "image/svg+xml", STATIC / "console" / "icon.svg"),
        ("/static/bountyexpo-realtime.js", "text/javascript; charset=utf-8", STATIC / "bountyexpo-realtime.js"),
        ("/static/bountyexpo-realtime.d.ts", "text/plain; charset=utf-8", STATIC / "bountyexpo-realtime.d.ts"),
    ):
        answer = await fetch(server, path)
        assert (answer.code, answer.headers["Content-Type"]) == (200, kind), path
        assert answer.body == content.read_bytes()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"):
            assert rule in policy
        assert "unsafe" not in policy and "*" not in policy
        assert ("trusted-types" in policy) == path.startswith("/console")
        versioned = await fetch(server, f"{path}?v=1")
        assert "Expires" not in versioned.headers and versioned.headers["Cache-Control"] == "no-cache"
        again = await fetch(server, path, If_None_Match=answer.headers["Etag"])
        assert (again.code, again.body) == (304, b"")
        head = await fetch(server, path, "HEAD")
        assert (head.code, head.body, head.headers["Content-Length"]) == (200, b"", str(len(answer.body)))


async def test_the_policy_takes_no_words_from_the_request(server: Server) -> None:
    """A Host that is no host adds nothing to the policy."""
    answer = await fetch(server, "/console", Host="x;script-src *")
    assert "*" not in answer.headers.get("Content-Security-Policy", "")
    answer = await fetch(server, "/console", Host="chat.example:3001")
    assert " ws://chat.example:3001 wss://chat.example:3001;" in answer.headers["Content-Security-Policy"]


async def test_nothing_else_is_served(server: Server) -> None:
    """Neither directories nor what lies beside them, however it is written."""
    for path in (
        "/static", "/static/", "/static/console", "/static/console/main.js", "/static/nothing.js", "/static/..",
        "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/console/..",
        "/console/../app.py",
        "/console/nothing.js", "/console/main.js/", "/console//main.js", "/console/%00",
    ):  # fmt: skip
        answer = await fetch(server, path)
        assert answer.code in (400, 404) and b"requestId" in answer.body, path


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        ({}, True),
        ({"console": "off"}, False),
        ({"environment": "production"}, False),
        ({"environment": "production", "console": "on"}, True),
    ],
)
async def test_where_there_is_a_console(start: Start, settings: dict[str, Any], is_on: bool) -> None:
    """In development, unless CONSOLE says otherwise; a browser at / is led to it, and others have their JSON."""
    server = await start(**settings)
    for path in ("/console", "/console/main.js", "/console/schema.json"):
        assert (await fetch(server, path)).code == (200 if is_on else 404)
    assert (await fetch(server, "/static/bountyexpo-realtime.js")).code == 200
    browser = await fetch(server, "/", Accept="text/html,application/xhtml+xml")
    assert (browser.code, browser.headers.get("Location")) == ((302, "/console") if is_on else (200, None))
    assert b'"service"' in (await fetch(server, "/", Accept="*/*")).body
    token = await fetch(server, "/console/token", "POST")
    assert token.code == (200 if is_on and "environment" not in settings else 404)


async def test_a_token_of_the_console(server: Server) -> None:
    """It is alice's, and good."""
    answer = await fetch(server, "/console/token", "POST")
    body = json.loads(answer.body)
    assert answer.code == 200 and body["userId"] == seed.ALICE
    claims = jwt.decode(body["token"], SECRET, algorithms=["HS256"], audience="authenticated")
    assert claims["sub"] == seed.ALICE and claims["exp"] - claims["iat"] == 86_400
    assert (await fetch(server, "/console/token", "POST", user="carol")).code == 400
    assert (await fetch(server, "/console/token")).code == 405


async def test_tokens_after_a_change_of_the_secret(server: Server) -> None:
    """They are signed with the secret that holds from then on."""
    secret = "another secret, as long as they have to be"
    server.app.reconfigure(msgspec.structs.replace(server.app.settings, supabase_jwt_secret=secret))
    made = json.loads((await fetch(server, "/console/token", "POST")).body)["token"]
    answer = await fetch(server, "/api/conversations", Authorization=f"Bearer {made}")
    assert answer.code == 200


async def test_who_gets_no_token(start: Start, server: Server) -> None:
    """Foreign names for this machine, foreign pages, and whoever comes through a proxy."""
    here = f"127.0.0.1:{server.port}"
    for headers in (
        {"Host": "evil.example"},  # DNS rebinding: the page's own name, resolved to loopback
        {"Host": f"evil.example:{server.port}", "Origin": f"http://evil.example:{server.port}"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": here, "Origin": "https://evil.example"},
        {"Host": here, "Origin": "null"},
        {"Host": here, "Origin": "http://127.0.0.1:8080"},  # another program's page on loopback
        {"Host": here, "Origin": f"https://{here}"},
        {"Host": here, "Origin": f"http://localhost:{server.port}"},
        {"Host": here, "Sec-Fetch-Site": "cross-site"},
        {"Host": here, "Sec-Fetch-Site": "same-site"},
        {"Host": here, "X-Forwarded-For": "127.0.0.1"},
        {"Host": here, "Forwarded": "for=127.0.0.1"},
        {"Host": here, "Via": "1.1 proxy"},
    ):
        answer = await fetch(server, "/console/token", "POST", **headers)
        assert answer.code == 403 and b'"FORBIDDEN"' in answer.body, headers
        schema = await fetch(server, "/console/schema.json", **headers)
        assert json.loads(schema.body)["makesTokens"] is False, headers
    for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        host = f"{name}:{server.port}"
        headers = {"Host": host, "Origin": f"http://{host.lower()}", "Sec-Fetch-Site": "same-origin"}
        answer = await fetch(server, "/console/token", "POST", **headers)
        assert answer.code == 200, headers


async def test_no_token_for_other_machines(start: Start) -> None:
    """Whoever comes over the network gets none, whatever name they call this machine by."""
    own = own_address()
    server = await start(host="0.0.0.0")
    request = b"POST /console/token HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 16\r\n\r\n" % server.port
    reader, writer = await asyncio.open_connection(own, server.port)
    writer.write(request + b'{"user":"alice"}')
    assert b" 403 " in await reader.readline()
    writer.close()


async def test_the_schema_names_every_frame(server: Server) -> None:
    """What a client may send, with the fields of each."""
    frames = json.loads((await fetch(server, "/console/schema.json")).body)["frames"]
    assert set(frames["events"]) == {"ping", "subscribe", "unsubscribe"}
    assert set(frames["messages"]) == {
        "ping", "join", "leave", "typing", "message.send", "message.delivered", "message.read", "sync", "auth.refresh",
    }  # fmt: skip
    send = frames["messages"]["message.send"]
    assert send["properties"]["conversationId"] == {"type": "string", "format": "uuid"}
    assert set(send["required"]) == {"type", "conversationId", "text", "clientMessageId"}
