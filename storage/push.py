"""The pushes' side of the database: who is at which server, the outbox, the queue, Expo's tickets.

The outbox row is written by the message's own statement (``message_writer.py``); here it is taken further. A row of
the queue is one push to one device. A server claims it by its id, and it is free again once that server has been
silent for ``LEASE_S``: the claim outlives ``kill -9`` and is not lost with an answer.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct

from protocol.notifications import KINDS
from storage.database import Database, Row, Statement, array

# A server that has said nothing for this long is taken for dead (in the migration's realtime_online too).
LEASE_S = 10.0
# Depths are counted up to here.
_COUNT_MOST = 100_000

# What others go by, so urgent. Servers that are gone for a day are forgotten, and their people with them.
# `xmax = 0`: the row is new.
_APPEAR = Statement(
    "push_appear",
    ("uuid", "uuid[]", "uuid[]", "float8"),
    """
    WITH me AS (
        INSERT INTO push_servers (id, seen_at) VALUES ($1, now())
        ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at RETURNING xmax = 0 AS is_new
    ), came AS (
        INSERT INTO push_presence (user_id, server_id) SELECT u.id, $1 FROM me, unnest($2) AS u (id)
        ON CONFLICT DO NOTHING
    ), went AS (
        DELETE FROM push_presence WHERE server_id = $1 AND user_id = ANY ($3)
    ), gone AS (
        DELETE FROM push_servers WHERE seen_at < now() - interval '1 day' AND id <> $1
    )
    SELECT is_new, (
        SELECT count(*) FROM push_servers WHERE seen_at > now() - make_interval(secs => $4) AND id <> $1
    ) + 1 FROM me
    """,
    urgent=True,
)
_DISAPPEAR = Statement("push_disappear", ("uuid",), "DELETE FROM push_presence WHERE server_id = $1", urgent=True)

# An outbox row has its time once the messages that become one push are together. It becomes a row for each device of
# each other participant who has not got all of them. `upto_seq` is the sender's own newest: a receipt for it settles.
_RESOLVE = Statement(
    "push_resolve",
    ("float8", "int"),
    """
    WITH due AS (
        SELECT * FROM push_outbox WHERE first_at <= now() - make_interval(secs => $1)
        ORDER BY first_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), settled AS (
        DELETE FROM push_outbox o USING due d
        WHERE o.conversation_id = d.conversation_id AND o.sender_id = d.sender_id
    ), queued AS (
        INSERT INTO push_queue (token, user_id, what, conversation_id, sender_id, from_seq, upto_seq, first_at)
        SELECT t.token, p.user_id, 'messages', d.conversation_id, d.sender_id, d.from_seq, d.upto_seq, d.first_at
        FROM due d JOIN conversation_participants p ON p.conversation_id = d.conversation_id
        JOIN realtime_push_tokens t ON t.user_id = p.user_id
        WHERE p.user_id <> d.sender_id AND p.delivered_seq < d.upto_seq AND NOT p.muted
    )
    SELECT count(*) FROM due
    """,
)

# What the rules of services/push.py decide by, as it is at this moment. A device that has become another person's, a
# participant who is one no more, a notification that is gone or read: nothing is left of it, so nothing is sent.
_ENABLED = " ".join(f"WHEN '{kind}' THEN f.{kind}_enabled WHEN '{kind[:-1]}' THEN f.{kind}_enabled" for kind in KINDS)
_CLAIM = Statement(
    "push_claim",
    ("uuid", "bigint[]", "boolean", "int"),
    f"""
    WITH picked AS (
        SELECT * FROM push_queue q WHERE q.due_at <= now() AND (
            q.claimed_by IS NULL OR (q.claimed_by = $1 AND q.id <> ALL ($2))
            OR ($3 AND q.claimed_by <> $1 AND NOT EXISTS (
                SELECT FROM push_servers s
                WHERE s.id = q.claimed_by AND s.seen_at > now() - interval '{LEASE_S} seconds'
            ))
        ) ORDER BY q.due_at LIMIT $4 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE push_queue q SET claimed_by = $1 FROM picked p WHERE q.id = p.id
    ), unread AS (
        SELECT b.user_id, realtime_unread(b.user_id) AS count
        FROM (SELECT DISTINCT user_id FROM picked WHERE what = 'badge') b
    )
    SELECT q.id, q.token, q.user_id, q.what, extract(epoch FROM now())::float8,
        extract(epoch FROM now() - q.first_at)::float8,
        t.token IS NOT NULL, realtime_online(q.user_id), coalesce(CASE coalesce(n.type, 'messages') {_ENABLED}
            ELSE f.system_enabled END, true), coalesce(me.muted, false), f.quiet_start, f.quiet_end, f.quiet_time_zone,
        q.what = 'badge' AND u.count = t.badge_sent,
        q.conversation_id, q.sender_id, s.username, coalesce(missed.count, 0), m.id, left(m.text, 1000),
        n.id, n.type, left(n.title, 1000), left(n.body, 1000), left(n.data ->> 'bountyId', 64)
    FROM picked q
    LEFT JOIN realtime_push_tokens t ON t.token = q.token AND t.user_id = q.user_id
    LEFT JOIN unread u ON u.user_id = q.user_id
    LEFT JOIN notification_preferences f ON f.user_id = q.user_id
    LEFT JOIN profiles s ON s.id = q.sender_id
    LEFT JOIN conversation_participants me ON me.conversation_id = q.conversation_id AND me.user_id = q.user_id
    LEFT JOIN LATERAL (
        SELECT count(*), max(r.seq) AS seq FROM messages r
        WHERE r.conversation_id = q.conversation_id AND r.sender_id = q.sender_id
            AND r.seq BETWEEN greatest(q.from_seq, me.delivered_seq + 1) AND q.upto_seq
    ) missed ON me.user_id IS NOT NULL
    LEFT JOIN messages m ON m.conversation_id = q.conversation_id AND m.seq = missed.seq
    LEFT JOIN notifications n ON n.id = q.notification_id AND n.is_read IS NOT TRUE
    ORDER BY q.id
    """,
)
_DROP = Statement("push_drop", ("bigint[]",), "DELETE FROM push_queue WHERE id = ANY ($1)")
_RELEASE = Statement(
    "push_release",
    ("bigint[]", "float8[]"),
    """
    UPDATE push_queue q SET claimed_by = NULL, due_at = now() + make_interval(secs => i.wait_s)
    FROM unnest($1, $2) AS i (id, wait_s) WHERE q.id = i.id
    """,
)
# Counted only for what is sent, and noted before it is: a reading that comes from now on finds that there is a badge to
# clear.
_SHOW = Statement(
    "push_show_badges",
    ("text[]",),
    """
    UPDATE push_tokens t SET badge_sent = u.unread
    FROM (
        SELECT person.tokens, person.user_id, realtime_unread(person.user_id) AS unread FROM (
            SELECT o.user_id, array_agg(o.token) AS tokens
            FROM unnest($1) AS i (token) JOIN realtime_push_tokens o ON o.token = i.token GROUP BY o.user_id
        ) person
    ) u
    WHERE t.token = ANY (u.tokens) AND t.user_id = u.user_id RETURNING t.token, t.badge_sent
    """,
)
# Expo has answered: these are sent and never again, whatever happens. Who has read in the moment between counting and
# telling the badge is owed another one.
_RECORD = Statement(
    "push_record",
    ("bigint[]", "text[]", "text[]", "int[]", "float8"),
    """
    WITH sent AS (
        DELETE FROM push_queue WHERE id = ANY ($1)
    ), kept AS (
        INSERT INTO push_tickets (id, token, due_at)
        SELECT i.ticket, i.token, now() + make_interval(secs => $5)
        FROM unnest($2, $3) AS i (ticket, token) WHERE i.ticket IS NOT NULL
        ON CONFLICT DO NOTHING
    )
    INSERT INTO push_queue (token, user_id, what)
    SELECT t.token, t.user_id, 'badge' FROM unnest($3, $4) AS i (token, badge)
    JOIN realtime_push_tokens t ON t.token = i.token
    WHERE i.badge > 0 AND t.badge_sent = i.badge AND realtime_unread(t.user_id) < i.badge
    """,
)
# Not one that was registered anew since. The instants are the database's: no clock of ours, and no pause, is in them.
_FORGET = Statement(
    "push_forget_tokens",
    ("text[]", "float8[]"),
    """
    DELETE FROM push_tokens t USING unnest($1, $2) AS i (token, known_at)
    WHERE t.token = i.token AND (t.updated_at IS NULL OR t.updated_at <= to_timestamp(i.known_at))
    RETURNING t.token
    """,
)

# A ticket that is being asked about comes up again after a while, in case nobody hears the answer.
_TICKETS = Statement(
    "push_due_tickets",
    ("int", "float8"),
    """
    WITH due AS (
        SELECT id FROM push_tickets WHERE due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE push_tickets t SET due_at = now() + make_interval(secs => $2) FROM due WHERE t.id = due.id
    RETURNING t.id, t.token, extract(epoch FROM t.created_at)::float8, extract(epoch FROM now() - t.created_at)::float8
    """,
)
_DONE = Statement("push_forget_tickets", ("text[]",), "DELETE FROM push_tickets WHERE id = ANY ($1)")
_DEPTH = Statement(
    "push_depth",
    ("int",),
    """
    SELECT (SELECT count(*) FROM (SELECT FROM push_outbox LIMIT $1) o)
        + (SELECT count(*) FROM (SELECT FROM push_queue LIMIT $1) q)
    """,
)


class Due(Struct):
    """A claimed row of the queue, with all that decides what becomes of it, as of the claim."""

    id: int
    token: str
    user_id: str
    what: str
    claimed_at: float  # by the database's clock, in seconds since 1970
    age_s: float
    is_owner: bool  # the device is still this person's
    is_online: bool
    is_enabled: bool
    is_muted: bool
    quiet_start: str | None
    quiet_end: str | None
    quiet_time_zone: str | None
    is_shown: bool | None  # a badge, and the device shows the right one already
    conversation_id: str | None
    sender_id: str | None
    sender_handle: str | None
    missed: int  # messages that are neither delivered nor read
    message_id: str | None
    text: str | None
    notification_id: str | None
    notification_type: str | None
    title: str | None
    body: str | None
    bounty_id: str | None


class Ticket(Struct):
    """What Expo accepted: when, by the database's clock in seconds since 1970, and how long ago."""

    id: str
    token: str
    created_at: float
    age_s: float


class Pushes:
    """What is owed, claimed, sent.

    :param server_id: this server, as others see it.
    """

    def __init__(self, database: Database, server_id: str) -> None:
        self._database = database
        self._server_id = server_id

    async def appear(self, came: Iterable[str], went: Iterable[str]) -> tuple[bool, int]:
        """Say that this server lives and who came and went; return whether it was unknown, and how many live."""
        row = (await self._database.fetch(_APPEAR, (self._server_id, array(came), array(went), LEASE_S)))[0]
        return row[0], row[1]

    async def disappear(self, *, deadline_s: float) -> None:
        """Say that nobody is connected here any more, within ``deadline_s`` seconds or not at all."""
        await self._database.fetch(_DISAPPEAR, (self._server_id,), deadline_s=deadline_s)

    async def resolve(self, limit: int, *, coalesce_s: float) -> bool:
        """Queue what up to ``limit`` rows of the outbox owe by now; return whether there are more."""
        rows = await self._database.fetch(_RESOLVE, (coalesce_s, limit))
        return bool(rows[0][0] == limit)

    async def claim(self, limit: int, in_hand: Collection[int], *, from_the_dead: bool) -> list[Due]:
        """Claim up to ``limit`` rows that are due, those of dead servers too if so asked.

        :param in_hand: what this server holds already; any other claim of its own was lost with an answer.
        """
        values = (self._server_id, array(in_hand), from_the_dead, limit)
        return [Due(*row) for row in await self._database.fetch(_CLAIM, values)]

    async def drop(self, ids: Sequence[int]) -> None:
        """Forget rows that are not to be sent."""
        await self._database.fetch(_DROP, (array(ids),))

    async def release(self, waits: Sequence[tuple[int, timedelta]]) -> None:
        """Let go of claimed rows, each until its time has passed."""
        seconds = [str(wait.total_seconds()) for _, wait in waits]
        await self._database.fetch(_RELEASE, (array(row for row, _ in waits), array(seconds)))

    async def show(self, tokens: Iterable[str]) -> dict[str, int]:
        """Count the badge that each device is about to be told, and note it; a device that is gone has none."""
        return dict(await self._database.fetch(_SHOW, (array(tokens),)))

    async def record(
        self, ids: Iterable[int], tickets: Sequence[tuple[str | None, str, int]], *, receipts_after_s: float
    ) -> None:
        """Note that Expo has answered for ``ids``: (ticket, token, badge) each push."""
        columns: list[Any] = [array(ticket[place] for ticket in tickets) for place in range(3)]
        await self._database.fetch(_RECORD, (array(ids), *columns, receipts_after_s))

    async def forget_tokens(self, tokens: Sequence[tuple[str, float]]) -> int:
        """Forget devices that are gone, each as known at a time of the database's; return how many there were."""
        values = (array(token for token, _ in tokens), array(str(known_at) for _, known_at in tokens))
        return len({row[0] for row in await self._database.fetch(_FORGET, values)})

    async def due_tickets(self, limit: int, *, again_after_s: float) -> list[Ticket]:
        """Return tickets whose receipt is to be asked for now."""
        rows: list[Row] = await self._database.fetch(_TICKETS, (limit, again_after_s))
        return [Ticket(*row) for row in rows]

    async def forget_tickets(self, ids: Iterable[str]) -> None:
        """Forget tickets whose receipt is known, or never will be."""
        await self._database.fetch(_DONE, (array(ids),))

    async def depth(self) -> int:
        """Return how many rows are on their way, outbox and queue, counted up to 100,000 each."""
        return int((await self._database.fetch(_DEPTH, (_COUNT_MOST,)))[0][0])
