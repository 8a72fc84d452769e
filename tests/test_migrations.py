"""The migrations on the app's earlier tables, with rows in them: nothing is lost, and the server works on it."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from tornado.ioloop import IOLoop

from storage.embedded import EmbeddedPostgres
from storage.migrate import MIGRATIONS, migrate, pending
from tests.faults import sql
from tests.harness import Server, token

ALICE, BOB, CAROL = (str(uuid.UUID(int=number)) for number in (0xA, 0xB, 0xC))
OLD_PAIR, NEW_PAIR, ABOUT, GROUP, EMPTY = (str(uuid.UUID(int=number)) for number in range(0x11, 0x16))
OLD_TOKEN, NEW_TOKEN = (str(uuid.UUID(int=number)) for number in (0x31, 0x32))
CAT, DOG = (str(uuid.UUID(int=number)) for number in (0x21, 0x22))

MIGRATION_NAMES = sorted(path.stem for path in MIGRATIONS.iterdir() if path.suffix in (".sql", ".py"))

EARLIER_SCHEMA = """
CREATE TABLE profiles (
    id uuid PRIMARY KEY, username text UNIQUE NOT NULL, email text, role text DEFAULT 'user', balance numeric(12,2)
);
CREATE TABLE bounties (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES profiles (id), hunter_id uuid,
    title text NOT NULL, description text, amount numeric(12,2), is_for_honor boolean NOT NULL DEFAULT false,
    status text NOT NULL DEFAULT 'open'
        CHECK (status IN ('open', 'in_progress', 'completed', 'archived', 'cancelled')),
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE TABLE conversations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), is_group boolean DEFAULT false,
    bounty_id uuid REFERENCES bounties (id), created_by uuid REFERENCES profiles (id), name text, avatar text,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.updated_at = now(); RETURN NEW; END$$;
CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE conversation_participants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id uuid REFERENCES conversations (id) ON DELETE CASCADE,
    user_id uuid REFERENCES profiles (id), joined_at timestamptz DEFAULT now(), deleted_at timestamptz,
    last_read_at timestamptz, UNIQUE (conversation_id, user_id)
);
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), conversation_id uuid REFERENCES conversations (id) ON DELETE CASCADE,
    sender_id uuid REFERENCES profiles (id), text text, media_url text, reply_to uuid REFERENCES messages (id),
    is_pinned boolean DEFAULT false, is_encrypted boolean NOT NULL DEFAULT false,
    status text DEFAULT 'sent' CHECK (status IN ('sending', 'sent', 'delivered', 'read', 'failed')),
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
);
CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE conversations SET updated_at = now() WHERE id = NEW.conversation_id; RETURN NEW; END$$;
CREATE TRIGGER bump AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION bump();
CREATE TABLE push_tokens (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, token text, device_id text);
CREATE TABLE notifications (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, title text, is_read boolean);
CREATE TABLE notification_preferences (user_id uuid PRIMARY KEY, messages_enabled boolean);
"""
TABLES = ("profiles", "bounties", "conversations", "conversation_participants", "messages", "push_tokens",
          "notifications", "notification_preferences")  # fmt: skip

ROWS = f"""
INSERT INTO profiles VALUES ('{ALICE}', 'alice', 'a@x', 'admin', 12.50), ('{BOB}', 'bob', 'b@x', 'user', 0),
    ('{CAROL}', 'carol', NULL, 'user', NULL);
INSERT INTO bounties (id, user_id, hunter_id, title, amount, status, created_at) VALUES
    ('{CAT}', '{ALICE}', '{BOB}', 'Cat', 19.99, 'in_progress', '2025-01-01'),
    ('{DOG}', '{BOB}', NULL, 'Dog', NULL, 'cancelled', '2025-01-02');
