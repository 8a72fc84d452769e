"""Who there is in a run: people, their conversations and some bounties; and the database as it is at the end.

This side talks to Postgres directly, as psql would; the server knows nothing of it.
"""

import random
import uuid
from contextlib import closing
from typing import Any

import psycopg2
from msgspec import Struct

STATUSES = ("open", "in_progress", "completed", "archived", "deleted", "cancelled", "cancellation_requested")


class World(Struct, kw_only=True):
    """What a run begins with.

    :ivar people: user ids.
    :ivar conversations: who takes part in each conversation, by its id.
    :ivar bounties: the creator of each bounty, by its id.
    """

    people: list[str]
    conversations: dict[str, list[str]]
    bounties: dict[str, str]

    def of(self, user_id: str) -> list[str]:
        """Return the user's conversations."""
        return [name for name, people in self.conversations.items() if user_id in people]


class StoredMessage(Struct, frozen=True):
    """A row of ``messages``."""

    id: str
    conversation_id: str
    seq: int
    sender_id: str
    key: str
    text: str
    created_at: float


class StoredEvent(Struct, frozen=True):
    """A row of ``bounty_events``."""

    event_id: int | None
    bounty_id: str
    status: str


class Stored(Struct, kw_only=True):
    """The database at the end.

    :ivar last_seqs: ``conversations.last_seq``.
    :ivar cursors: (delivered, read) of each (conversation, user).
    :ivar statuses: each bounty's status.
    """

    messages: list[StoredMessage]
    last_seqs: dict[str, int]
    cursors: dict[tuple[str, str], tuple[int, int]]
    events: list[StoredEvent]
    statuses: dict[str, str]


def new_world(rng: random.Random, *, people: int, groups: int) -> World:
    """Return ``people`` in a ring of pairs, and ``groups`` of five to eight; the last two people only have each other.

    Those two are the healthy ones that recovery is measured with.
    """
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(people)]
    crowd = ids[:-2]
    conversations: dict[str, list[str]] = {}

    def add(members: list[str]) -> None:
        conversations[str(uuid.UUID(int=rng.getrandbits(128), version=4))] = members

    for one, other in zip(crowd, crowd[1:] + crowd[:1], strict=True):
        add([one, other])
    for _ in range(groups):
        add(rng.sample(crowd, min(len(crowd), rng.randint(5, 8))))
    add(ids[-2:])
    bounties = {str(uuid.UUID(int=rng.getrandbits(128), version=4)): rng.choice(crowd) for _ in range(12)}
    return World(people=ids, conversations=conversations, bounties=bounties)


def connect(dsn: str) -> Any:
    """Return a psycopg2 connection that commits each statement and may write whatever the default is."""
    connection = psycopg2.connect(dsn, connect_timeout=3, application_name="chaos")
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
    return connection


def settle_in(dsn: str, world: World) -> None:
    """Write the world into an empty, migrated database."""
    with closing(connect(dsn)) as connection, connection.cursor() as cursor:
        for place, user_id in enumerate(world.people):
            cursor.execute("INSERT INTO profiles (id, username) VALUES (%s, %s)", (user_id, f"person{place}"))
        for conversation_id, members in world.conversations.items():
            is_group = len(members) > 2
            key = None if is_group else ":".join([*sorted(members), ""])
            cursor.execute(
                "INSERT INTO conversations (id, is_group, direct_key) VALUES (%s, %s, %s)",
                (conversation_id, is_group, key),
            )
            for user_id in members:
                cursor.execute("INSERT INTO conversation_participants VALUES (%s, %s)", (conversation_id, user_id))
        for bounty_id, creator in world.bounties.items():
            values = (bounty_id, creator, "A bounty")
            cursor.execute("INSERT INTO bounties (id, creator_id, title) VALUES (%s, %s, %s)", values)


def read_back(dsn: str, world: World) -> Stored:
    """Return what the database holds of this world."""
    with closing(connect(dsn)) as connection, connection.cursor() as cursor:

        def rows(sql: str) -> list[tuple[Any, ...]]:
            cursor.execute(sql, (list(world.conversations),) if "%s" in sql else None)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

        messages = rows(
            "SELECT id::text, conversation_id::text, seq, sender_id::text, coalesce(client_message_id, ''), text,"
            " extract(epoch FROM created_at)::float8 FROM messages WHERE conversation_id = ANY (%s::uuid[])"
            " ORDER BY conversation_id, seq, id"
        )
        cursors = rows(
            "SELECT conversation_id::text, user_id::text, delivered_seq, read_seq FROM conversation_participants"
            " WHERE conversation_id = ANY (%s::uuid[])"
        )
        last_seqs = rows("SELECT id::text, last_seq FROM conversations WHERE id = ANY (%s::uuid[])")
        events = rows("SELECT event_id, bounty_id::text, status FROM bounty_events ORDER BY event_id NULLS LAST")
        return Stored(
            messages=[StoredMessage(*row) for row in messages],
            last_seqs=dict(last_seqs),
            cursors={(row[0], row[1]): (row[2], row[3]) for row in cursors},
            events=[StoredEvent(*row) for row in events],
            statuses=dict(rows("SELECT id::text, status FROM bounties")),
        )
