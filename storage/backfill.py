"""Fills in what rows from before lack, on a live database: in short transactions, while others read and write.

A batch is committed whole, and what is filled in is not looked at again: an attempt that was ended goes on where it
was. Migration 0005-backfill runs it; the triggers of 0002-rules see to rows that are written meanwhile.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import psycopg2.errors
import structlog
from tqdm import tqdm

log = structlog.get_logger()

Cursor = Any
T = TypeVar("T")

# Rows of one transaction: a writer waits for it for some 20 ms at worst.
_ROWS = 1000
# Conversations looked at in one go; as many small ones as fit are numbered together.
_PAGE = 500
# A row that somebody else holds is not waited for longer than this, well below PostgreSQL's deadlock_timeout (1 s):
# should we hold what they wait for, it is we who give way, and nobody is thrown out.
_LOCK_TIMEOUT_MS = 200
_PAUSE_S = 0.05
_FIRST = "00000000-0000-0000-0000-000000000000"

# Triggers of the tables' own (updated_at = now(), a webhook): what is filled in here is no change of a row.
_TRIGGERS = """
    SELECT tgrelid::regclass::text, quote_ident(tgname) FROM pg_trigger
    WHERE NOT tgisinternal AND tgenabled = 'O' AND tgtype & 16 <> 0 AND tgname NOT LIKE 'realtime\\_%%' AND tgrelid IN (
        'messages'::regclass, 'conversations'::regclass, 'conversation_participants'::regclass, 'bounties'::regclass
    )
"""
_HAS_COLUMN = """
    SELECT count(*) > 0 FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = %s AND column_name = %s
"""
_UNNUMBERED = "SELECT count(*) FROM messages WHERE seq IS NULL"
_SIZES = """
    SELECT c.id::text, (
        SELECT count(*) FROM (
            SELECT FROM messages m WHERE m.conversation_id = c.id AND m.seq IS NULL LIMIT %(rows)s + 1
        ) few
    )
    FROM conversations c WHERE c.last_seq IS NULL AND c.id > %(after)s ORDER BY c.id LIMIT %(page)s
"""
# While a conversation has no last_seq, nothing new of it is numbered, so its oldest can be without a lock.
_NUMBER_OLDEST = """
    WITH oldest AS (
        SELECT id, row_number() OVER (ORDER BY created_at, id) AS place FROM (
            SELECT id, created_at FROM messages WHERE conversation_id = %(conversation)s AND seq IS NULL
            ORDER BY created_at, id LIMIT %(rows)s
        ) few
    )
    UPDATE messages m SET seq = oldest.place + coalesce(
        (SELECT max(seq) FROM messages WHERE conversation_id = %(conversation)s), 0
    )
    FROM oldest WHERE m.id = oldest.id
"""
# Whoever is writing to a conversation has its lock. Among many it is left for later; by itself it is waited for.
_LOCK = """
    SELECT id::text FROM conversations WHERE id = ANY (%s::uuid[]) AND last_seq IS NULL
    ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_FREE = f"{_LOCK} SKIP LOCKED"
