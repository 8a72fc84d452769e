"""Faults made on purpose: a proxy in front of Postgres, and a look at how long the loop was held."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extensions

from tests.basics import free_port

_READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"  # the end of an answer, outside a transaction: what was asked is committed


class Proxy:
    """Forwards TCP on loopback to the socket file of Postgres, until told to do otherwise."""

    def __init__(self, dsn: str) -> None:
        self._direct = psycopg2.extensions.parse_dsn(dsn)
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lose_reply_to: bytes | None = None
        self._then: Callable[[], None] | None = None
        self.port = 0
        self.lost = 0

    @property
    def dsn(self) -> str:
        """The address of Postgres through this proxy."""
        through = {"host": "127.0.0.1", "port": self.port, "sslmode": "disable", "gssencmode": "disable"}
        return str(psycopg2.extensions.make_dsn(**{**self._direct, **through}))

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self.port = self.port or free_port()
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def refuse(self) -> None:
        """Drop every connection and accept no more, until ``open``."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Drop every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Hold all that comes in, from both sides."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let it go on, with what was held."""
        self._flowing.set()

    def lose_reply_to(self, marker: bytes, then: Callable[[], None] | None = None) -> None:
        """Drop the next connection that sends ``marker``: after Postgres has committed, before its answer is sent on.

        ``then`` is called in the same moment.
        """
        self._lose_reply_to, self._then = marker, then

    async def close(self) -> None:
        """End it all."""
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = f"{self._direct['host']}/.s.PGSQL.5432"
        with contextlib.suppress(OSError):
            up_reader, up_writer = await asyncio.open_unix_connection(path)
            if self._listener is None:  # refused while this one was being opened
                up_writer.transport.abort()
                writer.transport.abort()
                return
            self._writers |= {writer, up_writer}
            doomed: list[bool] = []
            pumps = [
                asyncio.create_task(self._to_postgres(reader, up_writer, doomed)),
                asyncio.create_task(self._to_client(up_reader, writer, doomed)),
            ]
            self._tasks |= {*pumps}
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._tasks -= {*pumps}
            self._writers -= {writer, up_writer}
            up_writer.transport.abort()
        writer.transport.abort()

    async def _to_postgres(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: list[bool]
    ) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if self._lose_reply_to is not None and self._lose_reply_to in data:
                self._lose_reply_to = None
                doomed.append(True)
            writer.write(data)

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: list[bool]) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if not doomed:
                writer.write(data)
            elif data.endswith(_READY_FOR_QUERY):
                self.lost += 1
                if self._then is not None:
                    self._then()
                return


@contextlib.asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of ``dsn``."""
    proxy = Proxy(dsn)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


class Gaps:
    """How long nothing else could run."""

    longest = 0.0


@contextlib.asynccontextmanager
async def loop_gaps() -> AsyncIterator[Gaps]:
    """Measure, while the body runs, the longest time that the loop was held, in seconds."""
    gaps = Gaps()

    async def tick() -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            gaps.longest, before = max(gaps.longest, now - before), now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield gaps
        await asyncio.sleep(0)  # what was held to the end counts too
    finally:
        ticking.cancel()


async def quietest_gap(work: Callable[[], Awaitable[None]], under_s: float) -> float:
    """Do ``work`` until it has held the loop for less than ``under_s``, a few times at most; return the least.

    The machine may stop this process in one try or the other. What the code does, it does in each.
    """
    least = float("inf")
    for _ in range(5):
        async with loop_gaps() as gaps:
            await work()
        least = min(least, gaps.longest)
        if least < under_s:
            break
    return least


def sql(dsn: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run SQL from outside the server, as psql would."""
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def terminate_backends(dsn: str) -> None:
    """End every connection to the database but the one that this is asked on."""
    sql(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
