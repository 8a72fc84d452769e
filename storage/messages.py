"""Reading messages: pages of history, what a participant has missed, and the bodies of both."""

from collections.abc import Mapping

from msgspec import Struct

from protocol.codes import AppError, not_participant
from protocol.outbound import Message, MessageNew, timestamp
from storage.batcher import Batcher
from storage.database import Database, Row, Statement, array


class Missed(Struct):
    """The places of the messages to send again, in the order to send them."""

    places: list[tuple[str, int]]
    truncated: list[str]
    # The newest seq of each conversation when this was read: all up to there is either in `places` or not owed.
    heads: dict[str, int]


# A message's status: the least that all other participants have done with it.
_PAGE = """
    SELECT m.id, m.conversation_id, m.sender_id, f.username, m.text, m.created_at, m.updated_at, m.media_url,
        m.reply_to, m.is_pinned,
        CASE WHEN m.seq <= o.read_seq THEN 'read' WHEN m.seq <= o.delivered_seq THEN 'delivered' ELSE 'sent' END,
        m.seq, c.last_seq
    FROM conversation_participants me
    JOIN conversations c ON c.id = me.conversation_id
    LEFT JOIN LATERAL (
        SELECT * FROM messages m WHERE m.conversation_id = c.id AND {condition} ORDER BY m.seq {order} LIMIT $4
    ) m ON true
    LEFT JOIN profiles f ON f.id = m.sender_id
    LEFT JOIN LATERAL (
        SELECT min(p.read_seq) AS read_seq, min(p.delivered_seq) AS delivered_seq
        FROM conversation_participants p WHERE p.conversation_id = c.id AND p.user_id <> m.sender_id
    ) o ON true
    WHERE me.conversation_id = $1 AND me.user_id = $2
    ORDER BY m.seq
"""
_KEYS = ("uuid", "uuid", "bigint", "int")
# Page n from the end needs no count and no offset: seq has no gaps.
_NEWEST = Statement(
    "messages_page",
    _KEYS,
    _PAGE.format(condition="m.seq <= c.last_seq - $3 AND m.seq > c.last_seq - $3 - $4", order="DESC"),
)
_BEFORE = Statement("messages_before", _KEYS, _PAGE.format(condition="m.seq < $3", order="DESC"))
_AFTER = Statement("messages_after", _KEYS, _PAGE.format(condition="m.seq > $3", order="ASC"))

# One more than the cap a conversation tells whether there are more.
_UNDELIVERED = Statement(
    "messages_undelivered",
    ("uuid[]", "int"),
    """
    SELECT p.user_id, c.id, c.last_seq, array_agg(m.seq ORDER BY m.seq)::text,
        array_agg((extract(epoch FROM m.created_at) * 1000000)::bigint ORDER BY m.seq)::text
    FROM unnest($1) AS u (id)
    JOIN conversation_participants p ON p.user_id = u.id JOIN conversations c ON c.id = p.conversation_id
    LEFT JOIN LATERAL (
        SELECT m.seq, m.created_at FROM messages m
        WHERE m.conversation_id = c.id AND m.seq > p.delivered_seq AND m.sender_id <> p.user_id
        ORDER BY m.seq LIMIT $2
    ) m ON true
    WHERE c.last_seq > p.delivered_seq
    GROUP BY p.user_id, c.id, c.last_seq
    """,
    urgent=True,
)
_NEWER = Statement(
    "messages_newer",
    ("uuid", "uuid[]", "bigint[]", "int"),
    """
    SELECT c.id, c.last_seq, array_agg(m.seq ORDER BY m.seq)::text,
        array_agg((extract(epoch FROM m.created_at) * 1000000)::bigint ORDER BY m.seq)::text
    FROM unnest($2, $3) AS i (conversation_id, seq)
    JOIN conversation_participants p ON p.conversation_id = i.conversation_id AND p.user_id = $1
    JOIN conversations c ON c.id = i.conversation_id
    LEFT JOIN LATERAL (
        SELECT m.seq, m.created_at FROM messages m
        WHERE m.conversation_id = c.id AND m.seq > i.seq ORDER BY m.seq LIMIT $4
    ) m ON true
    GROUP BY c.id, c.last_seq
    """,
    urgent=True,
)
_BODIES = Statement(
    "message_bodies",
    ("uuid[]", "bigint[]"),
    """
    SELECT m.conversation_id, m.id, m.sender_id, m.text, m.created_at, m.seq, m.reply_to, m.media_url,
        m.client_message_id
    FROM unnest($1, $2) WITH ORDINALITY AS i (conversation_id, seq, place)
    JOIN messages m ON m.conversation_id = i.conversation_id AND m.seq = i.seq ORDER BY i.place
    """,
    urgent=True,
)


# Users whose missed messages are looked up with one query while many come back at once.
_USERS_A_QUERY = 20


