"""Messages are stored once each, in order, and told once, whatever happens in between."""

import asyncio
import contextlib
import os
import random
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import closing

import psycopg2
import pytest

import storage.message_writer
from protocol.codes import AppError, ErrorCode
from storage.database import Database, StoreError
from storage.message_writer import Draft, MessageWriter, Stored
from tests.faults import proxied, sql
from tests.harness import until

STRANGER = str(uuid.UUID(int=9))


class Told:
    """Who was told what: the (conversation, seq) of each message, in order."""

    def __init__(self) -> None:
        self.messages: list[tuple[Draft, Stored]] = []

    def __call__(self, draft: Draft, stored: Stored) -> None:
        self.messages.append((draft, stored))

    def seqs(self, conversation_id: str) -> list[int]:
        return [stored.seq for _, stored in self.messages if stored.conversation_id == conversation_id]

    @property
    def texts(self) -> list[str]:
        return [draft.text for draft, _ in self.messages]


class Chat:
    """People and conversations, put there with SQL. Everybody is in every conversation."""

    def __init__(self, dsn: str, *, people: int = 2, conversations: int = 1) -> None:
        self.dsn = dsn
        self.people = [str(uuid.uuid4()) for _ in range(people)]
        self.conversations = [str(uuid.uuid4()) for _ in range(conversations)]
        sql(dsn, f"INSERT INTO profiles (id, username) VALUES {_rows(self.people)}, ('{STRANGER}', 'stranger')")
        sql(dsn, f"INSERT INTO conversations (id, direct_key) VALUES {_rows(self.conversations)}")
        pairs = [f"('{conversation}', '{person}')" for conversation in self.conversations for person in self.people]
        sql(dsn, f"INSERT INTO conversation_participants (conversation_id, user_id) VALUES {', '.join(pairs)}")

    def draft(self, text: str = "hello", key: str | None = None, sender: int = 0, conversation: int = 0) -> Draft:
        return Draft(
            sender_id=self.people[sender],
            conversation_id=self.conversations[conversation],
            client_message_id=key or uuid.uuid4().hex,
            text=text,
            reply_to=None,
            media_url=None,
        )

    def rows(self) -> list[tuple[str, int, str]]:
        """Return (text, seq, conversation) of every message."""
        return sql(self.dsn, "SELECT text, seq, conversation_id::text FROM messages ORDER BY conversation_id, seq")  # type: ignore[return-value]


def _rows(ids: list[str]) -> str:
    return ", ".join(f"('{one}', '{one}')" for one in ids)


@contextlib.asynccontextmanager
async def writing(dsn: str, *, deadline_s: float = 5) -> AsyncIterator[MessageWriter]:
    """Open a pool with a writer, as one server has."""
    database = Database(dsn, size=2, deadline_s=deadline_s)
    await database.connect()
    try:
        yield MessageWriter(database, deadline_s=deadline_s)
    finally:
        await database.close()


async def refused(writer: MessageWriter, draft: Draft, told: Told) -> ErrorCode:
    """Return the code that writing this has to end with."""
    with pytest.raises(AppError) as caught:
        await writer.write(draft, told)
    return caught.value.code


async def test_on_stored_comes_before_write_returns(dsn: str) -> None:
    """With the row committed, and all who are to hear of it."""
    chat = Chat(dsn, people=3)
    async with writing(dsn) as writer:
        seen: list[object] = []

        def told(draft: Draft, stored: Stored) -> None:
            seen.append((draft.text, stored.seq, sorted(stored.participant_ids), chat.rows()))

        stored = await writer.write(chat.draft("hello"), told)
    assert seen == [("hello", 1, sorted(chat.people), [("hello", 1, chat.conversations[0])])]
    assert not stored.duplicate
    assert stored.created_at.tzinfo is not None


async def test_a_listener_that_fails_spoils_nothing(dsn: str) -> None:
    """The message is stored all the same."""
    chat, told = Chat(dsn), Told()

    def fail(_draft: Draft, _stored: Stored) -> None:
        raise RuntimeError("on purpose")

    async with writing(dsn) as writer:
        ends = await asyncio.gather(writer.write(chat.draft("a"), fail), writer.write(chat.draft("b"), told))
    assert [end.seq for end in ends] == [1, 2]
    assert told.texts == ["b"]


