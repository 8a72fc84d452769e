"""Scenario (h) from step to step: grows a database of our server's own, and measures chat at each size.

Messages grow over the conversations that everybody has; then, in tables emptied again, conversations grow. Each step
has a fresh server, so that only the database differs. Our server alone: what a peer's tables would cost is not asked.
"""

import dataclasses
import secrets
import time
from collections.abc import Iterator
from typing import Any

from bench import world
from bench.contestants import OURS
from bench.runner import FAILURES, Figures, Runner, database, reason
from storage.embedded import EmbeddedPostgres

# Up to how many stored messages; more only where --growth asks for them: 10,000,000 take minutes to fill in.
USUAL = 1_000_000
QUICK = 100_000
_MESSAGES = (0, 100_000, 1_000_000, 10_000_000)
_CONVERSATIONS = (100, 10_000, 100_000)
_SENDERS = 64
_CONTESTANT = dataclasses.replace(OURS, name="growth")

# Triggers and foreign keys rest: seq and cursors are given here. The indexes stay.
_BULK = "SET session_replication_role = replica"
_EMPTY = "TRUNCATE messages, conversation_participants, conversations"
# One after another through all conversations of two, as messages of many people come; the two in turn.
_MORE = """
    INSERT INTO messages (id, conversation_id, sender_id, client_message_id, text, seq, created_at, updated_at)
    SELECT uuidv7(), c.id, CASE WHEN round % 2 = 0 THEN c.one ELSE c.other END, '{mark}-' || n, repeat('x', 100),
        c.last_seq + 1 + round, at, at
    FROM (
        SELECT n, n % {pairs} AS place, n / {pairs} AS round, now() - interval '1 day' + n * interval '1 ms' AS at
        FROM generate_series(0, {count} - 1) n
    ) fresh
    JOIN (
        SELECT c.id, c.last_seq, row_number() OVER (ORDER BY c.id) - 1 AS place, people.one, people.other
        FROM conversations c CROSS JOIN LATERAL (
            SELECT min(p.user_id::text)::uuid AS one, max(p.user_id::text)::uuid AS other
            FROM conversation_participants p WHERE p.conversation_id = c.id
        ) people
        WHERE c.id BETWEEN '{first}' AND '{last}'
    ) c USING (place)
"""
# As the server would have left it: the newest seq, and nobody who has missed anything.
_HEADS = """
    UPDATE conversations c
    SET last_seq = coalesce((SELECT max(m.seq) FROM messages m WHERE m.conversation_id = c.id), 0), updated_at = now()
"""
_CURSORS = """
    UPDATE conversation_participants p SET delivered_seq = c.last_seq, read_seq = c.last_seq
    FROM conversations c WHERE c.id = p.conversation_id
"""
_TIDY = ("VACUUM (ANALYZE) messages", "VACUUM (ANALYZE) conversations", "VACUUM (ANALYZE) conversation_participants")


def measure(runner: Runner, postgres: EmbeddedPostgres, *, quick: bool, most: int) -> list[Figures]:
    """Return the figures of every step, as of one more round; a step that fails has none, and the reason is printed.

    :param most: grow to this many stored messages.
    """
    found: list[Figures] = []
    if not runner.prepare(_CONTESTANT):
        return found
    try:
        for options in _steps(postgres.dsn(database(_CONTESTANT)), quick=quick, most=most):
            found.append(runner.run(_CONTESTANT, [("growth", options)]))
    except FAILURES as error:
        print(f"  growth: {reason(error)}", flush=True)
    return found


def _steps(dsn: str, *, quick: bool, most: int) -> Iterator[dict[str, Any]]:
    """Grow the database; give the options of each measurement when it has its size."""
    timed: dict[str, Any] = {"senders": _SENDERS, "warm_s": 0.5 if quick else 1.5, "seconds": 1.0}
    timed["windows"] = 2 if quick else 5
    steps = [*(step for step in _MESSAGES if step < most), most]
    # As after the installation: a table that was vacuumed while empty is one that the planner takes for empty.
    world.run(dsn, _BULK, "TRUNCATE messages", _HEADS, _CURSORS)
    for before, step in zip([0, *steps], steps, strict=False):
        if step:
            _fill(dsn, f"{step:,} stored messages", _messages(step - before, 1, world.PEOPLE // 2))
        yield {"name": f"messages {step}", "conversations": 0, **timed}
    if quick:
        return
    world.run(dsn, _EMPTY)
    for before, step in zip([0, *_CONVERSATIONS], _CONVERSATIONS, strict=False):
        messages = () if before else (_messages(QUICK, 5, step),)  # as many are there at each step
        _fill(dsn, f"{step:,} conversations", *_conversations(before, step), *messages)
        yield {"name": f"conversations {step}", "conversations": step, **timed}


def _messages(count: int, kind: int, conversations: int) -> str:
    """Return the statement that spreads so many messages over the first conversations of a kind."""
    first, last = world.numbered(kind, 0), world.numbered(kind, conversations - 1)
    return _MORE.format(mark=secrets.token_hex(4), pairs=conversations, count=count, first=first, last=last)


def _conversations(before: int, after: int) -> list[str]:
    """Return the statements that spread conversations over the pairs of people who write."""
    conversation, series = world.numbered_sql(5, "n"), f"generate_series({before}, {after - 1}) n"
    people = " UNION ALL ".join(
        f"SELECT {conversation}, {world.numbered_sql(0, f'(2 * (n % {_SENDERS}) + {which})')} FROM {series}"
        for which in (0, 1)
    )
    return [
        f"INSERT INTO conversations (id) SELECT {conversation} FROM {series}",
        f"INSERT INTO conversation_participants (conversation_id, user_id) {people}",
    ]


def _fill(dsn: str, what: str, *statements: str) -> None:
    started = time.monotonic()
    world.run(dsn, _BULK, *statements, _HEADS, _CURSORS, *_TIDY)
    print(f"growth: {what}, filled in {time.monotonic() - started:.0f} s", flush=True)
