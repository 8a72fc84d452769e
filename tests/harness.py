"""A real server on a free port with a real Postgres, and clients that talk to it as the app does."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from socket import AF_INET
from typing import Any
from urllib.parse import urlencode

import msgspec
import psutil
import psycopg2
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

from app import App
from settings import Settings
from tests.basics import SECRET as SECRET
from tests.basics import SOON_S as SOON_S
from tests.basics import free_port as free_port
from tests.basics import token as token
from tests.basics import until as until
from tests.contract import CONTRACT

# How long a test waits for what must not come.
NEVER_S = 0.15

# Rates are off but where a test is about them; the grace is short, so that tests of others need not wait for it.
QUIET = {
    "port": 0,
    "supabase_jwt_secret": SECRET,
    "message_rate": 0,
    "typing_rate": 0,
    "frame_rate": 0,
    "rest_rate_per_minute": 0,
    "connect_rate_per_10s": 0,
    "presence_grace_s": 0.1,
    "request_timeout_s": 5,
    "database_pool_size": 4,
}


def own_address() -> str:
    """Return an address of this machine that is not loopback's; skip, and say so, where it has none."""
    addresses = [each.address for some in psutil.net_if_addrs().values() for each in some if each.family == AF_INET]
    own = next((address for address in addresses if not address.startswith("127.")), None)
    if own is None:
        pytest.skip("this machine has no address but loopback's: a request from elsewhere can't be made")
    return own


class Answer(msgspec.Struct):
    """What a REST call gave."""

    status: int
    headers: Any
    body: Any