@pytest.mark.parametrize("together", [1, 7], ids=["by themselves", "in one batch"])
async def test_a_draft_has_the_same_fate_by_itself_and_in_a_batch(dsn: str, together: int) -> None:
    """Written, an answer, known under another conversation, a stranger's, an answer to nothing, and to elsewhere."""
    chat, told = Chat(dsn, conversations=2), Told()
    async with writing(dsn) as writer:
        first = await writer.write(chat.draft("first", key="first"), told)
        answer, nothing, elsewhere = (
            chat.draft("answer"),
            chat.draft("nothing"),
            chat.draft("elsewhere", conversation=1),
        )
        answer.reply_to, nothing.reply_to, elsewhere.reply_to = first.message_id, STRANGER, first.message_id
        stranger = Draft(**{**_fields(chat.draft("stranger")), "sender_id": STRANGER})
        again = chat.draft("again", key="first", conversation=1)
        drafts = [chat.draft("plain"), answer, again, stranger, nothing, elsewhere, chat.draft("last", conversation=1)]
        fates: list[object] = []
        for start in range(0, len(drafts), together):
            writes = [writer.write(draft, told) for draft in drafts[start : start + together]]
            for end in await asyncio.gather(*writes, return_exceptions=True):
                fates.append((end.seq, end.duplicate) if isinstance(end, Stored) else getattr(end, "code", end))
    unknown = ErrorCode.UNKNOWN_MESSAGE
    assert fates == [(2, False), (3, False), (1, True), ErrorCode.NOT_PARTICIPANT, unknown, unknown, (1, False)]
    assert sorted(told.texts) == ["answer", "first", "last", "plain"]
    assert {tuple(sorted(stored.participant_ids)) for _, stored in told.messages} == {tuple(sorted(chat.people))}


@pytest.mark.parametrize("seed", range(3))
async def test_seq_has_no_gap_however_many_write(dsn: str, seed: int) -> None:
    """Two servers, several conversations, keys sent again, refusals between: each server tells its own in order."""
    dice = random.Random(seed)
    chat = Chat(dsn, people=3, conversations=4)
    drafts = [chat.draft(str(n), key=str(n), sender=n % 3, conversation=dice.randrange(4)) for n in range(300)]
    strangers = [Draft(**{**_fields(draft), "sender_id": STRANGER}) for draft in drafts[:40]]
    told = [Told(), Told()]
    async with writing(dsn) as one, writing(dsn) as other:

        async def write(draft: Draft) -> Stored | None:
            server = dice.randrange(2)
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
            try:
                return await (one, other)[server].write(Draft(**_fields(draft)), told[server])
            except AppError as error:
                assert error.code is ErrorCode.NOT_PARTICIPANT
                return None

        work = drafts + dice.choices(drafts, k=100) + strangers
        dice.shuffle(work)
        ends = await asyncio.gather(*map(write, work))

    rows = chat.rows()
    assert sorted(int(text) for text, _, _ in rows) == list(range(300))
    for conversation in chat.conversations:
        seqs = [seq for _, seq, where in rows if where == conversation]
        assert seqs == list(range(1, len(seqs) + 1))
        heard = [server.seqs(conversation) for server in told]
        assert all(of_one == sorted(of_one) for of_one in heard)
        assert sorted(heard[0] + heard[1]) == seqs, "each told once, by the server that stored it"
        assert sql(dsn, "SELECT last_seq FROM conversations WHERE id = %s", conversation) == [(len(seqs),)]
    places = {(text, seq) for text, seq, _ in rows}
    for draft, end in zip(work, ends, strict=True):
        assert (end is None) == (draft.sender_id == STRANGER)
        assert end is None or (draft.text, end.seq) in places
    assert sum(end is not None and not end.duplicate for end in ends) == 300
    times = sql(dsn, "SELECT count(*) FROM messages a JOIN messages b USING (conversation_id)"
                     " WHERE a.seq < b.seq AND a.created_at > b.created_at")  # fmt: skip
    assert times == [(0,)], "time never goes back within a conversation"


def _fields(draft: Draft) -> dict[str, object]:
    return {name: getattr(draft, name) for name in draft.__struct_fields__ if name != "message_id"}


