"""Group commit: one statement persists a whole batch of chat messages.

In one round trip it decides who may write, finds what was written before under the same key, locks the
conversations, gives out a gapless ``seq`` and inserts. When it has returned, all of the batch is durable.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from measures import LATENCY_S, SIZES, Histogram
from protocol.codes import AppError, ErrorCode, not_participant
from protocol.outbound import new_id
from storage.batcher import Batcher
from storage.database import Conflict, Database, Row, Statement, array


class Draft(Struct, kw_only=True):
    """A validated message that is not stored yet.

    ``message_id`` is ours until the store says that the key names another message already.
    """

    message_id: str = msgspec.field(default_factory=new_id)
    sender_id: str
    conversation_id: str
    client_message_id: str
    text: str
    reply_to: str | None
    media_url: str | None
    # When the server took it in, in monotonic seconds.
    received_at: float = msgspec.field(default_factory=time.monotonic)


class Stored(Struct, kw_only=True):
    """A committed message: where it is, and who is to hear of it."""

    message_id: str
    conversation_id: str
    seq: int
    created_at: datetime
    participant_ids: list[str]
    duplicate: bool


log = structlog.get_logger()

# Told of each newly stored message, right after the commit, in the order of `seq`.
OnStored = Callable[[Draft, Stored], None]

# The conversations are locked in the order of their ids, so two servers' batches can't deadlock; NO KEY leaves the
# foreign keys' checks of other transactions alone. A locked row is read afresh: last_seq is the newest.
# created_at never goes back within a conversation, so replay by time is replay by seq.
_BATCH_TYPES = ("int[]", "uuid[]", "uuid[]", "uuid[]", "text[]", "text[]", "uuid[]", "text[]")
_BATCH = """
    WITH input AS (
        SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
            AS i (n, id, conversation_id, sender_id, key, body, reply_to, media_url)
    ), known AS (
        SELECT i.n, m.id, m.conversation_id, m.seq, m.created_at
        FROM input i JOIN messages m ON m.sender_id = i.sender_id AND m.client_message_id = i.key
    ), allowed AS (
        SELECT i.*, i.reply_to IS NULL OR EXISTS (
            SELECT FROM messages r WHERE r.id = i.reply_to AND r.conversation_id = i.conversation_id
        ) AS sound
        FROM input i JOIN conversation_participants p
            ON p.conversation_id = i.conversation_id AND p.user_id = i.sender_id
        WHERE NOT EXISTS (SELECT FROM known k WHERE k.n = i.n)
    ), locked AS (
        SELECT a.*, c.last_seq, greatest(clock_timestamp(), c.updated_at) AS at
        FROM allowed a JOIN conversations c ON c.id = a.conversation_id
        WHERE a.sound ORDER BY c.id, a.n FOR NO KEY UPDATE OF c
    ), placed AS (
        SELECT l.*, l.last_seq + row_number() OVER (PARTITION BY l.conversation_id ORDER BY l.n) AS seq FROM locked l
    ), moved AS (
        UPDATE conversations c SET last_seq = top.seq, updated_at = top.at
        FROM (SELECT conversation_id, max(seq) AS seq, max(at) AS at FROM placed GROUP BY 1) top
        WHERE c.id = top.conversation_id
    ), inserted AS (
        INSERT INTO messages
            (id, conversation_id, sender_id, client_message_id, text, reply_to, media_url, seq, created_at, updated_at)
        SELECT id, conversation_id, sender_id, key, body, reply_to, media_url, seq, at, at FROM placed
    ), people AS (
        SELECT c.id, array_agg(p.user_id) AS ids
        FROM (SELECT conversation_id FROM placed UNION SELECT conversation_id FROM known) c (id)
        JOIN conversation_participants p ON p.conversation_id = c.id GROUP BY c.id
    ){outbox}
    SELECT coalesce(k.id, p.id), coalesce(k.conversation_id, p.conversation_id), coalesce(k.seq, p.seq),
        coalesce(k.created_at, p.at), a.sound, people.ids::text
    FROM input i
    LEFT JOIN known k USING (n) LEFT JOIN allowed a USING (n) LEFT JOIN placed p USING (n)
    LEFT JOIN people ON people.id = coalesce(k.conversation_id, p.conversation_id)
    ORDER BY i.n
