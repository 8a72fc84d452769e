"""Brings a database's schema up to date, with the migrations beside this file, while others use it."""

import contextlib
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg2
import psycopg2.errors
import structlog
import yoyo

log = structlog.get_logger()

MIGRATIONS = Path(__file__).with_name("migrations")
_CONNECT_TIMEOUT_S = 5

# Who waits for a table's lock makes all wait who come after: so not for long, but often. Building an index or filling
# in rows may take hours, and must not outlive a process that was killed.
_OPTIONS = (
    "-c lock_timeout=250 -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c client_connection_check_interval=1000"
)
_RETRY_S, _PATIENCE_S, _LOCK_POLL_S = 1.0, 600.0, 0.5
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext('bountyexpo-realtime migrations'))"
_TABLES = """
    SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()
    AND table_name IN ('messages', 'conversations', 'conversation_participants', 'bounties', 'profiles')
"""


class Busy(Exception):
    """A table stayed locked; ``str(error)`` says which migration could not be applied."""


class Unreachable(Exception):
    """The database did not answer; ``str(error)`` is libpq's reason."""


def check_reachable(dsn: str) -> str:
    """Return the server's version. Raises ``Unreachable``."""
    try:
        with closing(psycopg2.connect(dsn, connect_timeout=_CONNECT_TIMEOUT_S)) as connection:
            return str(connection.get_parameter_status("server_version"))
    except psycopg2.Error as error:
        raise Unreachable(str(error).strip() or type(error).__name__) from error


def pending(dsn: str) -> list[str]:
    """Return the names of the migrations that are missing."""
    return compare(dsn)[0]


def compare(dsn: str) -> tuple[list[str], list[str]]:
    """Return the names of the migrations that are missing, and of those that only a newer version knows."""
    with _backend(dsn) as backend:
        known = yoyo.read_migrations(str(MIGRATIONS))
        missing = [migration.id for migration in backend.to_apply(known)]
        applied = backend.execute(f"SELECT migration_id FROM {backend.migration_table}").fetchall()
        return missing, sorted({name for (name,) in applied}.difference(migration.id for migration in known))


def migrate(dsn: str) -> list[str]:
    """Apply what is missing, under a lock that other servers wait for; return the names of what was applied.

    Others may read and write meanwhile. What is ended in the middle goes on when it is called again. Raises ``Busy``.
    """
    with _backend(dsn) as backend:
        _lock(backend)
        # Only a process that was killed can have left yoyo's own lock: that is a row, and outlives it.
        backend.break_lock()
        missing = backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))
        for migration in missing:
            _apply(backend, migration)
        return [migration.id for migration in missing]


def _lock(backend: Any) -> None:
    """Wait until no other process migrates. PostgreSQL releases the lock with the connection.

    By asking again and again: whoever waits inside a statement would be waited for by CREATE INDEX CONCURRENTLY.
    """
    said = False
    while not backend.execute(_TRY_LOCK).fetchone()[0]:
        if not said:
            log.info("migration.waiting", reason="another process migrates this database")
            said = True
        time.sleep(_LOCK_POLL_S)


def _apply(backend: Any, migration: Any) -> None:
    """Apply one migration, again and again while a table's lock is not to be had."""
    give_up = time.monotonic() + _PATIENCE_S
    said = False
    while True:
        try:
            backend.apply_one(migration)
            return
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected) as error:
            if time.monotonic() >= give_up:
                raise Busy(f"{migration.id} could not lock a table for {_PATIENCE_S:.0f} s: {error}".strip()) from error
            if not said:
                log.info("migration.waiting", name=migration.id, reason=str(error).strip())
                said = True
            _send_vacuum_away(backend)
            time.sleep(random.uniform(0.1, _RETRY_S))  # noqa: S311  # spreads attempts, guards nothing


def _send_vacuum_away(backend: Any) -> None:
    """Have PostgreSQL end an autovacuum that may be in the way: it does for who waits a second, and so did not for us.

    This lock stops no reader and no writer, so it can be waited for.
    """
    for (table,) in backend.execute(_TABLES).fetchall():
        with contextlib.suppress(psycopg2.errors.LockNotAvailable), backend.transaction():
            backend.execute("SET LOCAL lock_timeout = '3s'")
            backend.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")


@contextlib.contextmanager
def _backend(dsn: str) -> Iterator[Any]:
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    query["options"] = f"{query.get('options', '')} {_OPTIONS}".strip()
    address = parts._replace(scheme="postgresql", query=urlencode(query, quote_via=quote, safe="/"))
    backend = yoyo.get_backend(urlunsplit(address))
    try:
        yield backend
    finally:
        backend.connection.close()
