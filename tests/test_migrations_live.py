"""The migrations on a database that is in use: others read and write, locks are held, the process is killed."""

import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
import yoyo

from storage.backfill import _ROWS
from storage.embedded import EmbeddedPostgres
from storage.migrate import MIGRATIONS, _apply, _backend, migrate, pending
from tests.faults import sql
from tests.test_command import PATIENCE_S, ROOT, environment
from tests.test_migrations import ALICE, BOB, EARLIER_SCHEMA, GROUP, NEW_PAIR, ROWS, bare, earlier, snapshot

__all__ = ["bare", "earlier"]

# One conversation of several batches, and enough others to fill some.
LARGE = 3 * _ROWS + 7
MANY = f"""
INSERT INTO messages (conversation_id, sender_id, text, created_at)
    SELECT '{GROUP}', '{BOB}', 'large', timestamptz '2025-03-01' + n * interval '1 s'
    FROM generate_series(1, {LARGE}) n;
INSERT INTO messages (conversation_id, sender_id, text, created_at)
    SELECT NULL, '{BOB}', 'nobody''s', timestamptz '2025-03-01' FROM generate_series(1, 3);
INSERT INTO conversations (id) SELECT gen_random_uuid() FROM generate_series(1, 700);
INSERT INTO messages (conversation_id, sender_id, text, created_at)
    SELECT c.id, '{ALICE}', 'small', timestamptz '2025-03-01' - n * interval '1 s'
    FROM conversations c, generate_series(1, 4) n WHERE c.id::text NOT LIKE '00000000%';
"""
# A message that the migration has numbered out of the order of time, a gap, or a head that is not the newest.
WRONG = """
    SELECT c.id, c.last_seq, array_agg(m.seq ORDER BY m.seq)
    FROM conversations c JOIN messages m ON m.conversation_id = c.id
    GROUP BY c.id HAVING min(m.seq) <> 1 OR max(m.seq) <> count(*) OR count(DISTINCT m.seq) <> count(*)
        OR max(m.seq) <> c.last_seq
"""
OUT_OF_ORDER = """
    SELECT FROM (
        SELECT created_at, lag(created_at) OVER (PARTITION BY conversation_id ORDER BY seq) AS before
        FROM messages WHERE conversation_id IS NOT NULL AND text IN ('small', 'large')
    ) m WHERE created_at < before
"""


class EarlierBackend:
    """Writes as the app's earlier backend does, which knows nothing of seq, until it is stopped.

    It fails when a lock is not had within 2 s. PostgreSQL itself looks at that: a machine that is busy is no lock.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stopped = threading.Event()
        self.texts: list[str] = []

    def run(self) -> None:
        """Write, and read what was written."""
        conversations = [row[0] for row in sql(self._dsn, "SELECT id::text FROM conversations")]
        with closing(psycopg2.connect(self._dsn)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SET lock_timeout = '2s'")
            while not self._stopped.is_set():
                text = uuid.uuid4().hex
                where = random.choice([GROUP, NEW_PAIR, *conversations])
                cursor.execute(
                    "INSERT INTO messages (conversation_id, sender_id, text) VALUES (%s, %s, %s)", (where, BOB, text)
                )
                cursor.execute("SELECT count(*) FROM messages WHERE text = %s", (text,))
                self.texts.append(text)

    def stop(self) -> None:
        """End it."""
        self._stopped.set()


@pytest.fixture
def in_use(earlier: str) -> Iterator[tuple[str, EarlierBackend]]:
    """The app's tables with many rows, and its earlier backend at work."""
    sql(earlier, MANY)
    backend = EarlierBackend(earlier)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(backend.run)
        yield earlier, backend
        backend.stop()
        working.result(PATIENCE_S)


@contextmanager
def held(dsn: str, statement: str, isolation: str = "READ COMMITTED") -> Iterator[None]:
    """Keep a transaction open in which this statement was run."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        cursor.execute(statement)
        yield


@contextmanager
def migrating(dsn: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that migrates; killed where it is at the end."""
    settings = environment(database_url=dsn, environment="production", supabase_jwt_secret="x" * 32)
    process = subprocess.Popen([sys.executable, "server.py", "migrate"], cwd=ROOT, env=settings)
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)