INSERT INTO conversations (id, is_group, bounty_id, created_by, name, created_at, updated_at) VALUES
    ('{OLD_PAIR}', false, NULL, '{ALICE}', NULL, '2025-01-01', '2025-01-05'),
    ('{NEW_PAIR}', false, NULL, '{BOB}', NULL, '2025-01-02', '2025-01-06'),
    ('{ABOUT}', false, '{CAT}', '{ALICE}', NULL, '2025-01-03', '2025-01-07'),
    ('{GROUP}', true, NULL, '{ALICE}', 'All', '2025-01-04', '2025-01-08'),
    ('{EMPTY}', false, NULL, '{CAROL}', NULL, '2025-01-04', '2025-01-04');
INSERT INTO conversation_participants (conversation_id, user_id, joined_at, deleted_at, last_read_at)
    SELECT c, u, '2025-01-01', CASE WHEN c = '{ABOUT}' AND u = '{BOB}' THEN timestamptz '2025-02-01' END, '2025-01-09'
    FROM unnest('{{{OLD_PAIR},{NEW_PAIR},{ABOUT},{GROUP}}}'::uuid[]) c, unnest('{{{ALICE},{BOB}}}'::uuid[]) u
    UNION ALL VALUES (uuid '{GROUP}', uuid '{CAROL}', timestamptz '2025-01-01', NULL::timestamptz, NULL::timestamptz),
        ('{EMPTY}', '{CAROL}', '2025-01-01', NULL, NULL), ('{EMPTY}', '{ALICE}', '2025-01-01', NULL, NULL);
ALTER TABLE messages DISABLE TRIGGER USER;
INSERT INTO messages (conversation_id, sender_id, text, is_pinned, status, created_at)
    SELECT c, CASE WHEN n % 2 = 0 THEN uuid '{ALICE}' ELSE '{BOB}' END, 'message ' || n, n = 3, 'read',
        timestamptz '2025-01-05' - n / 2 * interval '1 minute'
    FROM unnest('{{{OLD_PAIR},{NEW_PAIR},{ABOUT},{GROUP}}}'::uuid[]) WITH ORDINALITY AS x (c, place),
        generate_series(1, 10 * place) n;
UPDATE messages m SET reply_to = (
    SELECT id FROM messages r WHERE r.conversation_id = m.conversation_id AND text = 'message 1'
) WHERE text = 'message 2';
ALTER TABLE messages ENABLE TRIGGER USER;
INSERT INTO push_tokens (id, user_id, token) VALUES ('{OLD_TOKEN}', '{BOB}', 'ExponentPushToken[x]'),
    ('{NEW_TOKEN}', '{ALICE}', 'ExponentPushToken[x]'), ('{EMPTY}', NULL, NULL);
INSERT INTO notifications (user_id, title, is_read) VALUES ('{ALICE}', 'Hello', NULL), ('{ALICE}', 'Seen', true),
    (NULL, 'Nobody''s', false);
INSERT INTO notification_preferences VALUES ('{ALICE}', false);
"""


@pytest.fixture
def bare(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database with nothing in it."""
    name = f"bare_{uuid.uuid4().hex}"
    _admin(postgres, f"CREATE DATABASE {name}")
    yield postgres.dsn(name)
    _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def earlier(bare: str) -> str:
    """The address of a database as the app had it."""
    sql(bare, EARLIER_SCHEMA)
    sql(bare, ROWS)
    return bare


@pytest.fixture
def migrated(io_loop: IOLoop, earlier: str) -> Iterator[Server]:
    """A server on the earlier tables, migrated."""
    migrate(earlier)
    server = Server(earlier)
    io_loop.run_sync(server.start)
    yield server
    io_loop.run_sync(server.stop)


def _admin(postgres: EmbeddedPostgres, statement: str) -> None:
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def snapshot(dsn: str, columns: dict[str, list[str]] | None = None) -> dict[str, list[Any]]:
    """Return every row of the earlier tables; with ``columns``, only those of each table."""
    tables = {}
    for table in TABLES:
        rows = [row[0] for row in sql(dsn, f"SELECT to_jsonb(t) FROM {table} t")]
        wanted = columns[table] if columns else list(rows[0])
        tables[table] = sorted(({name: row[name] for name in wanted} for row in rows), key=json.dumps)
    return tables


