"""Cursors only go forward, to the furthest mark on somebody else's message; reading moves both."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from typing import NamedTuple

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from protocol.codes import AppError, ErrorCode
from storage.database import Database
from storage.receipts import Mark, Moved, Receipts
from tests.faults import proxied, sql
from tests.harness import until

PEOPLE = 3
on_one_database = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


class Step(NamedTuple):
    """A mark that somebody makes."""

    person: int
    seq: int
    is_read: bool
    by_id: bool


steps = st.lists(
    st.builds(Step, st.integers(0, PEOPLE - 1), st.integers(1, 12), st.booleans(), st.booleans()), max_size=25
)
senders = st.lists(st.integers(0, PEOPLE - 1), min_size=1, max_size=10)


class Talk:
    """A conversation of three, with a message from each of ``senders`` in turn."""

    def __init__(self, dsn: str, senders: Sequence[int]) -> None:
        self._dsn = dsn
        self.id = str(uuid.uuid4())
        self.people = [str(uuid.uuid4()) for _ in range(PEOPLE)]
        self.senders = senders
        self.message_ids = [str(uuid.uuid4()) for _ in senders]
        people = ", ".join(f"('{person}', '{person}')" for person in self.people)
        pairs = ", ".join(f"('{self.id}', '{person}')" for person in self.people)
        messages = ", ".join(
            f"('{message}', '{self.id}', '{self.people[sender]}', 'x')"
            for message, sender in zip(self.message_ids, senders, strict=True)
        )
        sql(
            dsn,
            f"INSERT INTO profiles (id, username) VALUES {people};"
            f"INSERT INTO conversations (id) VALUES ('{self.id}');"
            f"INSERT INTO conversation_participants (conversation_id, user_id) VALUES {pairs};"
            f"INSERT INTO messages (id, conversation_id, sender_id, text) VALUES {messages}",
        )

    def mark(self, step: Step) -> Mark:
        known = step.by_id and step.seq <= len(self.senders)
        return Mark(
            user_id=self.people[step.person],
            conversation_id=self.id,
            message_id=self.message_ids[step.seq - 1] if known else None,
            seq=None if known else step.seq,
            is_read=step.is_read,
        )

    def moves(self, step: Step) -> bool:
        """Whether this is a mark on somebody else's message."""
        return step.seq <= len(self.senders) and self.senders[step.seq - 1] != step.person

    def cursors(self) -> list[tuple[int, int]]:
        """Return (delivered, read) of each person."""
        rows = {
            str(user): (delivered, read)
            for user, delivered, read in sql(
                self._dsn,
                "SELECT user_id, delivered_seq, read_seq FROM conversation_participants WHERE conversation_id = %s",
                self.id,
            )
        }
        return [rows[person] for person in self.people]


@contextlib.asynccontextmanager
async def store(dsn: str) -> AsyncIterator[Receipts]:
    """Open a pool with what moves cursors, as one server has."""
    database = Database(dsn, size=2, deadline_s=5)
    await database.connect()
    try:
        yield Receipts(database, deadline_s=5)
    finally:
        await database.close()


def _expected(talk: Talk, marks: Sequence[Step]) -> list[tuple[int, int]]:
    return [
        (
            max((step.seq for step in marks if step.person == person and talk.moves(step)), default=0),
            max((step.seq for step in marks if step.person == person and talk.moves(step) and step.is_read), default=0),
        )
        for person in range(PEOPLE)
    ]


@on_one_database
@given(senders=senders, marks=steps, batch=st.integers(1, 8))
def test_each_mark_says_whether_it_moved(
    io_loop: IOLoop, dsn: str, senders: list[int], marks: list[Step], batch: int
) -> None:
    """In one server, however the marks fall into batches: as if they came one after the other."""

    async def run() -> None:
        talk = Talk(dsn, senders)
        done: list[Step] = []
        async with store(dsn) as receipts:
            for start in range(0, len(marks), batch):
                part = marks[start : start + batch]
                calls = [receipts.move(talk.mark(step)) for step in part]
                for step, end in zip(part, await asyncio.gather(*calls, return_exceptions=True), strict=True):
                    before = _expected(talk, done)[step.person][1 if step.is_read else 0]
                    done.append(step)
                    if step.seq > len(senders):
                        assert isinstance(end, AppError)
                        assert end.code is ErrorCode.UNKNOWN_MESSAGE
                        continue
                    assert isinstance(end, Moved), end
                    assert end.moved == (talk.moves(step) and step.seq > before)
                    assert (end.seq, end.message_id) == (step.seq, talk.message_ids[step.seq - 1])
                    assert sorted(end.participant_ids) == sorted(talk.people)
                assert talk.cursors() == _expected(talk, done)

    io_loop.run_sync(run, timeout=20)


