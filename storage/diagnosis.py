"""What can be seen of a database before the server uses it. Blocking: for the command line only."""

import select
import time
from contextlib import closing

import psycopg2
from msgspec import Struct

from storage.migrate import Unreachable

MIN_VERSION = 15
_CONNECT_TIMEOUT_S = 5
_HEAR_S = 1.0
_FREE = """
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend')
"""


class Diagnosis(Struct, frozen=True):
    """``hears`` tells whether NOTIFY arrives, which it does not through a transaction pooler."""

    version: str
    major: int
    latency_ms: float
    hears: bool
    free_connections: int


def diagnose(dsn: str) -> Diagnosis:
    """Look at the database. Raises ``Unreachable``."""
    try:
        with (
            closing(psycopg2.connect(dsn, connect_timeout=_CONNECT_TIMEOUT_S)) as listening,
            closing(psycopg2.connect(dsn, connect_timeout=_CONNECT_TIMEOUT_S)) as telling,
        ):
            listening.autocommit = telling.autocommit = True
            with listening.cursor() as ear, telling.cursor() as mouth:
                ear.execute("LISTEN realtime_diagnosis")
                mouth.execute("SELECT 1")  # what a first statement costs is not the way's length
                began = time.perf_counter()
                mouth.execute(_FREE)
                [free] = mouth.fetchone() or (0,)
                latency_ms = (time.perf_counter() - began) * 1000
                mouth.execute("NOTIFY realtime_diagnosis")
                hears = bool(select.select([listening], [], [], _HEAR_S)[0])
            version = str(listening.get_parameter_status("server_version"))
            return Diagnosis(version, listening.server_version // 10_000, latency_ms, hears, free)
    except psycopg2.Error as error:
        raise Unreachable(str(error).strip() or type(error).__name__) from error
