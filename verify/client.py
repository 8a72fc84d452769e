"""The other side of the wire: one open socket, and REST."""

import asyncio
import json
import time
import uuid
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

# How long what has to come may take; figures have limits of their own.
PATIENCE_S = 5.0
_CONNECT_TIMEOUT_S = 10.0
_MAX_WAIT_S = 20.0


class NotSeen(Exception):
    """Something that had to come did not."""


class Socket:
    """One open WebSocket. Frames that nobody asks for are skipped."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._reading: asyncio.Future[Any] | None = None

    @property
    def subprotocol(self) -> str | None:
        """What the server chose."""
        return self._connection.selected_subprotocol

    @property
    def close_code(self) -> int | None:
        """Why it was closed."""
        return self._connection.close_code

    async def send(self, kind: str, **fields: Any) -> None:
        """Send a frame."""
        await self.raw(json.dumps({"type": kind, **fields}))

    async def raw(self, text: str) -> None:
        """Send a text as it is."""
        await self._connection.write_message(text)

    async def write(self, *, clientMessageId: str, **fields: Any) -> dict[str, Any]:  # noqa: N803
        """Send a ``message.send``; past the rate limit, again in time. Return the ack, or another error."""
        while True:
            await self.send("message.send", clientMessageId=clientMessageId, **fields)
            answer = await self.get("message.ack", "error", clientMessageId=clientMessageId)
            if answer.get("code") != "RATE_LIMITED":
                return answer
            await asyncio.sleep(answer["retryAfterMs"] / 1000)

    async def get(self, *kinds: str, within: float = PATIENCE_S, **fields: Any) -> dict[str, Any]:
        """Return the next frame of one of these types and with these fields; raise ``NotSeen``."""
        give_up = time.monotonic() + within
        wanted = f"{' or '.join(kinds)} {fields or ''}".strip()
        while True:
            try:
                message = await self._read(max(0.0, give_up - time.monotonic()))
            except TimeoutError:
                raise NotSeen(f"no {wanted} within {within:g} s") from None
            if message is None:
                raise NotSeen(f"closed with {self.close_code} instead of {wanted}")
            frame: dict[str, Any] = json.loads(message)
            if frame["type"] in kinds and all(frame.get(name) == value for name, value in fields.items()):
                return frame

    async def flush(self) -> list[dict[str, Any]]:
        """Return all that the server has sent by now."""
        mark = uuid.uuid4().hex
        await self.send("ping", ts=mark)
        frames = []
        while (frame := await self.frame()).get("ts") != mark:
            frames.append(frame)
        return frames

    async def frame(self) -> dict[str, Any]:
        """Return the next frame, whatever it is."""
        message = await self._read(PATIENCE_S)
        if message is None:
            raise NotSeen(f"closed with {self.close_code}")
        frame: dict[str, Any] = json.loads(message)
        return frame

    async def closed(self) -> int | None:
        """Wait for the server's close, and return its code."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                if await self._read(max(0.0, give_up - time.monotonic())) is None:
                    return self.close_code
            except TimeoutError:
                raise NotSeen(f"not closed within {PATIENCE_S:g} s") from None

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    async def _read(self, timeout: float) -> str | bytes | None:
        """Return the next message, or None once closed. What one read gave up on is the next one's."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._connection.read_message())
        message: str | bytes | None = await asyncio.wait_for(asyncio.shield(self._reading), timeout)
        if message is not None:
            self._reading = None
        return message


async def connect(url: str, headers: dict[str, str] | None = None, subprotocols: list[str] | None = None) -> Socket:
    """Open a WebSocket; where there are too many attempts, after the time that the server asks for."""
    give_up = time.monotonic() + _MAX_WAIT_S
    while True:
        request = HTTPRequest(url, headers=headers, connect_timeout=_CONNECT_TIMEOUT_S)
        try:
            return Socket(await websocket_connect(request, subprotocols=subprotocols))
        except HTTPClientError as error:
            if error.code != 429 or time.monotonic() > give_up:
                raise
            assert error.response is not None
            await asyncio.sleep(float(error.response.headers.get("Retry-After", 1)))


class Answer:
    """What a REST call gave. ``body`` is what its JSON is, or None."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.code
        self.headers = response.headers
        self.text = response.body.decode(errors="replace")
        try:
            self.body: Any = json.loads(self.text)
        except ValueError:
            self.body = None


class Rest:
    """REST calls to one server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = AsyncHTTPClient(force_instance=True)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        raw: str | None = None,
    ) -> Answer:
        """Make a call; an answer of any status is returned. Where it was one too many, make it again in time."""
        text = raw if raw is not None else json.dumps(body) if body is not None else None
        given = {"Content-Type": "application/json", **(headers or {})}
        if token:
            given["Authorization"] = f"Bearer {token}"
        give_up = time.monotonic() + 60
        while True:
            response = await self._http.fetch(
                self._url + path,
                method=method,
                headers=given,
                body=text,
                allow_nonstandard_methods=True,
                raise_error=False,
                request_timeout=_CONNECT_TIMEOUT_S,
            )
            if response.code == 599:  # no answer at all
                raise response.error or OSError("no answer")
            if response.code != 429 or time.monotonic() > give_up:
                return Answer(response)
            await asyncio.sleep(float(response.headers.get("Retry-After", 1)))

    def close(self) -> None:
        """Close what is open."""
        self._http.close()