def test_every_row_is_found_again_unchanged(earlier: str) -> None:
    """In every column that was there."""
    before = snapshot(earlier)
    assert migrate(earlier) == MIGRATION_NAMES
    assert snapshot(earlier, {table: list(rows[0]) for table, rows in before.items()}) == before
    own = "SELECT count(*) FROM pg_trigger WHERE tgname IN ('touch', 'bump') AND tgenabled = 'O'"
    assert sql(earlier, own) == [(2,)], "the app's own triggers work on"


def test_applying_twice_changes_nothing(earlier: str) -> None:
    """And says so."""
    migrate(earlier)
    before = snapshot(earlier)
    assert pending(earlier) == []
    assert migrate(earlier) == []
    assert snapshot(earlier) == before


def test_two_servers_that_migrate_at_once(bare: str) -> None:
    """One does, the other waits."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(migrate, [bare, bare])
    assert sorted([len(first), len(second)]) == [0, len(MIGRATION_NAMES)]


def test_what_was_there_gets_its_places(earlier: str) -> None:
    """seq by time and without a gap, cursors at the end, the newest conversation of a pair, hidden where deleted."""
    migrate(earlier)
    wrong = """
        SELECT * FROM (
            SELECT seq, row_number() OVER (PARTITION BY conversation_id ORDER BY created_at, seq) AS place FROM messages
        ) m WHERE seq <> place
    """
    assert sql(earlier, wrong) == []
    heads = dict(sql(earlier, "SELECT id::text, last_seq FROM conversations"))
    assert heads == {OLD_PAIR: 10, NEW_PAIR: 20, ABOUT: 30, GROUP: 40, EMPTY: 0}
    cursors = sql(earlier, "SELECT conversation_id::text, delivered_seq, read_seq FROM conversation_participants")
    assert all((delivered, read) == (heads[conversation],) * 2 for conversation, delivered, read in cursors)
    keys = dict(sql(earlier, "SELECT id::text, direct_key FROM conversations"))
    assert keys == {
        OLD_PAIR: None,
        NEW_PAIR: f"{ALICE}:{BOB}:",
        ABOUT: f"{ALICE}:{BOB}:{CAT}",
        GROUP: None,
        EMPTY: f"{ALICE}:{CAROL}:",
    }
    hidden = "SELECT conversation_id::text, user_id::text FROM conversation_participants WHERE hidden_seq IS NOT NULL"
    assert sql(earlier, hidden) == [(ABOUT, BOB)]
    amounts = "SELECT amount_cents, creator_id::text FROM bounties ORDER BY created_at"
    assert sql(earlier, amounts) == [(1999, ALICE), (0, BOB)]
    assert sql(earlier, "SELECT count(*) FROM bounty_events") == [(0,)], "nothing old is news"


async def test_chatting_goes_on(migrated: Server) -> None:
    """Nothing old is replayed or unread, a new message takes the next place, and a hidden conversation comes back."""
    bob = await migrated.socket("/messages/subscribe", token=token(BOB))
    assert (await bob.get("replay.complete"))["count"] == 0
    listed = await _listed(migrated, BOB)
    assert [one["id"] for one in listed] == [GROUP, NEW_PAIR, OLD_PAIR], "latest first, without the hidden one"
    assert {one["unreadCount"] for one in listed} == {0}
    alice = await migrated.messages(ALICE)
    ack = await alice.say(ABOUT, "still there?")
    assert ack["seq"] == 31
    assert (await bob.get("message.new"))["text"] == "still there?"
    listed = await _listed(migrated, BOB)
    assert [(one["id"], one["unreadCount"]) for one in listed[:2]] == [(ABOUT, 1), (GROUP, 0)]
    await bob.send("message.read", conversationId=ABOUT, seq=31)
    await alice.get("message.read", userId=BOB)
    again = await migrated.rest("POST", "/api/conversations", {"participantIds": [BOB]}, user=ALICE)
    assert (again.status, again.body["conversation"]["id"]) == (200, NEW_PAIR)
    page = await migrated.rest("GET", f"/api/conversations/{ABOUT}/messages?limit=200", user=ALICE)
    assert [message["seq"] for message in page.body["messages"]] == list(range(1, 32))
    fresh = await migrated.conversation(BOB, CAROL)
    assert (await bob.say(fresh, "hello"))["seq"] == 1


async def test_the_earlier_backend_may_go_on_too(migrated: Server) -> None:
    """A message that it writes knows no seq, and gets the next."""
    insert = f"INSERT INTO messages (conversation_id, sender_id, text) VALUES ('{GROUP}', '{BOB}', 'x') RETURNING seq"
    assert migrated.sql(insert) == [(41,)]
    alice = await migrated.messages(ALICE)
    assert (await alice.say(GROUP, "y"))["seq"] == 42


async def test_bounties_go_on(migrated: Server) -> None:
    """Both names of each column are filled, whoever writes; every status of the wire can be stored, and is told."""
    client = await migrated.events()
    body = {"title": "Find my dog", "amountCents": 1250}
    made = (await migrated.rest("POST", "/api/bounties", body, user=ALICE)).body["bounty"]
    row = f"SELECT user_id::text, creator_id::text, amount, amount_cents FROM bounties WHERE id = '{made['id']}'"
    assert [tuple(map(str, one)) for one in migrated.sql(row)] == [(ALICE, ALICE, "12.50", "1250")]
    await client.get("bounty.status", id=made["id"], status="open")
    theirs = f"INSERT INTO bounties (user_id, title, amount) VALUES ('{BOB}', 'Bird', 7.5) RETURNING id::text"
    bird = migrated.sql(theirs)[0][0]
    await client.get("bounty.status", id=bird, status="open")
    shown = (await migrated.rest("GET", f"/api/bounties/{bird}")).body["bounty"]
    assert (shown["creatorId"], shown["amountCents"]) == (BOB, 750)
    for bounty, user in [(CAT, ALICE), (CAT, BOB)]:
        status = "cancellation_requested" if user == ALICE else "deleted"
        answer = await migrated.rest("POST", f"/api/bounties/{bounty}/status", {"status": status}, user=user)
        assert (answer.status, answer.body["bounty"]["amountCents"]) == (200, 1999)
        await client.get("bounty.status", id=CAT, status=status)


async def test_notifications_and_devices_go_on(migrated: Server) -> None:
    """What was unread is replayed, what was preferred holds, a token that two have is the later one's."""
    alice = await migrated.socket("/messages/subscribe", token=token(ALICE))
    hello = await alice.get("notification.new")
    assert (hello["title"], hello["notificationType"], hello["replayed"]) == ("Hello", "system", True)
    preferences = (await migrated.rest("GET", "/api/notification-preferences", user=ALICE)).body
    assert (preferences["messagesEnabled"], preferences["paymentsEnabled"]) == (False, True)
    assert migrated.sql("SELECT user_id::text FROM realtime_push_tokens") == [(ALICE,)]
    body = {"token": "ExponentPushToken[x]"}
    assert (await migrated.rest("DELETE", "/api/push-tokens", body, user=ALICE)).status == 204
    assert migrated.sql("SELECT 1 FROM realtime_push_tokens") == [], "it does not fall back to the earlier owner"
    assert (await migrated.rest("POST", "/api/push-tokens", body, user=BOB)).status == 204
    await migrated.rest("PUT", "/api/notification-preferences", {"messagesEnabled": True}, user=ALICE)
    answer = await migrated.rest("POST", "/api/notifications/read", {"all": True}, user=ALICE)
    assert answer.body["updatedCount"] == 1
    await alice.get("notification.read", ids=[hello["id"]])