@on_one_database
@given(senders=senders, marks=steps, data=st.data())
def test_two_servers_at_once(
    io_loop: IOLoop, dsn: str, senders: list[int], marks: list[Step], data: st.DataObject
) -> None:
    """Whoever comes first: nothing goes back, and no move is told twice."""
    servers = data.draw(st.lists(st.integers(0, 1), min_size=len(marks), max_size=len(marks)))

    async def run() -> None:
        talk = Talk(dsn, senders)
        async with store(dsn) as one, store(dsn) as other:
            calls = [(one, other)[server].move(talk.mark(step)) for step, server in zip(marks, servers, strict=True)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert talk.cursors() == _expected(talk, marks)
        moved = [
            (step.person, step.is_read, step.seq)
            for step, end in zip(marks, ends, strict=True)
            if isinstance(end, Moved) and end.moved
        ]
        assert len(set(moved)) == len(moved)
        told = [max((seq for p, _, seq in moved if p == person), default=0) for person in range(PEOPLE)]
        assert told == [delivered for delivered, _ in talk.cursors()]

    io_loop.run_sync(run, timeout=20)


async def test_one_mark_in_two_servers_moves_once(dsn: str) -> None:
    """The second waits for the first, and sees what it did: nobody hears of a receipt twice."""
    talk = Talk(dsn, [0])
    blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with store(dsn) as one, store(dsn) as other:
        with closing(psycopg2.connect(dsn)) as holder, holder.cursor() as cursor:
            cursor.execute("SELECT FROM conversation_participants WHERE user_id = %s FOR UPDATE", (talk.people[1],))
            marks = [asyncio.ensure_future(server.move(talk.mark(Step(1, 1, True, False)))) for server in (one, other)]
            await until(lambda: len(sql(dsn, blocked)) == 2)
        assert sorted([(await mark).moved for mark in marks]) == [False, True]


async def test_strangers_move_nothing(dsn: str) -> None:
    """Nobody's conversation and no conversation have the same answer, and others of the batch go on."""
    talk = Talk(dsn, [0, 0])
    other = Talk(dsn, [0])
    stranger = talk.mark(Step(1, 1, True, True))
    stranger.user_id = other.people[1]
    nowhere = talk.mark(Step(1, 1, True, False))
    nowhere.conversation_id = str(uuid.uuid4())
    elsewhere = other.mark(Step(1, 1, True, True))
    elsewhere.conversation_id, elsewhere.user_id = talk.id, talk.people[1]
    async with store(dsn) as receipts:
        marks = [stranger, nowhere, elsewhere, talk.mark(Step(1, 2, False, False))]
        ends = await asyncio.gather(*map(receipts.move, marks), return_exceptions=True)
    codes = [end.code for end in ends[:3] if isinstance(end, AppError)]
    assert codes == [ErrorCode.NOT_PARTICIPANT, ErrorCode.NOT_PARTICIPANT, ErrorCode.UNKNOWN_MESSAGE]
    assert isinstance(ends[3], Moved)
    assert ends[3].moved
    assert talk.cursors() == [(0, 0), (2, 0), (0, 0)]
    assert other.cursors() == [(0, 0)] * 3


async def test_others_counts_only_other_peoples_messages_of_this_conversation(dsn: str) -> None:
    """One's own, those of another conversation and unknown ids are ignored; a stranger is refused."""
    talk, other = Talk(dsn, [0, 1, 2, 0]), Talk(dsn, [0])
    ids = [*talk.message_ids, *other.message_ids, str(uuid.uuid4())]
    async with store(dsn) as receipts:
        assert await receipts.others(talk.id, talk.people[0], ids) == (2, 3)
        assert await receipts.others(talk.id, talk.people[0], other.message_ids) == (0, None)
        with pytest.raises(AppError) as caught:
            await receipts.others(talk.id, other.people[0], ids)
    assert caught.value.code is ErrorCode.NOT_PARTICIPANT


async def test_an_answer_lost_after_the_commit(dsn: str) -> None:
    """The cursor is where it belongs, and the caller gets an answer."""
    talk = Talk(dsn, [0, 0])
    async with proxied(dsn) as proxy, store(proxy.dsn) as receipts:
        proxy.lose_reply_to(b"EXECUTE move_cursors")
        moved = await receipts.move(talk.mark(Step(1, 2, True, False)))
        assert proxy.lost == 1
    assert moved.seq == 2
    assert talk.cursors()[1] == (2, 2)
