"""The connection pool: momoko behind deadlines, bounded waiting and one way to run a statement.

What lives here is everything that has to be known about momoko and psycopg2. What a statement says does not.

Guarantees of ``Database.fetch``:

* It ends within ``deadline_s``, whatever Postgres does, with rows or with an exception.
* A connection goes back to the pool on every path, cancellation included.
* A statement may be run twice: when its connection was lost after it was sent, nobody knows whether it was
  committed, and it is run again while there is time. Every statement has to be idempotent.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

import momoko
import psycopg2
import psycopg2.extensions
import structlog
from psycopg2 import errors
from tornado.ioloop import IOLoop

from measures import LATENCY_S, Histogram
from protocol.codes import AppError, store_unavailable

log = structlog.get_logger()

Row = tuple[Any, ...]

# Past this many callers waiting for a connection, the next is refused at once: they would not be served in time.
MAX_WAITING = 2000
# Between two tries to get a connection while Postgres is away.
RETRY_PAUSE_S = 0.05

# Trouble of the store rather than of the statement: SQLSTATE classes 08 (connection), 53 (resources: disk full),
# 57 (operator: shutdown, cancelled by timeout), 58 (system); 25006 read only; 55P03 lock timeout.
_STORE_TROUBLE = ("08", "53", "57", "58", "25006", "55P03")
# Two transactions in each other's way: neither was applied, so run again.
_COLLISION = (errors.SerializationFailure, errors.DeadlockDetected)
# The connection under a transaction pooler is another one than that which prepared the statement.
_PREPARED_ELSEWHERE = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)


class StoreError(Exception):
    """A statement failed for a reason of its own; a fault of ours."""


class Conflict(StoreError):
    """A unique or foreign key refused the statement; ``constraint`` names which."""

    def __init__(self, constraint: str) -> None:
        super().__init__(f"violates {constraint}")
        self.constraint = constraint


class BadData(StoreError):
    """Postgres refused a value; with a batch, one row of it."""


class Statement:
    """One SQL statement, prepared once a connection.

    ``name`` is unique in the process, ``types`` the SQL types of ``$1``, ``$2``, … in order. One that is not ``urgent``
    leaves half of the connections to those that are: what sockets and the event stream wait for.
    """

    def __init__(self, name: str, types: Sequence[str], sql: str, *, urgent: bool = False) -> None:
        self.name = name
        self.urgent = urgent
        self._places = [f"p{place}" for place in range(1, len(types) + 1)]
        signature = f"({', '.join(types)})" if types else ""
        places = f"({', '.join(['%s'] * len(types))})" if types else ""
        self.execute = f"EXECUTE {name}{places}"
        self.prepare = f"PREPARE {name}{signature} AS {sql}"
        # The same without PREPARE, for servers behind a transaction pooler.
        escaped = sql.replace("%", "%%")
        self.plain = re.sub(r"\$(\d+)", lambda place: f"(%(p{place[1]})s::{types[int(place[1]) - 1]})", escaped)

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return ``values`` as the parameters of ``plain``."""
        return dict(zip(self._places, values, strict=True))


def array(values: Iterable[str | int | None]) -> str:
    """Return ``values`` as a Postgres array literal; cheaper than psycopg2's, and coercible to any element type."""
    return "{" + ",".join(["NULL" if value is None else _element(value) for value in values]) + "}"