def test_another_app_s_names(bare: str) -> None:
    """`read` and `is_read` stay the same, whoever writes; a check on the type gives way; tokens may be unique."""
    sql(
        bare,
        """
        CREATE TABLE notifications (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, title text NOT NULL,
            body text NOT NULL, type text NOT NULL CHECK (type IN ('application', 'message')),
            read boolean NOT NULL DEFAULT false,
            created_at timestamptz DEFAULT now()
        );
        INSERT INTO notifications (user_id, title, body, type, read)
        SELECT gen_random_uuid(), n::text, '', 'message', n = 1 FROM generate_series(1, 2) n;
        CREATE TABLE push_tokens (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL, token text NOT NULL UNIQUE,
            created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()
        );
        CREATE TABLE notification_preferences (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL UNIQUE,
            messages_enabled boolean NOT NULL DEFAULT true
        );
        """,
    )
    migrate(bare)
    marks = "SELECT title, read, is_read FROM notifications ORDER BY title"
    assert sql(bare, marks) == [("1", True, True), ("2", False, False)]
    sql(bare, "UPDATE notifications SET is_read = true WHERE title = '2'")
    sql(bare, "UPDATE notifications SET read = false WHERE title = '1'")
    sql(bare, "INSERT INTO notifications (user_id, title, body, type) VALUES (gen_random_uuid(), '3', '', 'payments')")
    assert sql(bare, marks) == [("1", False, False), ("2", True, True), ("3", False, False)]


