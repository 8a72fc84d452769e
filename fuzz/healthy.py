"""Two people who chat beside it all: if they notice anything, the loop has stalled."""

import asyncio
import json
import time
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

from fuzz.findings import Findings

_PAUSE_S = 0.1
_PATIENCE_S = 5.0


class Healthy:
    """Ping and chat, again and again."""

    def __init__(self, port: int, tokens: tuple[str, str], conversation_id: str, findings: Findings) -> None:
        self.messages = 0
        self.slowest_s = 0.0
        self._port = port
        self._tokens = tokens
        self._conversation_id = conversation_id
        self._findings = findings

    async def run(self) -> None:
        """Go on until cancelled."""
        sender, receiver = [await self._connect(token) for token in self._tokens]
        try:
            while True:
                started = time.monotonic()
                await self._send(sender, "ping", ts=started)
                await self._get(sender, "pong", ts=started)
                key = f"healthy {self.messages}"
                await self._send(
                    sender, "message.send", conversationId=self._conversation_id, text=key, clientMessageId=key
                )
                await self._get(sender, "message.ack", clientMessageId=key)
                await self._get(receiver, "message.new", text=key)
                self.messages += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                await asyncio.sleep(_PAUSE_S)
        except (TimeoutError, OSError) as error:
            self._findings.breach(f"the healthy clients were disturbed after {self.messages} messages: {error!r}")
        finally:
            sender.close()
            receiver.close()

    async def _connect(self, token: str) -> WebSocketClientConnection:
        return await websocket_connect(f"ws://127.0.0.1:{self._port}/messages/subscribe?replay=0&token={token}")

    async def _send(self, socket: WebSocketClientConnection, kind: str, **fields: Any) -> None:
        await socket.write_message(json.dumps({"type": kind, **fields}))

    async def _get(self, socket: WebSocketClientConnection, kind: str, **fields: Any) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                message = await socket.read_message()
                if message is None:
                    raise ConnectionError(f"closed with {socket.close_code}")
                frame = json.loads(message)
                if frame["type"] == kind and all(frame.get(name) == value for name, value in fields.items()):
                    return