async def test_one_key_a_hundred_times_at_once(dsn: str) -> None:
    """In two servers: one row, told once, one answer that is no duplicate, and all name the same message."""
    chat, told = Chat(dsn), Told()
    async with writing(dsn) as one, writing(dsn) as other:
        writers = [one, other] * 50
        ends = await asyncio.gather(*(writer.write(chat.draft("once", key="k"), told) for writer in writers))
        again = await one.write(chat.draft("once", key="k"), told)
    assert chat.rows() == [("once", 1, chat.conversations[0])]
    assert told.texts == ["once"]
    assert [end.duplicate for end in ends].count(False) == 1
    assert again.duplicate
    assert {(end.message_id, end.seq, end.created_at) for end in [*ends, again]} == {
        (again.message_id, 1, again.created_at)
    }


async def test_a_key_is_its_senders_own(dsn: str) -> None:
    """Two people may choose the same; one person's names one message in all conversations."""
    chat, told = Chat(dsn, conversations=2), Told()
    async with writing(dsn) as writer:
        mine = await writer.write(chat.draft(key="k"), told)
        theirs = await writer.write(chat.draft(key="k", sender=1), told)
        elsewhere = await writer.write(chat.draft(key="k", conversation=1), told)
    assert (mine.seq, theirs.seq) == (1, 2)
    assert (elsewhere.duplicate, elsewhere.conversation_id) == (True, chat.conversations[0])


async def test_a_poisoned_row_fails_alone(dsn: str) -> None:
    """A NUL that got past every check costs its sender an error, and nobody else anything."""
    chat, told = Chat(dsn), Told()
    drafts = [chat.draft(f"a\x00{n}" if n in (0, 5) else str(n)) for n in range(9)]
    async with writing(dsn) as writer:
        ends = await asyncio.gather(*(writer.write(draft, told) for draft in drafts), return_exceptions=True)
    assert [isinstance(end, StoreError) for end in ends] == [n in (0, 5) for n in range(9)]
    assert told.texts == ["1", "2", "3", "4", "6", "7", "8"]
    assert told.seqs(chat.conversations[0]) == list(range(1, 8))


async def test_refusals(dsn: str) -> None:
    """Strangers, conversations that do not exist, answers to nothing; each alone in its batch, no seq used up."""
    chat, told = Chat(dsn, conversations=2), Told()
    async with writing(dsn) as writer:
        elsewhere = await writer.write(chat.draft(conversation=1), told)
        stranger, nowhere, to_nothing, to_elsewhere = (chat.draft() for _ in range(4))
        stranger.sender_id = STRANGER
        nowhere.conversation_id = str(uuid.uuid4())
        to_nothing.reply_to = str(uuid.uuid4())
        to_elsewhere.reply_to = elsewhere.message_id
        bad = [stranger, nowhere, to_nothing, to_elsewhere]
        codes = await asyncio.gather(*(refused(writer, draft, told) for draft in bad))
        assert codes == [ErrorCode.NOT_PARTICIPANT] * 2 + [ErrorCode.UNKNOWN_MESSAGE] * 2
        first = await writer.write(chat.draft("first"), told)
        answer = chat.draft("answer")
        answer.reply_to = first.message_id
        assert (first.seq, (await writer.write(answer, told)).seq) == (1, 2)
    assert told.seqs(chat.conversations[0]) == [1, 2]


async def test_an_answer_lost_after_the_commit(dsn: str) -> None:
    """The statement runs again, the key makes it one row, the sender hears of no duplicate, and it is told once."""
    chat, told = Chat(dsn), Told()
    async with proxied(dsn) as proxy, writing(proxy.dsn) as writer:
        proxy.lose_reply_to(b"the text")
        stored = await writer.write(chat.draft("the text"), told)
        assert proxy.lost == 1
    assert (stored.seq, stored.duplicate) == (1, False)
    assert told.texts == ["the text"]
    assert chat.rows() == [("the text", 1, chat.conversations[0])]


async def test_an_unknown_outcome_is_told_when_the_store_is_back(dsn: str) -> None:
    """Committed, the answer lost, and then no store: the sender gets an error, the others the message, in its place."""
    chat, told = Chat(dsn), Told()
    async with proxied(dsn) as proxy, writing(proxy.dsn, deadline_s=2) as writer:
        proxy.lose_reply_to(b"the text", then=proxy.refuse)
        assert await refused(writer, chat.draft("the text", key="k"), told) is ErrorCode.STORE_UNAVAILABLE
        assert told.texts == []
        await proxy.open()
        await until(lambda: told.texts == ["the text"])
        again = await writer.write(chat.draft("the text", key="k"), told)
        assert again.duplicate
        await writer.write(chat.draft("later"), told)
    assert told.texts == ["the text", "later"]
    assert told.seqs(chat.conversations[0]) == [1, 2]


