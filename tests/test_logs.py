"""Logs of a real process: what stands in them, and that no token and no message text ever does."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from tests.harness import SECRET, Server, token
from tests.raw import TEXT, RawSocket, exchange, handshake

ROOT = Path(__file__).parent.parent
TEXTS = ("the cake is under the stairs", "Grey cat named Ludwig")
STARTS_WITHIN_S = 20


class Process(Server):
    """``server.py`` in a process of its own, used as any server of the tests; ``logs`` is what it wrote, once ended."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.port = 0
        self.logs = ""
        self._clients = []
        self._http = AsyncHTTPClient(force_instance=True)

    @classmethod
    @asynccontextmanager
    async def running(cls, dsn: str, directory: Path, log_format: str) -> AsyncIterator["Process"]:
        """Give a server that runs and writes such logs, and end it."""
        self = cls(dsn)
        settings = {"DATABASE_URL": dsn, "SUPABASE_JWT_SECRET": SECRET, "PORT": "0", "LOG_FORMAT": log_format}
        settings |= {"LOG_LEVEL": "debug", "CONNECT_RATE_PER_10S": "0", "PATH": os.environ["PATH"]}
        log = directory / "log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "server.py", cwd=ROOT, env=settings, stdout=asyncio.subprocess.PIPE, stderr=file
            )
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), STARTS_WITHIN_S)
            assert b"listening" in line, log.read_text()
            self.port = int(line.rsplit(b":", 1)[1])
            yield self
        finally:
            for client in self._clients:
                client.socket.close()
            self._http.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            rest, _ = await process.communicate()
            self.logs = (line + rest).decode() + log.read_text()


def tokens() -> list[str]:
    """Return a good token and bad ones, none of which may be seen again."""
    user = str(uuid.uuid4())
    good = token(user)
    odd = "ewogICJhbGciIDogIkhTMjU2IiB9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    return [good, token(user, exp=1), token(user, secret="x" * 40), odd, "an-opaque-token-of-ours", f"{good[:-9]}%zz"]


def secrets_of(given: list[str]) -> list[str]:
    """Return the tokens and those of their parts that are nobody else's."""
    parts = [part for each in given for part in each.split(".")[1:] if len(part) > 8]
    return [*given, *parts, *TEXTS]


async def bring(server: Process, given: str) -> None:
    """Bring a token in every way there is, some of them malformed, and let some of them fail."""
    for how in (
        {"token": given},
        {"headers": {"Authorization": f"Bearer {given}"}},
        {"subprotocols": ["bountyexpo.v1", f"bearer.{given}"]},
    ):
        for path in ("/messages/subscribe", "/events/subscribe"):
            with contextlib.suppress(HTTPClientError):
                await (await server.socket(path, **how)).frame()
    for path in ("/api/conversations", f"/nowhere?token={given}", f"/messages/subscribe?token={given}"):
        await server.rest("GET", path, headers={"Authorization": f"Bearer {given}"})
    authorization = f"Authorization: Bearer {given}"
    for request in (
        f"GET /messages/subscribe?token={given} HTTP/9.9\r\nHost: x\r\n\r\n",
        f"GET /messages/subscribe?token={given} x HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /health HTTP/1.1\r\nHost: x\r\n{authorization}\x01\r\n\r\n",
        f"GET /health HTTP/1.1\r\nHost: x\r\n{authorization}\r\n\x00{given}: x\r\n\r\n",
        f"GET /health HTTP/1.1\r\nHost: {given}/\x7f\r\n\r\n",
        f"GET /health?{'&'.join([given] * 1500)} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"POST /api/bounties?token={given} HTTP/1.1\r\nHost: x\r\n{authorization}\r\nContent-Length: {given}\r\n\r\n",
        f"POST /api/bounties HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{given}",
    ):
        await exchange(server.port, request.encode())
    await exchange(server.port, handshake(f"/events/subscribe?lastEventId={given}&token={given}"), until=b"\r\n\r\n")