def check(dsn: str, backend: EarlierBackend) -> None:
    """Everything that was there and that was written meanwhile has its place."""
    before = len(backend.texts)
    wait_for(lambda: len(backend.texts) > before + 20)
    backend.stop()
    assert sql(dsn, WRONG) == []
    assert sql(dsn, OUT_OF_ORDER) == []
    assert sql(dsn, "SELECT count(*) FROM messages WHERE text = ANY (%s)", backend.texts) == [(len(backend.texts),)]
    assert sql(dsn, "SELECT count(*) FROM messages WHERE text IN ('small', 'large')") == [(LARGE + 2800,)]
    assert sql(dsn, "SELECT count(*), max(seq) FROM messages WHERE conversation_id IS NULL") == [(3, 0)]
    assert sql(dsn, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    assert pending(dsn) == []
    # Only what was written after its conversation was numbered is not delivered yet.
    early = (
        f"SELECT count(*) FROM conversation_participants WHERE delivered_seq < {LARGE} AND conversation_id = '{GROUP}'"
    )
    assert sql(dsn, early) == [(0,)]


def test_others_write_meanwhile(in_use: tuple[str, EarlierBackend]) -> None:
    """Nobody waits long, every message has its place, those from before in the order of time."""
    dsn, backend = in_use
    wait_for(lambda: backend.texts)
    migrate(dsn)
    check(dsn, backend)


def test_killed_while_it_fills_in_rows(in_use: tuple[str, EarlierBackend]) -> None:
    """What is done stays, and the next attempt goes on."""
    dsn, backend = in_use
    numbered = "SELECT count(*) FROM messages WHERE seq > 0"
    with _backend(dsn) as yoyo_backend:
        for migration in yoyo_backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))[:4]:
            _apply(yoyo_backend, migration)
    held_back = sql(dsn, "SELECT id::text FROM conversations WHERE id::text LIKE 'f%' LIMIT 1")[0][0]
    with held(dsn, f"SELECT FROM conversations WHERE id = '{held_back}' FOR UPDATE"), migrating(dsn):
        wait_for(lambda: sql(dsn, numbered)[0][0] > LARGE)
    assert sql(dsn, f"SELECT last_seq FROM conversations WHERE id = '{held_back}'") == [(None,)]
    done = dict(sql(dsn, "SELECT id::text, seq FROM messages WHERE seq > 0"))
    assert migrate(dsn)[:2] == ["0005-backfill", "0006-enforce"]
    assert done.items() <= dict(sql(dsn, "SELECT id::text, seq FROM messages")).items()
    check(dsn, backend)


def test_killed_while_it_builds_an_index(earlier: str) -> None:
    """What is left of the index is taken away, and it is built again."""
    with held(earlier, "SELECT count(*) FROM profiles", isolation="REPEATABLE READ"), migrating(earlier):
        wait_for(lambda: sql(earlier, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(1,)])
    assert migrate(earlier)[0] == "0003-indexes"
    assert sql(earlier, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    assert sql(earlier, "SELECT count(*) FROM pg_class WHERE relname = 'messages_conversation_seq'") == [(1,)]


def test_somebody_reads_for_long(earlier: str) -> None:
    """A table that can't be locked is tried again, and whoever writes meanwhile hardly waits."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'messages'::regclass"
    with ThreadPoolExecutor(1) as pool, held(earlier, "SELECT count(*) FROM messages"):
        migration = pool.submit(migrate, earlier)
        wait_for(lambda: sql(earlier, waiting) != [(0,)])
        started = time.monotonic()
        sql(earlier, f"INSERT INTO messages (conversation_id, sender_id, text) VALUES ('{GROUP}', '{BOB}', 'x')")
        assert time.monotonic() - started < 10, "it waited for the reader"
        assert not migration.done()
        wait_for(lambda: sql(earlier, waiting) == [(0,)])
        wait_for(lambda: sql(earlier, waiting) != [(0,)])
        sql(earlier, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        migration.result(PATIENCE_S)
    assert pending(earlier) == []


def test_by_an_owner_who_is_no_superuser(postgres: EmbeddedPostgres, bare: str) -> None:
    """As on a hosted database: the app's triggers rest there too, and every row is found again unchanged."""
    owner = f"owner_{uuid.uuid4().hex}"
    database = sql(bare, "SELECT current_database()")[0][0]
    sql(bare, f"CREATE ROLE {owner} LOGIN; ALTER DATABASE {database} OWNER TO {owner}")
    try:
        dsn = bare.replace("postgres@", f"{owner}@", 1)
        sql(dsn, EARLIER_SCHEMA)
        sql(dsn, ROWS)
        before = snapshot(dsn)
        migrate(dsn)
        assert snapshot(dsn, {table: list(rows[0]) for table, rows in before.items()}) == before
        assert sql(dsn, WRONG) == []
        own = "SELECT count(*) FROM pg_trigger WHERE tgname IN ('touch', 'bump') AND tgenabled = 'O'"
        assert sql(dsn, own) == [(2,)]
    finally:
        sql(bare, f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}")
        sql(bare, f"ALTER DATABASE {database} OWNER TO postgres; DROP ROLE {owner}")
