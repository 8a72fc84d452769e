"""Cursors: how far each participant has received and read. They only go forward."""

from msgspec import Struct

from protocol.codes import AppError, ErrorCode, not_participant
from storage.batcher import Batcher
from storage.database import Database, Row, Statement, array


class Mark(Struct, kw_only=True):
    """Somebody received, or read, everything up to a message named by id or by seq."""

    user_id: str
    conversation_id: str
    message_id: str | None = None
    seq: int | None = None
    is_read: bool


class Moved(Struct, kw_only=True):
    """A cursor that moved, or did not (``moved`` false), and who is to hear of it.

    ``delivered`` and ``read`` are how many messages of others the two cursors passed, a thousand at most, and ``age_s``
    how long ago the message was sent that the mark named.
    """

    moved: bool
    message_id: str
    seq: int
    participant_ids: list[str]
    delivered: int
    read: int
    age_s: float


# Locked in the order of their keys: two servers' batches can't deadlock. A locked row is read afresh, so the old
# cursors are those that the update replaces. One's own messages are no target: they move nothing.
_MOVE_TYPES = ("int[]", "uuid[]", "uuid[]", "uuid[]", "bigint[]", "boolean[]")
_MOVE_SQL = """
    WITH input AS (
        SELECT * FROM unnest($1, $2, $3, $4, $5, $6) AS i (n, user_id, conversation_id, message_id, seq, is_read)
    ), target AS (
        SELECT i.n, m.id, m.seq, m.sender_id, m.created_at FROM input i
        JOIN messages m ON m.id = i.message_id AND m.conversation_id = i.conversation_id
        WHERE i.message_id IS NOT NULL
        UNION ALL
        SELECT i.n, m.id, m.seq, m.sender_id, m.created_at FROM input i
        JOIN messages m ON m.conversation_id = i.conversation_id AND m.seq = i.seq
        WHERE i.message_id IS NULL
    ), locked AS (
        SELECT p.conversation_id, p.user_id, p.delivered_seq, p.read_seq FROM conversation_participants p
        WHERE (p.conversation_id, p.user_id) IN (SELECT conversation_id, user_id FROM input)
        ORDER BY p.conversation_id, p.user_id FOR NO KEY UPDATE
    ), furthest AS (
        SELECT i.conversation_id, i.user_id, max(t.seq) AS delivered,
            coalesce(max(t.seq) FILTER (WHERE i.is_read), 0) AS read
        FROM input i JOIN target t USING (n) WHERE t.sender_id <> i.user_id GROUP BY 1, 2
    ), moved AS (
        UPDATE conversation_participants p
        SET delivered_seq = greatest(p.delivered_seq, f.delivered), read_seq = greatest(p.read_seq, f.read)
        FROM furthest f JOIN locked l USING (conversation_id, user_id)
        WHERE p.conversation_id = f.conversation_id AND p.user_id = f.user_id
            AND (p.delivered_seq < f.delivered OR p.read_seq < f.read){badges}
    SELECT l.user_id IS NOT NULL, t.id, t.seq, t.sender_id = i.user_id, l.delivered_seq, l.read_seq, (
        SELECT array_agg(p.user_id)::text FROM conversation_participants p WHERE p.conversation_id = i.conversation_id
    ), passed.delivered, passed.read, extract(epoch FROM clock_timestamp() - t.created_at)::float8
    FROM input i LEFT JOIN target t USING (n)
    LEFT JOIN locked l ON l.conversation_id = i.conversation_id AND l.user_id = i.user_id
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE o.seq > l.delivered_seq) AS delivered, count(*) AS read
        FROM (
            SELECT m.seq FROM messages m
            WHERE m.conversation_id = i.conversation_id AND m.sender_id <> i.user_id AND m.seq <= t.seq
                AND m.seq > CASE WHEN i.is_read THEN l.read_seq ELSE l.delivered_seq END
            ORDER BY m.seq DESC LIMIT 1000
        ) o
    ) passed
    ORDER BY i.n
"""
_MOVE = Statement("move_cursors", _MOVE_TYPES, _MOVE_SQL.format(badges="\n    )"), urgent=True)
# With pushes on: who has read what a device of theirs still shows a badge for is owed a silent one that clears it,
# after a moment in which more may be read.
_MOVE_OWING = Statement(
    "move_cursors_owing",
    _MOVE_TYPES,
    _MOVE_SQL.format(
        badges="""
        RETURNING p.user_id, f.read > l.read_seq AS has_read
    ), owed AS (
        INSERT INTO push_queue (token, user_id, what, due_at)
        SELECT t.token, t.user_id, 'badge', now() + interval '2 seconds' FROM realtime_push_tokens t
        WHERE t.badge_sent > 0 AND t.user_id IN (SELECT user_id FROM moved WHERE has_read)
    )"""
    ),
    urgent=True,
)