async def speak(server: Process) -> None:
    """Send texts in every way there is: some are stored, some refused by the server, some by the database."""
    alice, bob, chat = await server.pair()
    client, path = await server.messages(alice), f"/api/conversations/{chat}/messages"
    text, title = TEXTS
    await client.say(chat, text)
    await server.rest("POST", path, {"text": text}, user=alice)
    await server.rest("POST", path, {"text": text, "replyTo": text}, user=alice)
    await server.rest("POST", path, raw=f'{{"text": "{text}"'.encode(), user=alice)
    await server.rest("POST", "/api/bounties", {"title": title}, user=alice)
    await client.raw(text)
    await client.wrong(text, text=text)
    await client.wrong("message.send", conversationId=chat, text=text, clientMessageId=text * 9)
    await client.wrong("message.send", conversationId=text, text=f"{text}\ud800", clientMessageId="k")
    server.sql("ALTER TABLE messages ADD CHECK (length(id::text) = 0) NOT VALID")
    server.sql("ALTER TABLE bounties ADD CHECK (length(id::text) = 0) NOT VALID")
    await client.send("message.send", conversationId=chat, text=text, clientMessageId="refused")
    assert (await client.get("error", clientMessageId="refused"))["code"] == "INTERNAL"
    for where, body in ((path, {"text": text}), ("/api/bounties", {"title": title, "description": text})):
        assert (await server.rest("POST", where, body, user=bob)).status == 500
    async with RawSocket.open(server.port, f"/messages/subscribe?token={token(alice)}") as raw:
        raw.send(TEXT, text.encode() + b"\xff")
        raw.send(TEXT, says=2**40)


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_token_and_no_text_in_any_log(dsn: str, tmp_path: Path, log_format: str) -> None:
    """No token, in whole or in part, and no text of a message is ever written to a log, whatever goes wrong."""
    given = tokens()
    async with Process.running(dsn, tmp_path, log_format) as server:
        for each in given:
            await bring(server, each)
        await speak(server)
    assert server.logs.count("Traceback") >= 2
    assert [secret for secret in secrets_of(given) if secret in server.logs] == []


async def test_each_request_and_connection_has_its_line(dsn: str, tmp_path: Path) -> None:
    """In JSON each line is an object; requests have id, user and status, connections their id from open to close."""
    async with Process.running(dsn, tmp_path, "json") as server:
        alice = await server.person()
        await server.rest("GET", "/api/conversations?page=1", user=alice, headers={"X-Request-Id": "mine"})
        await server.rest("GET", "/nowhere", headers={"X-Request-Id": "lost"})
        with pytest.raises(HTTPClientError):
            await server.socket("/events/subscribe", headers={"Origin": "https://x.example", "X-Request-Id": "page"})
        client = await server.socket("/messages/subscribe", token=token(alice))
        connection = (await client.get("connected"))["connectionId"]
        await client.close()
        refused = await server.socket("/messages/subscribe")
        assert await refused.closed() == 4401
    lines: list[dict[str, Any]] = [json.loads(line) for line in server.logs.splitlines() if line.startswith("{")]
    assert len(lines) >= len(server.logs.splitlines()) - 1  # the first one says where it listens
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    requests = {line["request_id"]: line for line in lines if line["event"] == "request"}
    mine = requests["mine"]
    assert (mine["method"], mine["path"], mine["status"]) == ("GET", "/api/conversations", 200)
    assert mine["user_id"] == alice and mine["duration_ms"] >= 0
    assert (requests["lost"]["status"], requests["page"]["status"]) == (404, 403)
    [opened, closed] = [line for line in lines if line.get("connection_id") == connection]
    assert (opened["event"], closed["event"]) == ("connection.opened", "connection.closed")
    assert opened["user_id"] == closed["user_id"] == alice
    assert opened["endpoint"] == "/messages/subscribe" and closed["duration_ms"] >= 0
    assert [line["close_code"] for line in lines if line["event"] == "connection.closed"][-1] == 4401


def test_a_traceback_on_a_terminal_shows_no_variables() -> None:
    """On a terminal, too, a traceback holds no values of variables: tokens and texts stand in them."""
    program = """
import sys
sys.stderr.isatty = lambda: True
import logs, structlog
logs.configure("console", "info")
def fault(token):
    raise RuntimeError("a fault")
try:
    fault("".join(["hun", "ter2"]))
except RuntimeError:
    structlog.get_logger().exception("failed")
"""
    end = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "a fault" in end.stderr and "hunter2" not in end.stderr


def test_what_looks_like_a_token_is_taken_out() -> None:
    """The last line of defence: even what a library logs by itself loses its tokens."""
    given = token(str(uuid.uuid4()))
    program = f"""
import logging, logs
logs.configure("json", "info")
logging.getLogger("some.library").error("GET /x?token=hunter2&a=b failed, %s", "Authorization: Bearer hunter2")
logging.getLogger("some.library").error("it was {given}")
"""
    end = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = [json.loads(line)["event"] for line in end.stderr.splitlines()]
    assert first == "GET /x?token=[redacted]&a=b failed, Authorization: Bearer [redacted]"
    assert second == "it was [redacted]"