class Messages:
    """Stored messages."""

    def __init__(self, database: Database, *, max_per_conversation: int, max_in_all: int, deadline_s: float) -> None:
        self._database = database
        self._max_per_conversation = max_per_conversation
        self._max_in_all = max_in_all
        self._undelivered: Batcher[str, Missed] = Batcher(
            self._load_undelivered, deadline_s=deadline_s, max_batch=_USERS_A_QUERY
        )

    async def page(self, conversation_id: str, user_id: str, page: int, limit: int) -> tuple[list[Message], int]:
        """Return page ``page`` (1 is the newest) of a conversation, oldest first, and how many messages there are.

        Raises ``AppError`` NOT_PARTICIPANT.
        """
        return await self._rows(_NEWEST, conversation_id, user_id, (page - 1) * limit, limit)

    async def before(self, conversation_id: str, user_id: str, seq: int, limit: int) -> tuple[list[Message], int]:
        """Return the ``limit`` messages before ``seq``, oldest first, as ``page`` does."""
        return await self._rows(_BEFORE, conversation_id, user_id, seq, limit)

    async def after(self, conversation_id: str, user_id: str, seq: int, limit: int) -> tuple[list[Message], int]:
        """Return the ``limit`` messages after ``seq``, oldest first, as ``page`` does."""
        return await self._rows(_AFTER, conversation_id, user_id, seq, limit)

    async def undelivered(self, user_id: str) -> Missed:
        """Return other people's messages past the user's delivered cursors, oldest first, within the caps."""
        return await self._undelivered.submit(user_id)

    async def newer(self, user_id: str, positions: Mapping[str, int]) -> Missed:
        """Return all messages past ``positions`` ({conversation: seq}), in order, within the caps.

        Raises ``AppError`` NOT_PARTICIPANT for the first conversation that is not the user's.
        """
        limit = self._max_per_conversation + 1
        values = (user_id, array(positions.keys()), array(positions.values()), limit)
        rows = await self._database.fetch(_NEWER, values)
        found = {row[0] for row in rows}
        for conversation_id in positions:
            if conversation_id not in found:
                raise not_participant(conversation_id)
        return self._capped(rows)

    async def frames(self, places: list[tuple[str, int]]) -> list[MessageNew]:
        """Return the messages at ``places``, in that order, as frames marked ``replayed``."""
        ids, seqs = [place[0] for place in places], [place[1] for place in places]
        rows = await self._database.fetch(_BODIES, (array(ids), array(seqs)))
        return [
            MessageNew(
                conversation_id=row[0], message_id=row[1], sender_id=row[2], text=row[3], timestamp=timestamp(row[4]),
                seq=row[5], reply_to=row[6], media_url=row[7], client_message_id=row[8], replayed=True,
            )
            for row in rows
        ]  # fmt: skip

    async def _load_undelivered(self, user_ids: list[str]) -> list[Missed | AppError]:
        found: dict[str, list[Row]] = {user_id: [] for user_id in user_ids}
        limit = self._max_per_conversation + 1
        for row in await self._database.fetch(_UNDELIVERED, (array(found), limit)):
            found[row[0]].append(row[1:])
        return [self._capped(found[user_id]) for user_id in user_ids]

    async def _rows(
        self, statement: Statement, conversation_id: str, user_id: str, position: int, limit: int
    ) -> tuple[list[Message], int]:
        rows = await self._database.fetch(statement, (conversation_id, user_id, position, limit))
        if not rows:  # a participant's empty page is one row of nulls
            raise not_participant(conversation_id)
        return [_message(row) for row in rows if row[0] is not None], rows[0][12]

    def _capped(self, rows: list[Row]) -> Missed:
        """Keep within both caps, oldest first. Time never goes back within a conversation, so neither does seq."""
        missed = Missed([], [], {row[0]: row[1] for row in rows})
        found: list[tuple[int, str, int]] = []
        for conversation_id, _, seqs, times in rows:
            if seqs == "{NULL}":
                continue
            places = list(zip(map(int, times[1:-1].split(",")), map(int, seqs[1:-1].split(",")), strict=True))
            if len(places) > self._max_per_conversation:
                missed.truncated.append(conversation_id)
            found += [(at, conversation_id, seq) for at, seq in places[: self._max_per_conversation]]
        found.sort()
        missed.places = [(conversation_id, seq) for _, conversation_id, seq in found[: self._max_in_all]]
        cut = {conversation_id for _, conversation_id, _ in found[self._max_in_all :]}
        missed.truncated += sorted(cut.difference(missed.truncated))
        return missed


def _message(row: Row) -> Message:
    return Message(
        id=row[0], conversation_id=row[1], sender_id=row[2], sender_handle=row[3], text=row[4],
        created_at=timestamp(row[5]), updated_at=timestamp(row[6]), media_url=row[7], reply_to=row[8],
        is_pinned=row[9], status=row[10], seq=row[11],
    )  # fmt: skip
