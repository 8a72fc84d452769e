"""How long the migrations take on many rows, and how long somebody who writes meanwhile has to wait.

``python -m bench.migration --messages 10000000``: the app's earlier tables with that many rows, its earlier backend
writing without pause from four connections, and ``server.py migrate``.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from storage.embedded import EmbeddedPostgres
from tests.test_migrations import EARLIER_SCHEMA

_ROOT = Path(__file__).resolve().parent.parent
_WRITERS = 4
_PEOPLE = 20_000
# Some twenty messages a conversation, and ten conversations that share a tenth of all.
_FILL = """
INSERT INTO profiles (id, username) SELECT gen_random_uuid(), 'p' || n FROM generate_series(1, {people}) n;
INSERT INTO conversations (id, updated_at)
    SELECT gen_random_uuid(), now() - n * interval '1 s' FROM generate_series(1, {messages} / 20) n;
CREATE TEMPORARY TABLE people AS SELECT id, row_number() OVER () AS n FROM profiles;
CREATE TEMPORARY TABLE chats AS SELECT id, row_number() OVER () AS n FROM conversations;
INSERT INTO conversation_participants (conversation_id, user_id)
    SELECT c.id, p.id
    FROM chats c CROSS JOIN LATERAL (VALUES (1 + c.n % {people}), (1 + (c.n * 7 + 13) % {people})) w (n)
    JOIN people p ON p.n = w.n ON CONFLICT DO NOTHING;
ALTER TABLE messages DISABLE TRIGGER USER;
INSERT INTO messages (conversation_id, sender_id, text, created_at)
    SELECT c.id, p.id, repeat('words ', (1 + m.n % 20)::int), now() - interval '1 year' + m.n * interval '1 s'
    FROM generate_series(1, {messages}::bigint) m (n)
    JOIN chats c ON c.n = CASE WHEN m.n % 10 = 0 THEN 1 + m.n % 100 / 10 ELSE 1 + m.n % ({messages} / 20) END
    JOIN people p ON p.n = 1 + m.n % {people};
ALTER TABLE messages ENABLE TRIGGER USER;
CREATE INDEX ON messages (conversation_id, created_at);
ANALYZE;
"""
_WRONG = """
SELECT count(*) FROM (
    SELECT FROM conversations c JOIN messages m ON m.conversation_id = c.id GROUP BY c.id
    HAVING min(m.seq) <> 1 OR max(m.seq) <> count(*) OR count(DISTINCT m.seq) <> count(*) OR max(m.seq) <> c.last_seq
) wrong
"""


def main() -> None:
    """Fill, migrate under writes, check, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="where to put the database (default: the temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bountyexpo-migration-", dir=options.directory) as directory:
        postgres = EmbeddedPostgres(Path(directory) / "postgres")
        try:
            _measure(postgres.dsn(), options.messages)
        finally:
            postgres.stop()


def _measure(dsn: str, messages: int) -> None:
    started = time.monotonic()
    _sql(dsn, EARLIER_SCHEMA)
    _sql(dsn, _FILL.format(messages=messages, people=_PEOPLE))
    size = _sql(dsn, "SELECT pg_size_pretty(pg_total_relation_size('messages'))")
    print(f"filled in {time.monotonic() - started:.0f} s: {messages:,} messages, {size[0][0]}", flush=True)
    stop = threading.Event()
    with ThreadPoolExecutor(_WRITERS) as pool:
        writing = [pool.submit(_write, dsn, stop) for _ in range(_WRITERS)]
        stop.wait(10)
        started = time.monotonic()
        environment = {**os.environ, "DATABASE_URL": dsn}
        subprocess.run([sys.executable, "server.py", "migrate"], cwd=_ROOT, env=environment, check=True)
        ended = time.monotonic()
        stop.set()
        waits = [wait for one in writing for wait in one.result()]
    for name, first, last in (("before", 0.0, started), ("meanwhile", started, ended)):
        within = sorted(took * 1000 for at, took in waits if first <= at < last)
        figures = [f"{part} {within[min(int(len(within) * share), len(within) - 1)]:.1f} ms"
                   for part, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))]  # fmt: skip
        print(f"INSERT {name}: {len(within):,}, {', '.join(figures)}")
    wrong = _sql(dsn, _WRONG)[0][0]
    size = _sql(dsn, "SELECT pg_size_pretty(pg_total_relation_size('messages'))")
    print(f"migrated in {ended - started:.0f} s; conversations with a wrong place: {wrong}; messages take {size[0][0]}")


def _write(dsn: str, stop: threading.Event) -> list[tuple[float, float]]:
    """Write as the earlier backend does; return (when, how long it took) of each INSERT, in seconds."""
    waits = []
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT conversation_id, user_id FROM conversation_participants TABLESAMPLE BERNOULLI (1)")
        places = cursor.fetchall()
        while not stop.wait(0.002):
            conversation, user = random.choice(places)
            started = time.monotonic()
            cursor.execute(
                "INSERT INTO messages (conversation_id, sender_id, text) VALUES (%s, %s, %s)",
                (conversation, user, uuid.uuid4().hex),
            )
            waits.append((started, time.monotonic() - started))
    return waits


def _sql(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


if __name__ == "__main__":
    main()
