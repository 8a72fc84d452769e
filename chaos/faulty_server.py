"""The server with a deliberate fault, to see the checker fail: ``python -m chaos.faulty_server <fault>``.

Each fault replaces a function of the server from outside; nothing of it is in the server itself.
"""

import asyncio
import itertools
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

import server
from connections.broadcaster import Broadcaster
from protocol.outbound import new_id
from services import messaging
from services.bounty_events import BountyEvents
from services.messaging import Messaging
from services.receipts import Receipts
from storage.bounties import BountyLog
from storage.database import Database, Statement, array
from storage.message_writer import Draft, MessageWriter, OnStored, Stored
from storage.receipts import Mark, Moved
from storage.receipts import Receipts as StoredReceipts

_NEXT = Statement(
    "chaos_next_place",
    ("uuid",),
    "SELECT c.last_seq, array_agg(p.user_id)::text FROM conversations c"
    " JOIN conversation_participants p ON p.conversation_id = c.id WHERE c.id = $1 GROUP BY c.id",
)
_KNOWN = Statement(
    "chaos_known", ("uuid", "text"), "SELECT id FROM messages WHERE sender_id = $1 AND client_message_id = $2"
)

Batch = list[tuple[Draft, OnStored] | None]


async def _guess(database: Database, batch: Batch) -> list[tuple[Draft, OnStored, Stored]]:
    """Return where the batch's new messages are going to be, unless something goes wrong."""
    heads: dict[str, int] = {}
    guesses: list[tuple[Draft, OnStored, Stored]] = []
    for draft, on_stored in filter(None, batch):
        if await database.fetch(_KNOWN, (draft.sender_id, draft.client_message_id)):
            continue
        last_seq, people = (await database.fetch(_NEXT, (draft.conversation_id,)))[0]
        seq = heads.get(draft.conversation_id, int(last_seq)) + 1
        heads[draft.conversation_id] = seq
        stored = Stored(
            message_id=draft.message_id, conversation_id=draft.conversation_id, seq=seq, created_at=datetime.now(UTC),
            participant_ids=people[1:-1].split(","), duplicate=False,
        )  # fmt: skip
        guesses.append((draft, on_stored, stored))
    return guesses


def broadcast_before_commit() -> None:
    """Everybody is told, and the sender acked, before the statement runs."""
    original = MessageWriter._write

    async def write(self: MessageWriter, batch: Batch) -> Any:
        guesses = await _guess(self._database, batch)
        for draft, on_stored, stored in guesses:
            on_stored(draft, stored)
        told = {draft.message_id for draft, _, _ in guesses}
        silent = [(entry[0], _nothing) if entry and entry[0].message_id in told else entry for entry in batch]
        return await original(self, silent)

    MessageWriter._write = write  # type: ignore[method-assign]


def ack_before_commit() -> None:
    """The sender is acked before the statement runs; the others are told after the commit."""
    original, original_tell, original_ack = MessageWriter._write, Messaging._tell, messaging._ack
    acked: set[str] = set()
    early = False

    async def write(self: MessageWriter, batch: Batch) -> Any:
        nonlocal early
        for draft, on_stored, stored in await _guess(self._database, batch):
            early = True
            on_stored(draft, stored)
            early = False
            acked.add(draft.message_id)
        return await original(self, batch)

    def tell(self: Messaging, *arguments: Any, **options: Any) -> None:
        if not early:
            original_tell(self, *arguments, **options)

    def ack(draft: Draft, stored: Stored) -> bytes:
        return b"" if draft.message_id in acked and not stored.duplicate else original_ack(draft, stored)

    MessageWriter._write, Messaging._tell, messaging._ack = write, tell, ack  # type: ignore[method-assign]


def _nothing(*_: Any) -> None:
    pass


def retry_without_key() -> None:
    """The client's key is not stored: what is sent again is a message of its own."""
    original = MessageWriter.write

    def write(self: MessageWriter, draft: Draft, on_stored: OnStored) -> asyncio.Future[Stored]:
        keyless = msgspec.structs.replace(draft, client_message_id=new_id())
        return original(self, keyless, lambda _, stored: on_stored(draft, stored))

    MessageWriter.write = write  # type: ignore[method-assign]