async def test_unique_tokens_of_another_app(bare: str) -> None:
    """A table that holds its tokens unique takes a token's next owner too."""
    sql(
        bare,
        "CREATE TABLE push_tokens (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid, token text UNIQUE);"
        "CREATE TABLE notification_preferences (user_id uuid UNIQUE, messages_enabled boolean NOT NULL DEFAULT true)",
    )
    migrate(bare)
    server = await Server(bare).start()
    users = [await server.person() for _ in range(2)]
    for user in users:
        answer = await server.rest("POST", "/api/push-tokens", {"token": "ExpoPushToken[x]"}, user=user)
        assert answer.status == 204
        assert server.sql("SELECT user_id::text FROM push_tokens") == [(user,)]
        changed = await server.rest("PUT", "/api/notification-preferences", {"paymentsEnabled": False}, user=user)
        assert (changed.status, changed.body["messagesEnabled"]) == (200, True)
    await server.stop()


async def _listed(server: Server, user: str) -> list[dict[str, Any]]:
    answer = await server.rest("GET", "/api/conversations", user=user)
    assert answer.status == 200
    return list(answer.body["conversations"])


def test_triggers_run_nothing_of_who_writes(dsn: str) -> None:
    """They run as their owner: a temporary view of the writer's, named as a table of theirs, is not looked at."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO profiles (id, username) VALUES (%s, 'alice')", (ALICE,))
        cursor.execute(
            """
            ALTER TABLE notifications DISABLE ROW LEVEL SECURITY;
            CREATE ROLE writer;
            GRANT INSERT ON notifications TO writer;
            CREATE SCHEMA of_writer AUTHORIZATION writer;
            SET ROLE writer;
            CREATE FUNCTION of_writer.now_as_whom() RETURNS timestamptz LANGUAGE plpgsql AS
                $$ BEGIN RAISE WARNING 'as %', current_user; RETURN now(); END $$;
            CREATE TEMP VIEW push_servers AS SELECT of_writer.now_as_whom() AS seen_at;
            GRANT SELECT ON pg_temp.push_servers TO PUBLIC;
            """
        )
        cursor.execute("INSERT INTO notifications (user_id, title) VALUES (%s, 'hello')", (ALICE,))
        assert not [notice for notice in connection.notices if "WARNING" in notice]
        connection.rollback()