_OTHERS = Statement(
    "others_messages",
    ("uuid", "uuid", "uuid[]"),
    """
    SELECT count(m.id), max(m.seq)
    FROM conversation_participants p LEFT JOIN messages m
        ON m.conversation_id = p.conversation_id AND m.id = ANY ($3) AND m.sender_id <> p.user_id
    WHERE p.conversation_id = $1 AND p.user_id = $2 GROUP BY p.user_id
    """,
)


class Receipts:
    """Moves cursors, many in one statement.

    :param pushes: whether to queue, in the same transaction, the pushes that bring badges up to date.
    """

    def __init__(self, database: Database, *, deadline_s: float, pushes: bool = False) -> None:
        self._database = database
        self._statement = _MOVE_OWING if pushes else _MOVE
        self._lane: Batcher[Mark, Moved] = Batcher(self._move, deadline_s=deadline_s)

    async def move(self, mark: Mark) -> Moved:
        """Move the user's cursor, durably. Raises ``AppError`` NOT_PARTICIPANT or UNKNOWN_MESSAGE."""
        return await self._lane.submit(mark)

    async def others(self, conversation_id: str, user_id: str, message_ids: list[str]) -> tuple[int, int | None]:
        """Return how many of ``message_ids`` are other people's messages of the conversation, and the newest's seq.

        Raises ``AppError`` NOT_PARTICIPANT.
        """
        rows = await self._database.fetch(_OTHERS, (conversation_id, user_id, array(message_ids)))
        if not rows:
            raise not_participant(conversation_id)
        return rows[0][0], rows[0][1]

    async def _move(self, batch: list[Mark]) -> list[Moved | AppError]:
        values = (
            array(range(len(batch))),
            array([mark.user_id for mark in batch]),
            array([mark.conversation_id for mark in batch]),
            array([mark.message_id for mark in batch]),
            array([mark.seq for mark in batch]),
            array(["true" if mark.is_read else "false" for mark in batch]),
        )
        rows = await self._database.fetch(self._statement, values)
        reached: dict[tuple[str, str, bool], tuple[int, int]] = {}
        return [_outcome(mark, row, reached) for mark, row in zip(batch, rows, strict=True)]


def _outcome(mark: Mark, row: Row, reached: dict[tuple[str, str, bool], tuple[int, int]]) -> Moved | AppError:
    """Say what became of one mark; ``reached`` holds how far earlier marks of the batch have come, past how many."""
    is_participant, message_id, seq, is_own, delivered_seq, read_seq, participants, delivered, read, age_s = row
    if not is_participant:
        return not_participant(mark.conversation_id)
    if message_id is None:
        field = "messageId" if mark.message_id else "seq"
        return AppError(
            ErrorCode.UNKNOWN_MESSAGE,
            f"`{field}` is not a message of this conversation.",
            conversation_id=mark.conversation_id,
        )
    delivered_to = reached.get((mark.conversation_id, mark.user_id, False), (delivered_seq, 0))
    read_to = reached.get((mark.conversation_id, mark.user_id, True), (read_seq, 0))
    moved = not is_own and seq > (read_to if mark.is_read else delivered_to)[0]
    if moved:
        reached[mark.conversation_id, mark.user_id, False] = max(delivered_to, (seq, delivered))
        if mark.is_read:
            reached[mark.conversation_id, mark.user_id, True] = (seq, read)
    return Moved(
        moved=moved,
        message_id=message_id,
        seq=seq,
        participant_ids=participants[1:-1].split(","),
        # The rows count from where the cursors stood before the batch.
        delivered=max(0, delivered - delivered_to[1]) if moved else 0,
        read=max(0, read - read_to[1]) if moved and mark.is_read else 0,
        age_s=max(0.0, age_s),
    )