def skip_event() -> None:
    """One event in twenty is not told."""
    original = BountyLog.relay

    async def relay(self: BountyLog, position: int, batch: int) -> Any:
        events = await original(self, position, batch)
        return [event for event in events if event.event_id % 20 or len(events) == batch]

    BountyLog.relay = relay  # type: ignore[method-assign]


def repeat_event() -> None:
    """After a lost database, the relay goes back a little."""
    original = BountyEvents.wake

    def wake(self: BountyEvents, _payload: str | None = None) -> None:
        if _payload is None:
            self.position = max(0, self.position - 3)
        original(self, _payload)

    BountyEvents.wake = wake  # type: ignore[method-assign]


def leak_to_stranger() -> None:
    """One message in thirty also goes to whoever is at hand."""
    original = Messaging._tell
    count = itertools.count(1)

    def tell(self: Messaging, draft: Draft, stored: Stored, **options: Any) -> None:
        if next(count) % 30 == 0:
            people = [*stored.participant_ids, *itertools.islice(self._registry.people, 3)]
            stored = msgspec.structs.replace(stored, participant_ids=list(dict.fromkeys(people)))
        original(self, draft, stored, **options)

    Messaging._tell = tell  # type: ignore[method-assign]


def reorder() -> None:
    """One message in ten is told a little late."""
    _meddle(10, lambda send: asyncio.get_running_loop().call_later(0.5, send))


def repeat() -> None:
    """One message in twenty is told twice."""
    _meddle(20, lambda send: (send(), send()))


def forget_to_tell() -> None:
    """One message in fifty is stored and acked, and told to nobody."""
    _meddle(50, lambda _send: None)


def _meddle(every: int, how: Callable[[Callable[[], Any]], Any]) -> None:
    original = Broadcaster.send
    count = itertools.count(1)

    def send(self: Broadcaster, frame: bytes, connections: Any, *, stream: str | None = None, **options: Any) -> int:
        sockets = list(connections)
        if stream in (None, "events") or next(count) % every:
            return original(self, frame, sockets, stream=stream, **options)
        how(lambda: original(self, frame, sockets, stream=stream, **options))
        return len(sockets)

    Broadcaster.send = send  # type: ignore[method-assign]


def receipt_before_commit() -> None:
    """Receipts are told when they come in, and their cursors stored one time in two."""
    original = Receipts.mark
    count = itertools.count(1)

    async def mark(self: Receipts, mark: Mark) -> None:
        if mark.seq is not None and next(count) % 2:
            moved = await original_move(self._store, msgspec.structs.replace(mark, seq=1))
            self._tell(mark, Moved(moved=True, message_id=moved.message_id, seq=mark.seq,
                                   participant_ids=moved.participant_ids))  # fmt: skip
            return
        await original(self, mark)

    original_move = StoredReceipts.move
    Receipts.mark = mark  # type: ignore[method-assign]


def seq_gap() -> None:
    """One batch in forty takes its conversations' numbers and stores nothing."""
    original = MessageWriter._write
    count = itertools.count(1)
    bump = Statement("chaos_bump", ("uuid[]",), "UPDATE conversations SET last_seq = last_seq + 1 WHERE id = ANY ($1)")

    async def write(self: MessageWriter, batch: Batch) -> Any:
        if next(count) % 40 == 0:
            ids = {entry[0].conversation_id for entry in batch if entry}
            await self._database.fetch(bump, (array(ids),))
        return await original(self, batch)

    MessageWriter._write = write  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "broadcast-before-commit": broadcast_before_commit,
    "ack-before-commit": ack_before_commit,
    "retry-without-key": retry_without_key,
    "skip-event": skip_event,
    "repeat-event": repeat_event,
    "leak-to-stranger": leak_to_stranger,
    "reorder": reorder,
    "repeat": repeat,
    "forget-to-tell": forget_to_tell,
    "receipt-before-commit": receipt_before_commit,
    "seq-gap": seq_gap,
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(server.main([]))