"""

# The same for a batch of one, which is what an idle server has: a quarter less time, a third less of Postgres's CPU.
# No row means refused; `_INSERT` then says why.
_ONE_TYPES = ("uuid", "uuid", "uuid", "text", "text", "uuid", "text")
_ONE = """
    WITH known AS (
        SELECT m.id, m.conversation_id, m.seq, m.created_at
        FROM messages m WHERE m.sender_id = $3 AND m.client_message_id = $4
    ), moved AS (
        UPDATE conversations c SET last_seq = c.last_seq + 1, updated_at = greatest(clock_timestamp(), c.updated_at)
        WHERE c.id = $2 AND NOT EXISTS (SELECT FROM known)
            AND EXISTS (SELECT FROM conversation_participants p WHERE p.conversation_id = $2 AND p.user_id = $3)
            AND ($6 IS NULL OR EXISTS (SELECT FROM messages r WHERE r.id = $6 AND r.conversation_id = $2))
        RETURNING c.last_seq, c.updated_at
    ), inserted AS (
        INSERT INTO messages
            (id, conversation_id, sender_id, client_message_id, text, reply_to, media_url, seq, created_at, updated_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, last_seq, updated_at, updated_at FROM moved
        RETURNING id, conversation_id, seq, created_at
    ){outbox}
    SELECT m.id, m.conversation_id, m.seq, m.created_at, true, (
        SELECT array_agg(p.user_id)::text FROM conversation_participants p WHERE p.conversation_id = m.conversation_id
    )
    FROM (SELECT * FROM inserted UNION ALL SELECT * FROM known) m
"""

# With pushes on, the same transaction notes that one may be owed. What one sender writes in one conversation within a
# few seconds is one row, so a busy conversation costs an update in place. It is locked under the conversation's lock.
_OUTBOX = """, owed AS (
        INSERT INTO push_outbox (conversation_id, sender_id, from_seq, upto_seq, first_at)
        {rows}
        ON CONFLICT (conversation_id, sender_id) DO UPDATE SET upto_seq = excluded.upto_seq
    )"""
_OWED_BATCH = "SELECT conversation_id, sender_id, min(seq), max(seq), min(at) FROM placed GROUP BY 1, 2"
_OWED_ONE = "SELECT conversation_id, $3, seq, seq, created_at FROM inserted"

_INSERT = Statement("insert_messages", _BATCH_TYPES, _BATCH.format(outbox=""), urgent=True)
_INSERT_ONE = Statement("insert_message", _ONE_TYPES, _ONE.format(outbox=""), urgent=True)
_INSERT_OWING = Statement(
    "insert_messages_owing", _BATCH_TYPES, _BATCH.format(outbox=_OUTBOX.format(rows=_OWED_BATCH)), urgent=True
)
_INSERT_ONE_OWING = Statement(
    "insert_message_owing", _ONE_TYPES, _ONE.format(outbox=_OUTBOX.format(rows=_OWED_ONE)), urgent=True
)

# Which messages of a batch whose answer was lost were committed after all.
_FIND = Statement(
    "find_messages",
    ("uuid[]",),
    """
    SELECT m.id, m.conversation_id, m.seq, m.created_at, true, (
        SELECT array_agg(p.user_id)::text FROM conversation_participants p WHERE p.conversation_id = m.conversation_id
    )
    FROM messages m WHERE m.id = ANY ($1) ORDER BY m.conversation_id, m.seq
    """,
    urgent=True,
)

# How long to wait before asking the store again about messages whose fate is unknown.
_ASK_AGAIN_S = 0.5


class MessageWriter:
    """Stores messages durably, once each, in order, and has each told once.

    ``(sender_id, client_message_id)`` names one message for ever: written again, whenever and by whatever way,
    it gives the first one's place with ``duplicate`` set.

    :param pushes: whether to note in the outbox, in the same transaction, that pushes may be owed.
    """

    def __init__(self, database: Database, *, deadline_s: float, pushes: bool = False) -> None:
        self._database = database
        self._one, self._many = (_INSERT_ONE_OWING, _INSERT_OWING) if pushes else (_INSERT_ONE, _INSERT)
        self._lane: Batcher[tuple[Draft, OnStored] | None, Any] = Batcher(self._write, deadline_s=deadline_s)
        # Keys that are gathering or under way: the same key twice in one statement would be two rows.
        self._under_way: dict[tuple[str, str], asyncio.Future[Stored]] = {}
        # Sent, and then the store went away: perhaps committed, told to nobody yet. By message id.
        self._unknown: dict[str, tuple[Draft, OnStored]] = {}
        self._asking: asyncio.Task[None] | None = None
        self.batch_sizes = Histogram(SIZES)
        self.commit_seconds = Histogram(LATENCY_S)

    def write(self, draft: Draft, on_stored: OnStored) -> "asyncio.Future[Stored]":
        """Store ``draft`` with the next batch; the future has its place, after the commit.

        ``on_stored`` is called before, once, and only for the draft that made the message. The future may have
        ``AppError`` NOT_PARTICIPANT, UNKNOWN_MESSAGE (``replyTo``) or STORE_UNAVAILABLE; after the last the outcome is
        unknown and the same key settles it. It is shared with drafts of the same key: not to be cancelled.
        """
        key = (draft.sender_id, draft.client_message_id)
        first = self._under_way.get(key)
        if first is not None:
            return asyncio.ensure_future(self._follow(first, draft, on_stored))
        writing = self._lane.submit((draft, on_stored))
        self._under_way[key] = writing
        writing.add_done_callback(lambda _: self._under_way.pop(key, None))
        return writing

    async def _follow(self, first: "asyncio.Future[Stored]", draft: Draft, on_stored: OnStored) -> Stored:
        """Give a draft the place of the first of its key; where that was refused, a chance of its own."""
        try:
            stored = await asyncio.shield(first)
        except AppError as error:
            if error.code is ErrorCode.STORE_UNAVAILABLE:
                raise
            return await self.write(draft, on_stored)
        return msgspec.structs.replace(stored, duplicate=True)

    async def settled(self) -> None:
        """Wait until everything committed before this call has been told to its ``on_stored``.

        Raises ``AppError`` STORE_UNAVAILABLE while it is not known what was committed.
        """
        await self._lane.settled()
        if self._unknown:
            await self._lane.submit(None)

    async def stop(self) -> None:
        """Ask no more about what is unknown: with the process goes who would be told."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    @property
    def waiting(self) -> int:
        """Messages that wait for a batch."""
        return self._lane.waiting

    async def _write(self, batch: list[tuple[Draft, OnStored] | None]) -> list[Stored | AppError | None]:
        """Store a batch. None in it stores nothing: whoever submits it wants the unknown settled."""
        await self._settle_unknown()  # first, so that nobody hears of a later message before an earlier one
        drafts = [entry[0] for entry in batch if entry is not None]
        try:
            rows = iter(await self._insert(drafts) if drafts else ())
        except AppError:
            self._unknown.update((entry[0].message_id, entry) for entry in batch if entry is not None)
            self._ask_again()
            raise
        return [None if entry is None else self._outcome(entry, next(rows)) for entry in batch]

    async def _insert(self, drafts: list[Draft]) -> list[Row]:
        """Return a row for each draft, in order."""
        started_at = time.monotonic()
        rows: list[Row] = []
        with contextlib.suppress(Conflict):  # the same key came in through another server meanwhile: now it is known
            if len(drafts) == 1:
                rows = await self._database.fetch(self._one, _fields(drafts[0]))
            rows = rows or await self._database.fetch(self._many, _columns(drafts))
        rows = rows or await self._database.fetch(self._many, _columns(drafts))
        self.batch_sizes.observe(len(drafts))
        self.commit_seconds.observe(time.monotonic() - started_at)
        return rows

    def _outcome(self, entry: tuple[Draft, OnStored], row: Row) -> Stored | AppError:
        draft, on_stored = entry
        if row[0] is None:
            return _refusal(draft, is_participant=row[4] is not None)
        stored = _stored(row, draft)
        if not stored.duplicate:
            _tell(on_stored, draft, stored)
        return stored

    async def _settle_unknown(self) -> None:
        if self._unknown:
            await self._database.fence()
            rows = await self._database.fetch(_FIND, (array(self._unknown),))
            unknown, self._unknown = self._unknown, {}
            for row in rows:
                draft, on_stored = unknown[row[0]]
                _tell(on_stored, draft, _stored(row, draft))

    def _ask_again(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._keep_asking())

    async def _keep_asking(self) -> None:
        """Settle what is unknown even if nobody sends anything more."""
        while self._unknown:
            await asyncio.sleep(_ASK_AGAIN_S)
            with contextlib.suppress(AppError):
                await self._lane.submit(None)


def _fields(draft: Draft) -> tuple[str | None, ...]:
    """Return a draft as the parameters of ``_INSERT_ONE``."""
    return (
        draft.message_id,
        draft.conversation_id,
        draft.sender_id,
        draft.client_message_id,
        draft.text,
        draft.reply_to,
        draft.media_url,
    )


def _columns(drafts: list[Draft]) -> list[str]:
    """Return drafts as the parameters of ``_INSERT``: an array each column, their places first."""
    columns = zip(*(_fields(draft) for draft in drafts), strict=True)
    return [array(range(len(drafts))), *(array(column) for column in columns)]


def _tell(on_stored: OnStored, draft: Draft, stored: Stored) -> None:
    try:
        on_stored(draft, stored)
    except Exception:  # the message is stored all the same, and the rest of the batch has to be told
        log.exception("message.delivery_failed", message_id=stored.message_id, conversation_id=stored.conversation_id)


def _stored(row: Row, draft: Draft) -> Stored:
    message_id, conversation_id, seq, created_at, _, participants = row
    return Stored(
        message_id=message_id,
        conversation_id=conversation_id,
        seq=seq,
        created_at=created_at,
        participant_ids=participants[1:-1].split(",") if participants else [],
        # Our own id under the key is this very draft, whose first answer was lost with its connection.
        duplicate=message_id != draft.message_id,
    )


def _refusal(draft: Draft, *, is_participant: bool) -> AppError:
    if is_participant:
        return AppError(ErrorCode.UNKNOWN_MESSAGE, "`replyTo` is not a message of this conversation.")
    return not_participant(draft.conversation_id)
