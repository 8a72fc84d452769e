"""Conversations: who takes part, the list that a participant sees, making and hiding them."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from protocol.codes import AppError, ErrorCode, not_participant
from protocol.outbound import Conversation, LastMessage, Participant, new_id, timestamp
from storage.batcher import Batcher
from storage.database import Database, Row, Statement, array

_OF_USERS = Statement(
    "conversations_of_users",
    ("uuid[]",),
    """
    SELECT u.id, array_agg(c.id) FILTER (WHERE c.id IS NOT NULL)::text, bool_or(c.last_seq > p.delivered_seq),
        EXISTS (SELECT FROM notifications n WHERE n.user_id = u.id AND n.is_read IS NOT TRUE)
    FROM unnest($1) AS u (id)
    LEFT JOIN conversation_participants p ON p.user_id = u.id LEFT JOIN conversations c ON c.id = p.conversation_id
    GROUP BY u.id
    """,
    urgent=True,
)
_PARTICIPANTS = Statement(
    "participants",
    ("uuid[]",),
    """
    SELECT c.id, (SELECT array_agg(p.user_id)::text FROM conversation_participants p WHERE p.conversation_id = c.id)
    FROM unnest($1) AS c (id)
    """,
    urgent=True,
)

# One query however many conversations; the ceiling keeps a broken account from stalling everyone.
_VIEW = """
    SELECT me.user_id, c.id, c.is_group, c.bounty_id, c.created_at, c.updated_at,
        (
            SELECT json_agg(json_build_object('id', p.user_id, 'handle', f.username) ORDER BY p.joined_at, p.user_id)
            FROM conversation_participants p JOIN profiles f ON f.id = p.user_id WHERE p.conversation_id = c.id
        )::text,
        m.id, m.text, m.sender_id, m.created_at, m.seq,
        (
            SELECT count(*) FROM messages u
            WHERE u.conversation_id = c.id AND u.seq > me.read_seq AND u.sender_id <> me.user_id
        ),
        me.delivered_seq, me.read_seq, c.last_seq
    FROM conversation_participants me
    JOIN conversations c ON c.id = me.conversation_id
    LEFT JOIN messages m ON m.conversation_id = c.id AND m.seq = c.last_seq
    WHERE {condition}
    ORDER BY c.updated_at DESC, c.id
    LIMIT 10000