# Who is a participant by now has had the old messages by other ways: none of them is replayed or counted unread.
_NUMBER_REST = """
    WITH chosen AS (
        SELECT c.id, coalesce((SELECT max(seq) FROM messages WHERE conversation_id = c.id), 0) AS base
        FROM unnest(%s::uuid[]) AS c (id)
    ), placed AS (
        SELECT m.id, c.id AS conversation_id,
            c.base + row_number() OVER (PARTITION BY c.id ORDER BY m.created_at, m.id) AS seq
        FROM chosen c JOIN messages m ON m.conversation_id = c.id AND m.seq IS NULL
    ), numbered AS (
        UPDATE messages m SET seq = placed.seq FROM placed WHERE m.id = placed.id RETURNING 1
    ), heads AS (
        SELECT c.id, greatest(c.base, max(p.seq)) AS seq
        FROM chosen c LEFT JOIN placed p ON p.conversation_id = c.id GROUP BY c.id, c.base
    ), moved AS (
        UPDATE conversations c SET last_seq = heads.seq FROM heads WHERE c.id = heads.id
    ), caught_up AS (
        UPDATE conversation_participants p SET delivered_seq = heads.seq, read_seq = heads.seq
        FROM heads WHERE p.conversation_id = heads.id AND p.delivered_seq < heads.seq
    )
    SELECT count(*) FROM numbered
"""
_HIDE = """
    UPDATE conversation_participants p SET hidden_seq = c.last_seq FROM conversations c
    WHERE c.id = p.conversation_id AND c.id = ANY (%s::uuid[]) AND p.deleted_at IS NOT NULL AND p.hidden_seq IS NULL
"""
_NUMBER_NOBODYS = """
    UPDATE messages SET seq = 0 WHERE id IN (
        SELECT id FROM messages WHERE conversation_id IS NULL AND seq IS NULL LIMIT %(rows)s
    )
"""
# Two people may have several conversations from before; the newest is the one that is found again.
_PAIRS = """
    CREATE TEMPORARY TABLE realtime_pairs AS
    SELECT row_number() OVER () AS place, pairs.* FROM (
        SELECT DISTINCT ON (key) id, key FROM (
            SELECT c.id, c.updated_at,
                min(p.user_id::text) || ':' || max(p.user_id::text) || ':' || coalesce(c.bounty_id::text, '') AS key
            FROM conversations c JOIN conversation_participants p ON p.conversation_id = c.id
            WHERE NOT c.is_group
            GROUP BY c.id HAVING count(*) = 2
        ) direct
        ORDER BY key, updated_at DESC, id
    ) pairs
"""
_PAIRS_COUNT = "CREATE UNIQUE INDEX ON realtime_pairs (place); SELECT count(*) FROM realtime_pairs"
_NAME_PAIRS = """
    UPDATE conversations c SET direct_key = pairs.key FROM realtime_pairs pairs
    WHERE pairs.place BETWEEN %(first)s AND %(last)s AND c.id = pairs.id AND c.direct_key IS NULL
        AND NOT EXISTS (SELECT FROM conversations named WHERE named.direct_key = pairs.key)
        AND (SELECT count(*) FROM conversation_participants p WHERE p.conversation_id = c.id) = 2
"""
# The app's earlier tables name some things otherwise: {earlier column: (what is filled in, where)}.
_EARLIER = {
    name: (f"creator_id = b.{name}", f"b.creator_id IS NULL AND EXISTS (SELECT FROM profiles p WHERE p.id = b.{name})")
    for name in ("user_id", "poster_id")
} | {"amount": ("amount_cents = round(b.amount * 100)", "b.amount_cents = 0 AND b.amount > 0")}
_FILL_BOUNTIES = """
    WITH page AS (SELECT id FROM bounties b WHERE {where} AND id > %(after)s ORDER BY id LIMIT %(rows)s),
    filled AS (UPDATE bounties b SET {assignment} FROM page WHERE b.id = page.id)
    SELECT max(id::text) FROM page
"""


def backfill(connection: Any) -> None:
    """Fill in all that is missing; on new tables there is nothing to do.

    :param connection: of psycopg2, that nobody else uses.
    """
    connection.autocommit = False
    filling = _Backfill(connection)
    filling.number_conversations()
    filling.number_nobodys()
    filling.name_pairs()
    filling.fill_bounties()
    connection.autocommit = True