async def test_an_unknown_outcome_is_told_before_later_messages(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that gather while the store is asked each get their own place, behind it."""
    monkeypatch.setattr(storage.message_writer, "_ASK_AGAIN_S", 0.05)
    chat, told = Chat(dsn), Told()
    async with proxied(dsn) as proxy, writing(proxy.dsn, deadline_s=2) as writer:
        proxy.lose_reply_to(b"the text", then=proxy.refuse)
        assert await refused(writer, chat.draft("the text"), told) is ErrorCode.STORE_UNAVAILABLE
        first = writer.write(chat.draft("first"), told)
        await until(lambda: writer.waiting == 1)  # the writer's own question, behind it
        sent = [writer.write(chat.draft(str(n)), told) for n in range(5)]
        await until(lambda: writer.waiting == 6)
        await proxy.open()
        assert [(await task).seq for task in [first, *sent]] == [2, 3, 4, 5, 6, 7]
    assert told.texts == ["the text", "first", "0", "1", "2", "3", "4"]
    assert told.texts == [text for text, _, _ in chat.rows()]


async def test_what_was_never_committed_is_not_told(dsn: str) -> None:
    """The store was gone before the statement reached it."""
    chat, told = Chat(dsn), Told()
    async with proxied(dsn) as proxy, writing(proxy.dsn, deadline_s=2) as writer:
        proxy.refuse()
        assert await refused(writer, chat.draft("lost"), told) is ErrorCode.STORE_UNAVAILABLE
        await proxy.open()
        await writer.write(chat.draft("later"), told)
    assert told.texts == ["later"]


async def test_what_was_given_up_is_not_stored_later(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement is still on its way when the store is asked: once it is said to be lost, it has to stay lost."""
    monkeypatch.setattr(storage.message_writer, "_ASK_AGAIN_S", 0.05)
    chat, told = Chat(dsn, conversations=2), Told()
    async with proxied(dsn) as proxy, writing(proxy.dsn, deadline_s=2) as writer:
        await writer.write(chat.draft("before"), told)
        with closing(psycopg2.connect(dsn)) as other, other.cursor() as cursor:
            cursor.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (chat.conversations[0],))
            proxy.freeze()
            assert await refused(writer, chat.draft("late"), told) is ErrorCode.STORE_UNAVAILABLE
            proxy.thaw()  # now it arrives, and waits for the lock
            await writer.write(chat.draft("elsewhere", conversation=1), told)
        await writer.write(chat.draft("after"), told)
    assert [text for text, _, where in chat.rows() if where == chat.conversations[0]] == ["before", "after"]
    assert told.texts == ["before", "elsewhere", "after"]


async def test_settled_tells_what_was_unknown(dsn: str) -> None:
    """Whoever reads the store and then waits until all is settled finds nothing there that is told later again."""
    chat, told = Chat(dsn), Told()
    async with proxied(dsn) as proxy, writing(proxy.dsn, deadline_s=2) as writer:
        proxy.lose_reply_to(b"the text", then=proxy.refuse)
        assert await refused(writer, chat.draft("the text"), told) is ErrorCode.STORE_UNAVAILABLE
        with pytest.raises(AppError):
            await writer.settled()
        await proxy.open()
        await writer.settled()
        assert told.texts == ["the text"]
        await writer.stop()


async def test_a_frozen_backend_is_not_taken_for_ended(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may commit when it thaws: until then nothing else is stored, for that might be told out of its place."""
    monkeypatch.setattr(storage.message_writer, "_ASK_AGAIN_S", 0.05)
    chat, told = Chat(dsn, conversations=2), Told()
    async with writing(dsn, deadline_s=2.5) as writer:
        with closing(psycopg2.connect(dsn)) as other, other.cursor() as cursor:
            cursor.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (chat.conversations[0],))
            late = asyncio.create_task(refused(writer, chat.draft("late"), told))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            await until(lambda: sql(dsn, waiting))
            ((pid,),) = sql(dsn, waiting)
            os.kill(pid, signal.SIGSTOP)
            try:
                assert await late is ErrorCode.STORE_UNAVAILABLE
                other.rollback()
                assert await refused(writer, chat.draft("early", conversation=1), told) is ErrorCode.STORE_UNAVAILABLE
            finally:
                os.kill(pid, signal.SIGCONT)
        await writer.write(chat.draft("after"), told)
    assert sorted(told.texts) == sorted(text for text, _, _ in chat.rows())
