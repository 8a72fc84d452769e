"""Two people who chat without pause, through whatever happens to the server, and note all that they see."""

import asyncio
import contextlib
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from tests.basics import token, until

# An answer that takes longer than a restart and a busy machine explain is a lost one.
_PATIENCE_S = 20.0


@dataclass
class Talker:
    """One person's device: says something, waits for the ack, says the next; comes back as it is told to.

    :param url: where the server is, without the scheme.
    :param ssl: keywords for HTTPRequest, for a server behind TLS.
    """

    url: str
    user_id: str
    conversation_id: str
    scheme: str = "ws"
    ssl: dict[str, Any] = field(default_factory=dict)
    # Every place seen in the conversation, as often as it was seen: acks and message.new.
    acked: dict[str, int] = field(default_factory=dict)
    heard: list[int] = field(default_factory=list)
    # How long after its reconnectAfterMs each return took, in seconds.
    late_s: list[float] = field(default_factory=list)
    # When each return was, in monotonic seconds.
    back_at: list[float] = field(default_factory=list)
    closes: list[int | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    leaving: bool = False
    _heard: set[int] = field(default_factory=set)
    _whole_until: int = 0

    async def _sync(self, socket: WebSocketClientConnection) -> None:
        """Ask for what was missed until nothing is: more than the cap on a replay comes in several parts."""
        truncated = True
        while truncated:
            seen = {*self._heard, *self.acked.values()}
            while self._whole_until + 1 in seen:
                self._whole_until += 1
            await self._send(socket, "sync", conversations={self.conversation_id: self._whole_until})
            truncated = bool((await self._until(socket, "sync.complete"))["truncated"])

    async def talk(self) -> None:
        """Talk until ``leaving``, then until all that was said is acked and all that was said to us is heard."""
        unacked: str | None = None
        due: float | None = None
        while True:
            try:
                socket = await self._connect(due)
            except Exception as error:  # refused, reset, or an HTTP status: what must not be
                self.failures.append(repr(error))
                await asyncio.sleep(0.1)
                continue
            try:
                wait_s, unacked = await self._chat(socket, unacked)
            finally:
                socket.close()
            if wait_s is None:
                return
            due = time.monotonic() + wait_s
            await asyncio.sleep(wait_s)

    async def catch_up(self) -> None:
        """Come back once more, for what was said after we had left."""
        (await self._connect()).close()

    async def _connect(self, due: float | None = None) -> WebSocketClientConnection:
        """Open the socket, note how long after ``due`` it was ours, and ask for what was missed."""
        bearer = {"Authorization": f"Bearer {token(self.user_id)}"}
        request = HTTPRequest(
            f"{self.scheme}://{self.url}/messages/subscribe?replay=0",
            headers=bearer,
            connect_timeout=_PATIENCE_S,
            request_timeout=_PATIENCE_S,
            **self.ssl,
        )
        socket = await websocket_connect(request)
        try:
            await self._until(socket, "connected")
            if due is not None:
                self.back_at.append(time.monotonic())
                self.late_s.append(self.back_at[-1] - due)
            await self._sync(socket)
        except Exception:
            socket.close()
            raise
        return socket

    async def _chat(self, socket: WebSocketClientConnection, unacked: str | None) -> tuple[float | None, str | None]:
        """Chat until the server goes away; return how long it asks to wait, and the key that has no ack yet."""
        while not self.leaving or unacked:
            unacked = unacked or uuid.uuid4().hex
            await self._send(
                socket, "message.send", conversationId=self.conversation_id, text="and?", clientMessageId=unacked
            )
            frame = await self._until(socket, "message.ack", "server.draining")
            if frame["type"] == "server.draining":
                while (frame_after := await self._next(socket)) is not None:
                    if frame_after.get("clientMessageId") == unacked and frame_after["type"] == "message.ack":
                        unacked = None
                self.closes.append(socket.close_code)
                return frame["reconnectAfterMs"] / 1000, unacked
            assert frame["clientMessageId"] == unacked, frame
            unacked = None
        await self._sync(socket)
        return None, None

    async def _until(self, socket: WebSocketClientConnection, *types: str) -> dict[str, Any]:
        while (frame := await self._next(socket)) is not None:
            if frame["type"] in types:
                return frame
        raise ConnectionError(f"closed with {socket.close_code} instead of {types}")

    async def _next(self, socket: WebSocketClientConnection) -> dict[str, Any] | None:
        message = await asyncio.wait_for(socket.read_message(), _PATIENCE_S)
        if message is None:
            return None
        frame: dict[str, Any] = json.loads(message)
        assert frame["type"] != "error", frame
        if frame["type"] == "message.new":
            # What came live before the answer to our sync is newer than what we said we had: it comes again.
            is_asked_for = frame.get("replayed") and frame["seq"] > self._whole_until
            if not (is_asked_for and frame["seq"] in self._heard):
                self.heard.append(frame["seq"])
            self._heard.add(frame["seq"])
        elif frame["type"] == "message.ack":
            self.acked[frame["clientMessageId"]] = frame["seq"]
        return frame

    async def _send(self, socket: WebSocketClientConnection, kind: str, **fields: Any) -> None:
        with contextlib.suppress(WebSocketClosedError):  # why is still to be read
            await socket.write_message(json.dumps({"type": kind, **fields}))


@dataclass
class Caller:
    """One person who sends by REST without pause, each message once, and must be answered 201 each time."""

    url: str
    user_id: str
    conversation_id: str
    scheme: str = "http"
    ssl: dict[str, Any] = field(default_factory=dict)
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    leaving: bool = False

    async def call(self) -> None:
        """Send until ``leaving``."""
        client = AsyncHTTPClient(force_instance=True)
        url = f"{self.scheme}://{self.url}/api/conversations/{self.conversation_id}/messages"
        while not self.leaving:
            try:
                answer = await client.fetch(
                    url,
                    method="POST",
                    body=json.dumps({"text": "by REST"}),
                    headers={"Authorization": f"Bearer {token(self.user_id)}", "Content-Type": "application/json"},
                    connect_timeout=_PATIENCE_S,
                    request_timeout=_PATIENCE_S,
                    raise_error=False,
                    **self.ssl,
                )
                if answer.code == 201:
                    self.sent += 1
                else:
                    self.failures.append(f"{answer.code} {answer.error!r} {answer.body!r}")
            except Exception as error:
                self.failures.append(repr(error))
            await asyncio.sleep(0.02)
        client.close()


async def until_they_talk(talkers: list[Talker], *, returns: int) -> None:
    """Wait until each is back as often as that, and has said something more."""
    await until(lambda: all(len(one.late_s) >= returns for one in talkers), _PATIENCE_S)
    before = [len(one.acked) for one in talkers]
    await until(lambda: all(len(one.acked) > was for one, was in zip(talkers, before, strict=True)), _PATIENCE_S)