class _Backfill:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        with self._transaction() as cursor:
            # What is lost of this with a crash is done again, and whoever writes by then is after it in the log.
            cursor.execute("SET synchronous_commit = off")
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{_LOCK_TIMEOUT_MS}ms",))
        self._resting = self._rest_triggers()

    def number_conversations(self) -> None:
        """Give every message its place, every conversation its newest, every participant their cursors."""
        hides = self._has_column("conversation_participants", "deleted_at")
        with self._progress("Messages numbered", self._one(_UNNUMBERED)) as bar:
            after = _FIRST
            while sizes := self._page(after):
                for conversation, size in sizes:
                    if size > _ROWS:
                        self._number_oldest(conversation, bar)
                for ids in _packed(sizes):
                    bar.update(self._retrying(partial(self._number_rest, ids, _LOCK_FREE, hides=hides)))
                after = sizes[-1][0]
            while sizes := self._page(_FIRST):
                for conversation, _ in sizes:
                    bar.update(self._retrying(partial(self._number_rest, [conversation], _LOCK, hides=hides)))

    def number_nobodys(self) -> None:
        """Messages of no conversation, which an earlier table may hold, are nobody's to see and all have place 0."""
        while self._update(_NUMBER_NOBODYS, rows=_ROWS):
            pass

    def name_pairs(self) -> None:
        """Give the conversations of two people the key by which they are found again."""
        with self._transaction() as cursor:
            cursor.execute(_PAIRS)
        total = self._one(_PAIRS_COUNT)
        with self._progress("Conversations named", total) as bar:
            for first in range(1, total + 1, _ROWS):
                self._update(_NAME_PAIRS, first=first, last=first + _ROWS - 1)
                bar.update(min(_ROWS, total - first + 1))

    def fill_bounties(self) -> None:
        """Fill in the creator and the amount of bounties that have them under another name."""
        for column, (assignment, where) in _EARLIER.items():
            if not self._has_column("bounties", column):
                continue
            fill = _FILL_BOUNTIES.format(assignment=assignment, where=where)
            after: str | None = _FIRST
            while after:
                after = self._retrying(partial(self._fill, fill, after))

    def _number_oldest(self, conversation: str, bar: Any) -> None:
        """Number a large conversation until what is left fits into one transaction."""
        numbered = _ROWS
        while numbered == _ROWS:
            numbered = self._update(_NUMBER_OLDEST, conversation=conversation, rows=_ROWS)
            bar.update(numbered)

    def _number_rest(self, ids: list[str], lock: str, *, hides: bool) -> int:
        """Number all that these conversations hold, as far as they can be locked; return how many messages."""
        with self._quietly() as cursor:
            cursor.execute(lock, (ids,))
            locked = [row[0] for row in cursor.fetchall()]
            cursor.execute(_NUMBER_REST, (locked,))
            numbered: int = cursor.fetchone()[0]
            if hides:
                cursor.execute(_HIDE, (locked,))
        return numbered

    def _fill(self, statement: str, after: str) -> str | None:
        with self._quietly() as cursor:
            cursor.execute(statement, {"after": after, "rows": _ROWS})
            found: str | None = cursor.fetchone()[0]
        return found

    def _page(self, after: str) -> list[tuple[str, int]]:
        with self._transaction() as cursor:
            cursor.execute(_SIZES, {"after": after, "rows": _ROWS, "page": _PAGE})
            rows: list[tuple[str, int]] = cursor.fetchall()
        return rows

    def _update(self, statement: str, **values: Any) -> int:
        """Run one batch; return the number of rows."""

        def run() -> int:
            with self._quietly() as cursor:
                cursor.execute(statement, values)
                return int(cursor.rowcount)

        return self._retrying(run)

    def _retrying(self, batch: Callable[[], T]) -> T:
        """Run a batch until nobody is in its way."""
        while True:
            try:
                return batch()
            except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected):
                time.sleep(_PAUSE_S)

    def _has_column(self, table: str, column: str) -> bool:
        return bool(self._one(_HAS_COLUMN, table, column))

    def _one(self, statement: str, *values: Any) -> Any:
        with self._transaction() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchone()[0]

    def _rest_triggers(self) -> list[tuple[str, str]]:
        """Have the tables' own triggers rest in this session; return those that have to be put to rest by name."""
        with self._transaction() as cursor:
            cursor.execute(_TRIGGERS)
            found: list[tuple[str, str]] = cursor.fetchall()
        if not found:
            return []
        try:
            with self._transaction() as cursor:
                cursor.execute("SET session_replication_role = replica")
        except psycopg2.errors.InsufficientPrivilege:
            log.info("backfill.triggers", resting=[f"{table}.{name}" for table, name in found])
            return found
        return []

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        with self._connection, self._connection.cursor() as cursor:
            yield cursor

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[Cursor]:
        """A transaction in which the tables' own triggers rest. Where that takes a lock, writers wait for the batch."""
        with self._transaction() as cursor:
            for table, name in self._resting:
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {name}")
            yield cursor
            for table, name in self._resting:
                cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER {name}")

    def _progress(self, what: str, total: int) -> Any:
        if total:
            log.info("backfill.begins", what=what, total=total)
        return tqdm(total=total, desc=what, unit=" rows", unit_scale=True, disable=None if total else True)


def _packed(sizes: list[tuple[str, int]]) -> Iterator[list[str]]:
    """Put conversations together, as many as have about _ROWS messages in all."""
    packed: list[str] = []
    rows = 0
    for conversation, size in sizes:
        packed.append(conversation)
        rows += min(size, _ROWS)
        if rows >= _ROWS:
            yield packed
            packed, rows = [], 0
    if packed:
        yield packed
