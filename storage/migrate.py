"""Brings a database's schema up to date, with the SQL files beside this one."""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import yoyo

MIGRATIONS = Path(__file__).with_name("migrations")


def migrate(dsn: str) -> list[str]:
    """Apply what is missing, under a lock that other servers wait for; return the names of what was applied."""
    parts = urlsplit(dsn)
    backend = yoyo.get_backend(urlunsplit(parts._replace(scheme="postgresql")))
    try:
        migrations = yoyo.read_migrations(str(MIGRATIONS))
        with backend.lock():
            pending = backend.to_apply(migrations)
            names = [migration.id for migration in pending]
            backend.apply_migrations(pending)
        return names
    finally:
        backend.connection.close()
