"""The one connection that listens for NOTIFY. A notification is a wake-up and says no more than where to look.

NOTIFY is lost while this connection is down, so each time it is up (again) everybody is told to look.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import momoko
import psycopg2
import structlog
from tornado.ioloop import IOLoop

from storage.database import PgConnection, session_dsn

log = structlog.get_logger()

# Told of each notification's payload; with None after a connect, when any may have been missed.
OnNotify = Callable[[str | None], None]

_RETRY_S = 0.25
# A dead peer is found by asking; an idle LISTEN connection says nothing by itself.
_PROBE_S = 5.0


class Listener:
    """Listens on channels, reconnecting for as long as it lives.

    :param channels: {channel: who is told}.
    """

    def __init__(self, dsn: str, channels: dict[str, OnNotify], *, deadline_s: float) -> None:
        self._dsn = session_dsn(dsn, deadline_s)
        self._deadline_s = deadline_s
        self._channels = channels
        self._loop = IOLoop.current()
        self._connection: Any = None
        self._lost: asyncio.Event = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
                await self._until_lost()
            except (psycopg2.Error, TimeoutError, OSError) as error:
                if self.connected:
                    log.warning("listener.lost", error=type(error).__name__)
            finally:
                self.connected = False
                self._drop()
            await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        connection = momoko.Connection(self._dsn, connection_factory=PgConnection)
        self._connection = connection
        await self._within_deadline(connection.connect())
        await self._run("".join(f"LISTEN {channel};" for channel in self._channels))
        log.debug("listener.connected")
        self.connected = True
        for on_notify in self._channels.values():
            on_notify(None)

    async def _until_lost(self) -> None:
        while True:
            self._lost = asyncio.Event()
            self._loop.add_handler(self._connection.fileno, self._on_readable, IOLoop.READ)
            # Not `wait_for`: lost and cancelled at once, it forgets the cancelling (until Python 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_S):
                    await self._lost.wait()
                raise psycopg2.OperationalError("connection lost")
            self._loop.remove_handler(self._connection.fileno)
            await self._run("SELECT 1")
            self._dispatch()

    async def _run(self, sql: str) -> None:
        await self._within_deadline(self._connection.execute(sql))

    async def _within_deadline(self, future: "asyncio.Future[Any]") -> None:
        done, _ = await asyncio.wait([future], timeout=self._deadline_s)
        if not done:
            raise TimeoutError
        future.result()

    def _on_readable(self, _fd: int, _events: int) -> None:
        try:
            self._connection.connection.poll()
        except psycopg2.Error:
            self._loop.remove_handler(self._connection.fileno)
            self._lost.set()
            return
        self._dispatch()

    def _dispatch(self) -> None:
        notifies = self._connection.connection.notifies
        while notifies:
            notify = notifies.pop(0)
            self._channels[notify.channel](notify.payload)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.connection is not None:
            with contextlib.suppress(Exception):
                self._loop.remove_handler(connection.fileno)
            with contextlib.suppress(psycopg2.Error):
                connection.close()
