"""One device of one person: what the app keeps, and how it follows the contract.

It keeps what it holds of each conversation and its unacked messages across connections, as a phone's storage does.
What its person does (write, read, walk out of reach) is in ``people.py``.
"""

import asyncio
import contextlib
import json
import random
import time
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct
from tornado.httpclient import HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from chaos.record import CLOSED, FLOWING, FRAME, OPENED, SENT, STALLED, Record
from chaos.rest import Rest
from chaos.server_process import ServerProcess

# Without an ack for this long a message is sent again: longer than the server's own deadline.
_UNACKED_S = 6.0
_SYNC_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 6.0


class Outgoing(Struct):
    """A message on its way, until it is acked."""

    key: str
    conversation_id: str
    text: str
    by_rest: bool
    send_at: float = 0.0
    tries: int = 0


class Device:
    """A device.

    :param eager: reconnects at once instead of backing off; for the ones that recovery is measured with.
    """

    def __init__(
        self, user_id: str, name: str, conversations: list[str], server: ServerProcess, rest: Rest, record: Record,
        rng: random.Random, *, eager: bool = False,
    ) -> None:  # fmt: skip
        self.user_id = user_id
        self.name = name
        self.held: dict[str, dict[int, str]] = {conversation: {} for conversation in conversations}
        self.contiguous = dict.fromkeys(conversations, 0)
        self.outbox: dict[str, Outgoing] = {}
        self.acked: list[Outgoing] = []
        self.rng = rng
        self.rest = rest
        self.online = False  # connected, and synced
        self.in_step = asyncio.Event()  # like `online`, to wait for
        self.stay_away_until = 0.0
        self.stopping = False
        self._server, self._record, self._eager = server, record, eager
        self._socket: WebSocketClientConnection | None = None
        self._number = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._sync_sent_at: float | None = None
        self._sync_wanted_at: float | None = None
        self._reconnect_after_s: float | None = None
        self._backoff_s = 0.1

    # Being connected

    async def run(self) -> None:
        """Stay connected as well as can be, until ``stopping``."""
        while not self.stopping:
            wait_s = self.stay_away_until - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, 0.2))
                continue
            code = await self._connection()
            if not self.stopping:
                await asyncio.sleep(self._pause(code))

    def drop(self, *, cleanly: bool) -> None:
        """End the connection, with or without a close frame."""
        socket = self._socket
        if socket is None:
            return
        self._flowing.set()
        if cleanly:
            socket.close(1000)
        elif socket.protocol is not None and socket.protocol.stream is not None:
            socket.protocol.stream.close()

    def stall(self) -> None:
        """Stop reading."""
        if self._socket is not None:
            self._record.add(STALLED, self.user_id, self._number)
            self._flowing.clear()

    def flow(self) -> None:
        """Go on reading."""
        if not self._flowing.is_set():
            self._record.add(FLOWING, self.user_id, self._number)
            self._flowing.set()

    async def _connection(self) -> int | None:
        """Connect, follow the frames to the end; return the close code, if there was one."""
        self._reconnect_after_s = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                socket = await self._connect()
        except Exception:
            return None
        self._socket, self._number = socket, self._record.new_socket()
        self._sync_sent_at = self._sync_wanted_at = None
        number = self._number
        self._record.add(OPENED, self.user_id, number, {"device": self.name})
        try:
            while True:
                await self._flowing.wait()
                message = await socket.read_message()
                if message is None:
                    break
                frame = json.loads(message)
                self._record.add(FRAME, self.user_id, number, frame)
                self._take(frame)
        finally:
            self.online = False
            self.in_step.clear()
            self._socket = None
            self._record.add(CLOSED, self.user_id, number, {"code": socket.close_code})
        return socket.close_code

    async def _connect(self) -> WebSocketClientConnection:
        """Connect, with the token in one of the three ways."""
        query: dict[str, str] = {} if self.rng.random() < 0.7 else {"replay": "0"}
        token, headers, protocols = self._server.token(self.user_id), {}, None
        way = self.rng.randrange(3)
        if way == 0:
            query["token"] = token
        elif way == 1:
            headers["Authorization"] = f"Bearer {token}"
        else:
            protocols = ["bountyexpo.v1", f"bearer.{token}"]
        url = f"ws://127.0.0.1:{self._server.port}/messages/subscribe?{urlencode(query)}"
        return await websocket_connect(HTTPRequest(url, headers=headers), subprotocols=protocols)

    def _pause(self, code: int | None) -> float:
        """Return how long to wait before connecting again, by the close code."""
        if self._eager:
            return 0.1
        if code == 1012 and self._reconnect_after_s is not None:
            return self._reconnect_after_s
        if code in (1000, 4401, 4408):
            return 0.05
        self._backoff_s = min(2.0, self._backoff_s * 2)
        return self._backoff_s * self.rng.uniform(0.5, 1.0)

    # Frames

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "message.new":
            self._hold(frame)
        elif kind == "message.ack":
            self._hold(frame)
            self.settle(frame["clientMessageId"])
        elif kind == "connected":
            self._sync_soon(0.0)
        elif kind == "sync.complete":
            self._sync_sent_at = None
            if frame["truncated"] or self._sync_wanted_at is not None:
                self._sync_soon(0.0)
            else:
                self._backoff_s = 0.1
                self.online = True
                self.in_step.set()
        elif kind == "server.draining":
            self._reconnect_after_s = frame["reconnectAfterMs"] / 1000
            self.online = False
        elif kind == "error":
            self._take_error(frame)

    def _take_error(self, frame: dict[str, Any]) -> None:
        wait_s = frame.get("retryAfterMs", 1000) / 1000
        if frame.get("requestType") == "sync" or (self._sync_sent_at and frame["code"] == "RATE_LIMITED"):
            self._sync_sent_at = None
            self._sync_soon(wait_s)
        outgoing = self.outbox.get(frame.get("clientMessageId", ""))
        if outgoing is not None:
            outgoing.send_at = time.monotonic() + wait_s

    def _hold(self, place: dict[str, Any]) -> None:
        """Keep a message, by its ack or itself; ask for what is missing before it."""
        conversation_id, seq = place["conversationId"], place["seq"]
        held = self.held.get(conversation_id)
        if held is None:  # a stranger's: the checker says so
            return
        held[seq] = place["messageId"]
        reached = self.contiguous[conversation_id]
        while reached + 1 in held:
            reached += 1
        self.contiguous[conversation_id] = reached
        if seq > reached and self.online:
            self._sync_soon(0.1)

    # Sending

    def tick(self) -> None:
        """Send what is due; to be called a few times a second."""
        now = time.monotonic()
        if self._socket is not None and self._flowing.is_set():
            if self._sync_sent_at is not None and now - self._sync_sent_at > _SYNC_TIMEOUT_S:
                self._sync_sent_at, self._sync_wanted_at = None, now
            if self._sync_wanted_at is not None and self._sync_wanted_at <= now and self._sync_sent_at is None:
                self._sync_sent_at, self._sync_wanted_at = now, None
                self.send("sync", conversations=dict(self.contiguous))
        for outgoing in list(self.outbox.values()):
            if outgoing.send_at <= now and (outgoing.by_rest or self.online):
                self.transmit(outgoing)

    def transmit(self, outgoing: Outgoing) -> None:
        """Send a message, once more or for the first time; by the other way after some tries."""
        outgoing.tries += 1
        outgoing.send_at = time.monotonic() + _UNACKED_S
        if outgoing.tries > 1 and self.rng.random() < 0.2:
            outgoing.by_rest = not outgoing.by_rest
        if outgoing.by_rest:
            task = asyncio.ensure_future(self._post(outgoing))
            _running.add(task)
            task.add_done_callback(_running.discard)
        else:
            self.send(
                "message.send",
                conversationId=outgoing.conversation_id,
                text=outgoing.text,
                clientMessageId=outgoing.key,
            )

    def send(self, kind: str, **fields: Any) -> None:
        """Send a frame, if there is a connection."""
        if self._socket is None:
            return
        self._record.add(SENT, self.user_id, self._number, {"type": kind, **fields})
        with contextlib.suppress(WebSocketClosedError, StreamClosedError):
            written = self._socket.write_message(json.dumps({"type": kind, **fields}))
            written.add_done_callback(lambda done: done.exception())

    def settle(self, key: str) -> None:
        """A message was acked."""
        outgoing = self.outbox.pop(key, None)
        if outgoing is not None:
            self.acked.append(outgoing)
            del self.acked[:-20]

    async def _post(self, outgoing: Outgoing) -> None:
        path = f"/api/conversations/{outgoing.conversation_id}/messages"
        body: dict[str, Any] = {"text": outgoing.text}
        headers = {}
        if self.rng.random() < 0.5:
            body["clientMessageId"] = outgoing.key
        else:
            headers["Idempotency-Key"] = outgoing.key
        answer = await self.rest.call(self.user_id, "POST", path, body, headers)
        if answer.status == 201:
            message = answer.body["message"]
            self._hold({**message, "messageId": message["id"]})
            self.settle(outgoing.key)
        else:
            outgoing.send_at = time.monotonic() + answer.retry_after_s

    def _sync_soon(self, wait_s: float) -> None:
        due = time.monotonic() + wait_s
        if self._sync_wanted_at is None or due < self._sync_wanted_at:
            self._sync_wanted_at = due


# The loop keeps weak references only.
_running: set["asyncio.Future[None]"] = set()