class Client:
    """One open WebSocket. Frames that a test does not ask for are skipped, and kept in ``seen``.

    Every frame, in and out, has to be as the documents say. What they don't know is sent by ``wrong``, which fails
    when they do, or by ``raw``; the test then expects an error.
    """

    def __init__(self, socket: WebSocketClientConnection, path: str) -> None:
        self.socket = socket
        self.path = path
        self.seen: list[dict[str, Any]] = []
        self._reading: asyncio.Future[Any] | None = None

    async def frame(self, timeout: float = SOON_S) -> dict[str, Any]:
        """Return the next frame, whatever it is; fail when the socket closes or nothing comes."""
        message = await self._read(timeout)
        assert message is not None, f"closed with {self.socket.close_code} after {self.seen[-3:]}"
        return self._take(message)

    async def get(self, *types: str, timeout: float = SOON_S, **fields: Any) -> dict[str, Any]:
        """Return the next frame of one of these types (with these fields, if any), skipping others."""
        deadline = time.monotonic() + timeout
        skipped = []
        while True:
            try:
                frame = await self.frame(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise AssertionError(f"no {types} {fields}; came: {skipped}") from None
            if frame["type"] in types and all(frame.get(name) == value for name, value in fields.items()):
                return frame
            skipped.append(frame)

    async def error(self, code: str) -> dict[str, Any]:
        """Return the next error, which has to have this code."""
        frame = await self.get("error")
        assert frame["code"] == code, frame
        return frame

    async def nothing(self, *types: str, within: float = NEVER_S) -> None:
        """Fail if a frame of one of these types (or any, without) comes."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            try:
                frame = await self.frame(left)
            except TimeoutError:
                return
            assert types and frame["type"] not in types, f"unexpected {frame}"

    async def flush(self) -> list[dict[str, Any]]:
        """Return every frame that the server has sent by now."""
        mark = uuid.uuid4().hex
        await self.send("ping", ts=mark)
        frames = []
        while (frame := await self.frame()).get("ts") != mark:
            frames.append(frame)
        return frames

    async def all_until(self, last: str, timeout: float = SOON_S) -> list[dict[str, Any]]:
        """Return all frames up to and with the first of type ``last``."""
        frames = []
        while True:
            frames.append(await self.frame(timeout))
            if frames[-1]["type"] == last:
                return frames

    async def send(self, kind: str, **fields: Any) -> None:
        """Send a frame that the documents know."""
        frame = {"type": kind, **fields}
        CONTRACT.check_frame(self.path, "Client", frame)
        await self.raw(json.dumps(frame))

    async def wrong(self, kind: str, **fields: Any) -> None:
        """Send a frame that the documents don't know."""
        frame = {"type": kind, **fields}
        CONTRACT.check_unknown(self.path, frame)
        await self.raw(json.dumps(frame))

    async def raw(self, message: str | bytes) -> None:
        """Send a message as it is; bytes go as a binary frame."""
        await self.socket.write_message(message, binary=isinstance(message, bytes))

    async def say(self, conversation_id: str, text: str, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Send a chat message and return its ack."""
        key = key or uuid.uuid4().hex
        await self.send("message.send", conversationId=conversation_id, text=text, clientMessageId=key, **fields)
        return await self.get("message.ack", clientMessageId=key)

    async def closed(self, timeout: float = SOON_S) -> int | None:
        """Wait until the server has closed, and return the close code."""
        deadline = time.monotonic() + timeout
        while True:
            message = await self._read(max(0.01, deadline - time.monotonic()))
            if message is None:
                return self.socket.close_code
            self._take(message)

    async def close(self) -> None:
        """Close, and wait for the other side's close."""
        self.socket.close()
        await self.closed()

    def _take(self, message: str | bytes) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(message)
        CONTRACT.check_frame(self.path, "Server", frame)
        self.seen.append(frame)
        return frame

    async def _read(self, timeout: float) -> str | bytes | None:
        """Return the next message, or None for ever once closed. What one read gave up on is the next one's."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self.socket.read_message())
        message: str | bytes | None = await asyncio.wait_for(asyncio.shield(self._reading), timeout)
        if message is not None:
            self._reading = None
        return message


class Server:
    """The server under test."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        self.dsn = dsn
        self.app = App(Settings(**{**QUIET, **settings}), dsn)
        self.port = 0
        self._clients: list[Client] = []
        self._http = AsyncHTTPClient(force_instance=True, max_clients=200)

    async def start(self) -> "Server":
        """Start and listen."""
        await self.app.start()
        self.port = self.app.listen()
        return self

    async def stop(self) -> None:
        """Close the clients, then the server."""
        for client in self._clients:
            client.socket.close()
        for client in self._clients:
            with contextlib.suppress(TimeoutError):
                await client.closed()
        self._http.close()
        await self.app.stop()

    async def socket(
        self, path: str, headers: dict[str, str] | None = None, subprotocols: list[str] | None = None, **query: Any
    ) -> Client:
        """Open a WebSocket."""
        url = f"ws://127.0.0.1:{self.port}{path}?{urlencode(query, doseq=True)}"
        request = HTTPRequest(url, headers=headers or {})
        client = Client(await websocket_connect(request, subprotocols=subprotocols), path)
        self._clients.append(client)
        return client

    async def events(self, **query: Any) -> Client:
        """Open the event stream and return it after its greeting."""
        client = await self.socket("/events/subscribe", **query)
        await client.get("connection")
        return client

    async def messages(self, user_id: str, **query: Any) -> Client:
        """Open a device of a user and return it after its replay."""
        client = await self.socket("/messages/subscribe", token=token(user_id), **query)
        await client.get("connected")
        if query.get("replay") != "0":
            await client.get("replay.complete")
        return client

    async def rest(
        self,
        method: str,
        path: str,
        body: Any = None,
        user: str | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """Make a REST call, as ``user`` if given. ``raw`` is a body that is sent as it is.

        The answer has to be as the documents say, and so has a body that was not refused.
        """
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if sent is None and method in ("POST", "PUT"):
            sent = b""
        given = {"Content-Type": "application/json", **(headers or {})}
        if user is not None:
            given["Authorization"] = f"Bearer {token(user)}"
        answer: HTTPResponse = await self._http.fetch(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            headers=given,
            body=sent,
            raise_error=False,
            allow_nonstandard_methods=True,
            connect_timeout=SOON_S,
            request_timeout=SOON_S,
        )
        decoded = json.loads(answer.body) if answer.body else None
        CONTRACT.check_call(method, path, sent or b"", answer.code, answer.headers, decoded)
        return Answer(answer.code, answer.headers, decoded)

    async def person(self, handle: str | None = None) -> str:
        """Return a new user's id, with a profile."""
        user_id = str(uuid.uuid4())
        self.sql("INSERT INTO profiles (id, username) VALUES (%s, %s)", user_id, handle or f"p_{user_id[:13]}")
        return user_id

    async def conversation(self, *user_ids: str, **fields: Any) -> str:
        """Return a conversation of these people, made by the first over REST."""
        body = {"participantIds": list(user_ids[1:]), **fields}
        answer = await self.rest("POST", "/api/conversations", body, user=user_ids[0])
        assert answer.status in (200, 201), answer
        return str(answer.body["conversation"]["id"])

    async def pair(self) -> tuple[str, str, str]:
        """Return two new people and their conversation."""
        one, other = await self.person(), await self.person()
        return one, other, await self.conversation(one, other)

    async def bounty(self, creator: str | None = None) -> tuple[str, str]:
        """Return a new bounty's id and its creator's."""
        creator = creator or await self.person()
        answer = await self.rest("POST", "/api/bounties", {"title": "Find my cat"}, user=creator)
        assert answer.status == 201, answer
        return str(answer.body["bounty"]["id"]), creator

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run SQL from outside the server, as psql would."""
        with closing(psycopg2.connect(self.dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Keep everybody else from reading or writing a table: what needs it does not get on meanwhile."""
        with closing(psycopg2.connect(self.dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()
