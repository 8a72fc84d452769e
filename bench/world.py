"""The people, conversations and messages that every contestant has, each in a database of its own."""

import base64
import hashlib
import hmac
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from bench.paths import DATA
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

SECRET = "a secret that only the benchmark knows, long enough"
PEOPLE = 10_400
GROUP = 100
# Conversations with 200 missed messages each.
MISSED_CONVERSATIONS = 5
MISSED_EACH = 200

_LIFETIME_S = 24 * 3600
_PEER_SCHEMA = """
    CREATE TABLE conversation_participants (
        conversation_id uuid NOT NULL, user_id uuid NOT NULL, PRIMARY KEY (conversation_id, user_id)
    );
    CREATE INDEX ON conversation_participants (user_id);
    CREATE TABLE messages (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id uuid NOT NULL, sender_id uuid NOT NULL,
        text text NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON messages (conversation_id, created_at);
"""
_NUMBERED = "('00000000-0000-4000-8{kind}00-' || lpad(to_hex({n}), 12, '0'))::uuid"


def numbered(kind: int, number: int) -> str:
    """Return the id of a thing.

    People are kind 0, conversations of two 1, the group 2, replays' conversations 3, bounties 4, growth's
    conversations 5.
    """
    return f"00000000-0000-4000-8{kind}00-{number:012x}"


def numbered_sql(kind: int, number: str) -> str:
    """Return the SQL expression of the id whose number the expression ``number`` is."""
    return _NUMBERED.format(kind=kind, n=number)


def write() -> Path:
    """Write who there is, with their tokens, for the load generator; return where."""
    group = range(PEOPLE, PEOPLE + GROUP)
    reader = PEOPLE + GROUP
    world: dict[str, Any] = {
        "people": [
            {"id": numbered(0, n), "token": token(numbered(0, n)), "conversation": numbered(1, n // 2)}
            for n in range(PEOPLE)
        ],
        "group": {"conversation": numbered(2, 0), "tokens": [token(numbered(0, n)) for n in group]},
        "replay": {"token": token(numbered(0, reader))},
        "bounty": {"id": numbered(4, 0), "token": token(numbered(0, 0))},
    }
    path = DATA / "world.json"
    path.write_text(json.dumps(world))
    return path


def token(user_id: str) -> str:
    """Return an access token as Supabase makes them (HS256)."""
    now = int(time.time())
    claims = {"sub": user_id, "aud": "authenticated", "role": "authenticated", "iat": now, "exp": now + _LIFETIME_S}
    head = _base64(b'{"alg":"HS256","typ":"JWT"}') + b"." + _base64(json.dumps(claims).encode())
    return (head + b"." + _base64(hmac.digest(SECRET.encode(), head, hashlib.sha256))).decode()


def fill_ours(postgres: EmbeddedPostgres, database: str) -> None:
    """Make a database with our schema and the people in it."""
    _create(postgres, database)
    migrate(postgres.dsn(database))
    last = PEOPLE + GROUP + MISSED_CONVERSATIONS
    person, pair = _NUMBERED.format(kind=0, n="n"), _NUMBERED.format(kind=1, n="n")
    run(
        postgres.dsn(database),
        f"INSERT INTO profiles (id, username) SELECT {person}, 'u' || n FROM generate_series(0, {last}) n",
        f"INSERT INTO conversations (id) SELECT {pair} FROM generate_series(0, {PEOPLE // 2 - 1}) n",
        f"INSERT INTO conversations (id, is_group) VALUES ('{numbered(2, 0)}', true)",
        *_participants(),
        f"INSERT INTO bounties (id, creator_id, title) VALUES ('{numbered(4, 0)}', '{numbered(0, 0)}', 'Find my cat')",
        *_missed(),
        "ANALYZE",
    )


def fill_peer(postgres: EmbeddedPostgres, database: str) -> None:
    """Make a database as a peer's users would, with the same people and conversations."""
    _create(postgres, database)
    run(postgres.dsn(database), _PEER_SCHEMA, *_participants(), "ANALYZE")


def run(dsn: str, *statements: str) -> None:
    """Run SQL, each statement by itself."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


def _participants() -> list[str]:
    """Return the statements that put people 2n and 2n+1 into conversation n, and the group's into theirs."""
    person = _NUMBERED.format(kind=0, n="n")
    into = "INSERT INTO conversation_participants (conversation_id, user_id)"
    return [
        f"{into} SELECT {_NUMBERED.format(kind=1, n='n / 2')}, {person} FROM generate_series(0, {PEOPLE - 1}) n",
        f"{into} SELECT '{numbered(2, 0)}', {person} FROM generate_series({PEOPLE}, {PEOPLE + GROUP - 1}) n",
    ]


def _missed() -> list[str]:
    """Return the statements that give one person messages that they have not received."""
    reader = PEOPLE + GROUP
    statements = []
    for number in range(MISSED_CONVERSATIONS):
        conversation, writer = numbered(3, number), numbered(0, reader + 1 + number)
        statements += [
            f"INSERT INTO conversations (id) VALUES ('{conversation}')",
            f"INSERT INTO conversation_participants (conversation_id, user_id)"
            f" VALUES ('{conversation}', '{numbered(0, reader)}'), ('{conversation}', '{writer}')",
            f"INSERT INTO messages (conversation_id, sender_id, text, client_message_id)"
            f" SELECT '{conversation}', '{writer}', repeat('x', 80), 'missed-' || n"
            f" FROM generate_series(1, {MISSED_EACH}) n",
        ]
    return statements


def _create(postgres: EmbeddedPostgres, database: str) -> None:
    run(postgres.dsn(), f"DROP DATABASE IF EXISTS {database} WITH (FORCE)", f"CREATE DATABASE {database}")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
