"""Brings a database's schema up to date, with the SQL files beside this one."""

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import yoyo

MIGRATIONS = Path(__file__).with_name("migrations")
_CONNECT_TIMEOUT_S = 5


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
    with _backend(dsn) as backend:
        return [migration.id for migration in backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))]


def migrate(dsn: str) -> list[str]:
    """Apply what is missing, under a lock that other servers wait for; return the names of what was applied."""
    with _backend(dsn) as backend, backend.lock():
        missing = backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))
        backend.apply_migrations(missing)
        return [migration.id for migration in missing]


@contextlib.contextmanager
def _backend(dsn: str) -> Iterator[Any]:
    backend = yoyo.get_backend(urlunsplit(urlsplit(dsn)._replace(scheme="postgresql")))
    try:
        yield backend
    finally:
        backend.connection.close()
