"""The public event stream: subscribers that resume where they were, and whoever changes bounties meanwhile."""

import asyncio
import contextlib
import json
import random
import time
from contextlib import closing
from urllib.parse import urlencode

import psycopg2
from tornado.websocket import WebSocketClientConnection, websocket_connect

from chaos.record import CHANGE, CLOSED, FLOWING, FRAME, OPENED, STALLED, Record
from chaos.rest import Rest
from chaos.server_process import ServerProcess
from chaos.world import STATUSES, World, connect

_CONNECT_TIMEOUT_S = 6.0


class Subscriber:
    """One client of ``/events/subscribe``.

    :param bounty_ids: what it narrows the stream to; empty for all.
    """

    def __init__(
        self, name: str, bounty_ids: list[str], server: ServerProcess, record: Record, rng: random.Random
    ) -> None:
        self.name = name
        self.bounty_ids = bounty_ids
        self.last_event_id: int | None = None
        self.stopping = False
        self._server, self._record, self._rng = server, record, rng
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._socket: WebSocketClientConnection | None = None
        self._number = 0

    async def run(self) -> None:
        """Stay subscribed until ``stopping``, leaving now and then."""
        while not self.stopping:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    self._socket = await self._connect()
            if self._socket is not None:
                await self._follow(self._socket)
                self._socket = None
            if not self.stopping:
                await asyncio.sleep(self._rng.uniform(0.1, 0.6))

    def stall(self) -> None:
        """Stop reading."""
        if self._socket is not None:
            self._record.add(STALLED, self.name, self._number)
            self._flowing.clear()

    def flow(self) -> None:
        """Go on reading."""
        if not self._flowing.is_set():
            self._record.add(FLOWING, self.name, self._number)
            self._flowing.set()

    def drop(self) -> None:
        """End the connection without a word."""
        self._flowing.set()
        socket = self._socket
        if socket is not None and socket.protocol is not None and socket.protocol.stream is not None:
            socket.protocol.stream.close()

    async def _connect(self) -> WebSocketClientConnection:
        query: list[tuple[str, str]] = [("bountyId", bounty_id) for bounty_id in self.bounty_ids]
        if self.last_event_id is not None:
            query.append(("lastEventId", str(self.last_event_id)))
        return await websocket_connect(f"ws://127.0.0.1:{self._server.port}/events/subscribe?{urlencode(query)}")

    async def _follow(self, socket: WebSocketClientConnection) -> None:
        number = self._number = self._record.new_socket()
        opened = {"after": self.last_event_id, "bounties": self.bounty_ids}
        self._record.add(OPENED, self.name, number, opened)
        leaves_at = time.monotonic() + self._rng.uniform(6, 40)
        leaving = asyncio.get_running_loop().call_later(leaves_at - time.monotonic(), self.drop)
        try:
            while True:
                await self._flowing.wait()
                message = await socket.read_message()
                if message is None:
                    break
                frame = json.loads(message)
                self._record.add(FRAME, self.name, number, frame)
                if frame["type"] == "connection" and self.last_event_id is None:
                    self.last_event_id = frame["lastEventId"]
                elif frame["type"] == "bounty.status":
                    self.last_event_id = frame["eventId"]
                elif frame["type"] == "replay.complete":
                    self.last_event_id = max(self.last_event_id or 0, frame["lastEventId"])
        finally:
            leaving.cancel()
            self._record.add(CLOSED, self.name, number, {"code": socket.close_code})


class Changer:
    """Changes bounties, one at a time each: most by SQL, some over REST by their creator."""

    def __init__(
        self, world: World, server: ServerProcess, rest: Rest, record: Record, rng: random.Random, *, every_s: float
    ) -> None:
        self._world, self._server, self._rest, self._record, self._rng = world, server, rest, record, rng
        self._every_s = every_s
        self.stopping = False
        # What each bounty may be now: a change of unknown outcome adds to it, a known one replaces it.
        self._perhaps: dict[str, list[str]] = {bounty_id: ["open"] for bounty_id in world.bounties}

    async def run(self) -> None:
        """Change one, wait, change the next, until ``stopping``."""
        while not self.stopping:
            await asyncio.sleep(self._rng.expovariate(1 / self._every_s))
            bounty_id = self._rng.choice(list(self._world.bounties))
            left = [status for status in STATUSES if status not in self._perhaps[bounty_id]]
            if left:
                await self._change(bounty_id, self._rng.choice(left))

    async def _change(self, bounty_id: str, status: str) -> None:
        by_rest = list(self._world.bounties).index(bounty_id) % 3 == 0
        self._record.add(CHANGE, "", 0, {"bounty": bounty_id, "status": status, "known": None})
        if by_rest:
            creator = self._world.bounties[bounty_id]
            answer = await self._rest.call(creator, "POST", f"/api/bounties/{bounty_id}/status", {"status": status})
            known = answer.status == 200
        else:
            known = await asyncio.to_thread(self._by_sql, bounty_id, status)
        self._perhaps[bounty_id] = [status] if known else [*self._perhaps[bounty_id], status]
        self._record.add(CHANGE, "", 0, {"bounty": bounty_id, "status": status, "known": known})

    def _by_sql(self, bounty_id: str, status: str) -> bool:
        try:
            with closing(connect(self._server.dsn())) as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE bounties SET status = %s WHERE id = %s", (status, bounty_id))
        except (psycopg2.Error, OSError):
            return False
        return True