"""
_LIST = Statement(
    "conversation_list",
    ("uuid",),
    _VIEW.format(condition="me.user_id = $1 AND (me.hidden_seq IS NULL OR c.last_seq > me.hidden_seq)"),
)
_ONE = Statement(
    "conversation_views",
    ("uuid", "uuid[]"),
    _VIEW.format(condition="me.conversation_id = $1 AND me.user_id = ANY ($2)"),
    urgent=True,
)

# Two people at the same moment: the key lets one of them in, the other finds nothing made and looks it up.
_CREATE = Statement(
    "create_conversation",
    ("uuid", "boolean", "uuid", "text", "uuid[]"),
    """
    WITH made AS (
        INSERT INTO conversations (id, is_group, bounty_id, direct_key)
        SELECT $1, $2, $3, $4
        WHERE (SELECT count(*) FROM profiles WHERE id = ANY ($5)) = cardinality($5)
            AND ($3 IS NULL OR EXISTS (SELECT FROM bounties WHERE id = $3))
        ON CONFLICT DO NOTHING RETURNING id
    ), people AS (
        INSERT INTO conversation_participants (conversation_id, user_id) SELECT made.id, unnest($5) FROM made
    )
    SELECT (SELECT id FROM made), (SELECT count(*) FROM profiles WHERE id = ANY ($5)) = cardinality($5),
        $3 IS NULL OR EXISTS (SELECT FROM bounties WHERE id = $3)
    """,
)
_FIND = Statement(
    "find_conversation",
    ("text", "uuid", "uuid"),
    """
    WITH found AS (
        SELECT id FROM conversations WHERE direct_key = $1 OR id = $2
    ), shown AS (
        UPDATE conversation_participants p SET hidden_seq = NULL
        FROM found WHERE p.conversation_id = found.id AND p.user_id = $3 AND p.hidden_seq IS NOT NULL
    )
    SELECT id FROM found
    """,
)
_HIDE = Statement(
    "hide_conversation",
    ("uuid", "uuid"),
    """
    UPDATE conversation_participants p SET hidden_seq = c.last_seq FROM conversations c
    WHERE p.conversation_id = $1 AND p.user_id = $2 AND c.id = p.conversation_id RETURNING c.id
    """,
)

# Users loaded with one query while many connect at once.
_USERS_A_QUERY = 100


class Memberships(Struct):
    """What a user takes part in, whether anything in it may not have been delivered to them, and notifications."""

    conversation_ids: set[str]
    behind: bool
    notified: bool  # whether there are notifications that they have not read


class Conversations:
    """Stored conversations."""

    def __init__(self, database: Database, *, deadline_s: float) -> None:
        self._database = database
        self._of_users: Batcher[str, Memberships] = Batcher(
            self._load_users, deadline_s=deadline_s, max_batch=_USERS_A_QUERY
        )

    async def of_user(self, user_id: str) -> Memberships:
        """Return what the user takes part in; many callers at once share a query."""
        return await self._of_users.submit(user_id)

    async def participants(self, conversation_ids: Iterable[str]) -> dict[str, list[str]]:
        """Return who takes part in each conversation; nobody in one that does not exist."""
        rows = await self._database.fetch(_PARTICIPANTS, (array(conversation_ids),))
        return {row[0]: row[1][1:-1].split(",") if row[1] else [] for row in rows}

    async def visible_to(self, user_id: str) -> list[Conversation]:
        """Return the user's conversations that are not hidden, latest first."""
        return [_view(row) for row in await self._database.fetch(_LIST, (user_id,))]

    async def views(self, conversation_id: str, user_ids: Iterable[str]) -> dict[str, Conversation]:
        """Return one conversation as each of these participants sees it."""
        rows = await self._database.fetch(_ONE, (conversation_id, array(user_ids)))
        return {row[0]: _view(row) for row in rows}

    async def create(
        self, creator_id: str, participant_ids: Iterable[str], bounty_id: str | None, *, is_group: bool
    ) -> tuple[str, bool]:
        """Return the id of a conversation of these people, and whether it was made just now.

        For two people that are no group, the one about the same bounty, or none, that exists is returned.
        Raises ``AppError`` UNKNOWN_USER, or NOT_FOUND for the bounty.
        """
        people = sorted({creator_id, *participant_ids})
        direct_key = None if is_group else f"{people[0]}:{people[1]}:{bounty_id or ''}"
        conversation_id = new_id()
        values = (conversation_id, is_group, bounty_id, direct_key, array(people))
        made, people_known, bounty_known = (await self._database.fetch(_CREATE, values))[0]
        if not people_known:
            raise AppError(ErrorCode.UNKNOWN_USER, "`participantIds` names somebody who does not exist.")
        if not bounty_known:
            raise AppError(ErrorCode.NOT_FOUND, "`bountyId` names no bounty.")
        if made:
            return conversation_id, True
        found = await self._database.fetch(_FIND, (direct_key, conversation_id, creator_id))
        # Our own id: the first answer was lost with its connection, and the statement ran again.
        return found[0][0], found[0][0] == conversation_id

    async def hide(self, conversation_id: str, user_id: str) -> None:
        """Hide the conversation from the user until its next message. Raises ``AppError`` NOT_PARTICIPANT."""
        if not await self._database.fetch(_HIDE, (conversation_id, user_id)):
            raise not_participant(conversation_id)

    async def _load_users(self, user_ids: list[str]) -> list[Memberships | AppError]:
        rows = await self._database.fetch(_OF_USERS, (array(set(user_ids)),))
        found = {
            row[0]: Memberships(set(row[1][1:-1].split(",") if row[1] else ()), row[2] is True, row[3]) for row in rows
        }
        return [found[user_id] for user_id in user_ids]


def _view(row: Row) -> Conversation:
    last = None
    if row[7] is not None:
        last = LastMessage(id=row[7], text=row[8], sender_id=row[9], created_at=timestamp(row[10]), seq=row[11])
    people: Any = msgspec.json.decode(row[6], type=list[Participant])
    return Conversation(
        id=row[1], is_group=row[2], bounty_id=row[3], created_at=timestamp(row[4]), updated_at=timestamp(row[5]),
        participants=people, last_message=last, unread_count=row[12], delivered_seq=row[13], read_seq=row[14],
        last_seq=row[15],
    )  # fmt: skip