def _element(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class PgConnection(psycopg2.extensions.connection):
    """A psycopg2 connection that remembers what was prepared on it, and can try several addresses of one name.

    Where the first address does not answer, libpq opens another socket, under the same number. The loop would wait
    for the first one for ever, so it is told to forget it; momoko asks it to watch the number again right after.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared: set[str] = set()
        self.backend_pid = 0
        self._opening: tuple[int, int] | None = self._identity()

    def poll(self) -> int:
        """Go on with what is under way; see psycopg2."""
        state = super().poll()
        if self._opening is not None:
            opening, self._opening = self._opening, self._identity()
            if self._opening[0] != opening[0]:
                raise psycopg2.OperationalError("libpq opened a socket under another number")
            if self._opening != opening:
                IOLoop.current().update_handler(opening[0], 0)
            if state == psycopg2.extensions.POLL_OK:
                self._opening = None
                self.backend_pid = self.get_backend_pid()
        return state

    def _identity(self) -> tuple[int, int]:
        """Return the socket's number, and what tells it from the next one under this number."""
        return self.fileno(), os.fstat(self.fileno()).st_ino


class Database:
    """Runs statements on a pool of connections, without ever blocking the loop.

    :param dsn: a libpq address.
    :param size: connections kept.
    :param deadline_s: seconds from call to answer, waiting for a connection included.
    """

    def __init__(self, dsn: str, *, size: int, deadline_s: float) -> None:
        self.size = size
        # From call to rows, of statements that got there; and the calls that did not, the store being away.
        self.fetch_seconds = Histogram(LATENCY_S)
        self.unavailable = 0
        self._deadline_s = deadline_s
        self._waiting = 0
        # Reads that are slow, or wait for a lock, must not keep messages from being written.
        self._others = asyncio.Semaphore(max(1, size // 2))
        self._closed = False
        self._prepares = True
        # Backends whose answer was lost or given up: what they were sent they may still do, when Postgres thaws.
        self._abandoned: set[int] = set()
        self._pool = momoko.Pool(
            session_dsn(dsn, deadline_s),
            size=size,
            connection_factory=PgConnection,
            ioloop=IOLoop.current(),
            raise_connect_errors=False,
            reconnect_interval=RETRY_PAUSE_S * 1000,
        )

    async def connect(self) -> None:
        """Open the pool; connections that can't be opened now are opened on demand."""
        await self._settle(self._pool.connect(), time.monotonic() + self._deadline_s)

    async def fetch(
        self, statement: Statement, values: Sequence[Any] = (), *, deadline_s: float | None = None
    ) -> list[Row]:
        """Return the rows of ``statement``, within ``deadline_s`` seconds where that is not the usual time.

        Raises ``AppError`` STORE_UNAVAILABLE when Postgres is away or too slow, ``Conflict``, ``BadData`` or
        ``StoreError`` when it refused.
        """
        started_at = time.monotonic()
        try:
            deadline = started_at + (self._deadline_s if deadline_s is None else deadline_s)
            fetch = self._fetch if statement.urgent else self._fetch_in_turn
            rows = await fetch(statement, values, deadline)
        except AppError:
            self.unavailable += 1
            raise
        self.fetch_seconds.observe(time.monotonic() - started_at)
        return rows

    async def _fetch_in_turn(self, statement: Statement, values: Sequence[Any], deadline: float) -> list[Row]:
        """Wait until one more statement may run that is not urgent."""
        if self._waiting >= MAX_WAITING:
            raise store_unavailable()
        self._waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._others.acquire()
        except TimeoutError:
            raise store_unavailable() from None
        finally:
            self._waiting -= 1
        try:
            return await self._fetch(statement, values, deadline)
        finally:
            self._others.release()

    async def _fetch(self, statement: Statement, values: Sequence[Any], deadline: float) -> list[Row]:
        while True:
            connection = await self._acquire(deadline)
            try:
                return await self._run(connection, statement, values, deadline)
            except _PREPARED_ELSEWHERE:
                self._forget_prepared(connection, statement)
            except psycopg2.Error as error:
                if connection.closed and isinstance(connection.connection, PgConnection):
                    self._abandoned.add(connection.connection.backend_pid)
                if not self._worth_retrying(connection, error):
                    # Without its cause: Postgres quotes the row that it refuses, and no message belongs in a log.
                    raise _explained(error) from None
                if time.monotonic() + RETRY_PAUSE_S >= deadline:
                    raise store_unavailable() from error
            except (ValueError, TypeError, IndexError) as error:  # a value psycopg2 can't put into SQL
                raise BadData(type(error).__name__) from error
            finally:
                self._release(connection)

    async def fence(self) -> None:
        """End the backends whose answer was given up, and wait for it: what they did not do by then they never will.

        Behind a transaction pooler there is no knowing which they are, and nothing is done. Raises as ``fetch`` does,
        STORE_UNAVAILABLE too while one does not end: it is frozen, and may commit yet.
        """
        if self._abandoned and self._prepares:
            abandoned = self._abandoned.copy()
            left = {row[0] for row in await self.fetch(_FENCE, (array(abandoned), _FENCE_MS))}
            self._abandoned -= abandoned - left
            if left:
                raise store_unavailable()

    async def ping(self, *, deadline_s: float | None = None) -> float:
        """Return the seconds of one round trip; raise as ``fetch`` does."""
        started = time.monotonic()
        await self.fetch(_PING, deadline_s=deadline_s)
        return time.monotonic() - started

    async def close(self) -> None:
        """Refuse new work, let what runs end, then close. Idempotent."""
        if self._closed:
            return
        self._closed = True
        give_up = time.monotonic() + self._deadline_s
        connections = self._pool.conns
        while connections.busy and time.monotonic() < give_up:
            await asyncio.sleep(0.005)
        connections.abort_waiting_queue(momoko.Pool.DatabaseNotAvailable("closed"))
        for connection in [*connections.busy, *connections.pending]:  # momoko would leave their handlers behind
            self._abandon(connection)
        self._pool.close()

    @property
    def free(self) -> int:
        """Connections that are open and idle."""
        return len(self._pool.conns.free)

    @property
    def busy(self) -> int:
        """Connections that run a statement."""
        return len(self._pool.conns.busy)

    @property
    def waiting(self) -> int:
        """Callers waiting for a connection."""
        return self._waiting

    async def _acquire(self, deadline: float) -> Any:
        if self._waiting >= MAX_WAITING:
            raise store_unavailable()
        self._waiting += 1
        try:
            while True:
                if self._closed:
                    raise store_unavailable()
                ready = self._pool.getconn(ping=False)
                try:
                    await self._settle(ready, deadline)
                    if not ready.done():  # its turn never came
                        raise store_unavailable()
                except BaseException:
                    ready.add_done_callback(self._release_late)
                    raise
                try:
                    return ready.result()
                except psycopg2.Error as error:  # nothing was sent: try again for as long as there is time
                    if time.monotonic() + RETRY_PAUSE_S >= deadline:
                        raise store_unavailable() from error
                await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            self._waiting -= 1

    async def _run(self, connection: Any, statement: Statement, values: Sequence[Any], deadline: float) -> list[Row]:
        link: PgConnection = connection.connection
        if not self._prepares:
            cursor = await self._outcome(
                connection, connection.execute(statement.plain, statement.named(values)), deadline
            )
        else:
            if statement.name not in link.prepared:  # by itself, so that its failure is told from the statement's
                await self._outcome(connection, connection.execute(statement.prepare), deadline)
                link.prepared.add(statement.name)
            cursor = await self._outcome(connection, connection.execute(statement.execute, values), deadline)
        return cursor.fetchall() if cursor.description else []

    async def _outcome(self, connection: Any, running: "asyncio.Future[Any]", deadline: float) -> Any:
        try:
            await self._settle(running, deadline)
        finally:
            if not running.done():  # a frozen Postgres, or our caller was cancelled: the outcome stays unknown
                self._abandon(connection)
        if not running.done():
            raise store_unavailable()
        return running.result()

    @staticmethod
    async def _settle(future: "asyncio.Future[Any]", deadline: float) -> None:
        """Wait for ``future`` until ``deadline``, without cancelling it."""
        if not future.done():
            await asyncio.wait([future], timeout=max(0.0, deadline - time.monotonic()))

    def _abandon(self, connection: Any) -> None:
        # psycopg2's cancel() would block the loop while Postgres is frozen; closing the socket does not.
        if connection.closed:  # its number may be another's by now
            return
        self._abandoned.add(connection.connection.backend_pid)
        with contextlib.suppress(Exception):
            self._pool.ioloop.remove_handler(connection.fileno)
        with contextlib.suppress(psycopg2.Error):
            connection.close()

    def _release(self, connection: Any) -> None:
        if connection in self._pool.conns.busy:
            self._pool.putconn(connection)

    def _release_late(self, ready: "asyncio.Future[Any]") -> None:
        if not ready.cancelled() and ready.exception() is None:
            self._release(ready.result())

    def _forget_prepared(self, connection: Any, statement: Statement) -> None:
        link = connection.connection
        if isinstance(link, PgConnection):
            link.prepared.discard(statement.name)
        if self._prepares:
            log.warning("database.pooler", detail="prepared statements are lost between calls; going on without them")
        self._prepares = False

    @staticmethod
    def _worth_retrying(connection: Any, error: psycopg2.Error) -> bool:
        return connection.closed or isinstance(error, _COLLISION)


def _explained(error: psycopg2.Error) -> Exception:
    state = error.pgcode or ""
    if isinstance(error, psycopg2.IntegrityError):
        return Conflict(error.diag.constraint_name or state)
    if state.startswith(_STORE_TROUBLE) or (not state and isinstance(error, psycopg2.OperationalError)):
        log.warning("database.trouble", state=state, error=type(error).__name__)
        return store_unavailable()
    if isinstance(error, psycopg2.DataError):
        return BadData(state)
    return StoreError(f"{state} {error.diag.message_primary or type(error).__name__}")


def session_dsn(dsn: str, deadline_s: float) -> str:
    """Return ``dsn`` with what every session of ours needs.

    The server's own timeouts end what our deadline has given up; ``force_generic_plan`` because planning is half
    of a short statement's time; libpq's keepalives notice a host that went away.
    """
    millis = int(deadline_s * 1000)
    options = (
        f"-c statement_timeout={millis} -c lock_timeout={millis} -c idle_in_transaction_session_timeout={millis * 3}"
        # An abandoned backend ends soon instead of working on for nobody.
        f" -c client_connection_check_interval={_CLIENT_CHECK_MS}"
        # A plan made while a table is small is kept when it has grown: never one that reads it whole.
        " -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c timezone=UTC"
    )
    return psycopg2.extensions.make_dsn(
        dsn, options=options, application_name="bountyexpo-realtime", keepalives_idle=10, keepalives_interval=5
    )


# By the time of a fence the process id may be another backend's, of ours at worst: its statement runs again.
# A backend that runs ends within milliseconds.
_FENCE_MS = 500
_FENCE = Statement(
    "fence",
    ("int[]", "bigint"),
    """
    WITH asked AS MATERIALIZED (SELECT pid, pg_terminate_backend(pid, $2) AS ended FROM unnest($1) AS b (pid))
    SELECT pid FROM asked WHERE NOT ended AND pid IN (SELECT pid FROM pg_stat_activity)
    """,
    urgent=True,
)
_CLIENT_CHECK_MS = 1000
_PING = Statement("ping", (), "SELECT 1", urgent=True)
