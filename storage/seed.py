"""Two people, a conversation and a bounty for the development server. Adding them again changes nothing."""

from contextlib import closing

import psycopg2

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"
CONVERSATION = "c0000000-0000-4000-8000-000000000003"
BOUNTY = "b0000000-0000-4000-8000-000000000004"
HANDLES = {"alice": ALICE, "bob": BOB}

_SEED = """
    INSERT INTO profiles (id, username) VALUES (%(alice)s, 'alice'), (%(bob)s, 'bob') ON CONFLICT DO NOTHING;
    INSERT INTO bounties (id, creator_id, title, description, amount_cents)
        VALUES (%(bounty)s, %(alice)s, 'Find my cat', 'Grey, shy, answers to Tornado.', 5000) ON CONFLICT DO NOTHING;
    INSERT INTO conversations (id, bounty_id, direct_key)
        VALUES (%(conversation)s, %(bounty)s, %(alice)s || ':' || %(bob)s || ':' || %(bounty)s) ON CONFLICT DO NOTHING;
    INSERT INTO conversation_participants (conversation_id, user_id)
        VALUES (%(conversation)s, %(alice)s), (%(conversation)s, %(bob)s) ON CONFLICT DO NOTHING;
"""


def seed(dsn: str) -> None:
    """Add the demonstration rows that are missing."""
    values = {"alice": ALICE, "bob": BOB, "conversation": CONVERSATION, "bounty": BOUNTY}
    with closing(psycopg2.connect(dsn)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SEED, values)


def user_id_of(dsn: str, handle: str) -> str | None:
    """Return the id of the profile with this handle."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM profiles WHERE username = %s", (handle,))
        row = cursor.fetchone()
    return None if row is None else str(row[0])
