"""What somebody missed, sent again in order, with what comes in meanwhile fitted in behind.

While a connection catches up, its live frames are held back. Once the store has said what was missed, a held
message is either among that (dropped), older than the store's newest (fitted in at its place), or newer (sent after).
So on one socket each message of a conversation comes once, and in the order of ``seq``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from connections.connection import Connection, Held
from measures import SIZES, Histogram
from protocol.outbound import ReplayComplete, SyncComplete, encode
from storage.message_writer import MessageWriter
from storage.messages import Messages, Missed

# Bodies read with one query. Also what one connection's replay keeps in memory, at up to 16 KiB each.
_PAGE = 50


class _Step(NamedTuple):
    """One message to send: read from the store, or a live frame that was held back."""

    conversation_id: str
    seq: int
    frame: bytes | None


class Replay:
    """The offline queue and ``sync``. The connection has to be holding when either is called."""

    def __init__(self, messages: Messages, writer: MessageWriter) -> None:
        self._messages = messages
        self._writer = writer
        self.queue_sizes = Histogram(SIZES)
        self.sync_sizes = Histogram(SIZES)

    async def offline_queue(self, connection: Connection, user_id: str) -> None:
        """Send what others wrote past the user's delivered cursors, then ``replay.complete``, then what was held.

        Raises ``AppError`` STORE_UNAVAILABLE; the connection is then still holding.
        """
        missed = await self._messages.undelivered(user_id)
        self.complete(connection, await self._send(connection, missed), missed.truncated)

    def complete(self, connection: Connection, count: int = 0, truncated: Sequence[str] = ()) -> None:
        """Send ``replay.complete``, then what was held."""
        self.queue_sizes.observe(count)
        connection.send_now(encode(ReplayComplete(count=count, truncated=list(truncated))))
        connection.release()

    async def sync(self, connection: Connection, user_id: str, positions: Mapping[str, int]) -> None:
        """Send all past ``positions`` ({conversation: seq}), then ``sync.complete``, then what was held.

        Raises ``AppError`` NOT_PARTICIPANT, STORE_UNAVAILABLE; the connection is then still holding.
        """
        missed = await self._messages.newer(user_id, positions)
        count = await self._send(connection, missed)
        self.sync_sizes.observe(count)
        connection.send_now(encode(SyncComplete(count=count, truncated=missed.truncated)))
        connection.release()

    async def _send(self, connection: Connection, missed: Missed) -> int:
        # What the store showed us may be committed and not told yet; once it is told, it is among the held.
        await self._writer.settled()
        steps = _fit_in(missed.places, connection.take_held(missed.heads))
        for start in range(0, len(steps), _PAGE):
            page = steps[start : start + _PAGE]
            stored = await self._messages.frames([(step.conversation_id, step.seq) for step in page if not step.frame])
            frames = {(message.conversation_id, message.seq): encode(message) for message in stored}
            for step in page:
                frame = step.frame or frames.get((step.conversation_id, step.seq))
                if frame is not None:
                    connection.send_now(frame)
                    if connection.lagging:
                        await connection.drained()
            if connection.closing:
                break
        return len(missed.places)


def _fit_in(places: list[tuple[str, int]], early: list[Held]) -> list[_Step]:
    """Return the steps for ``places``, with each held message that is not among them before the next of its stream."""
    steps = [_Step(conversation_id, seq, None) for conversation_id, seq in places]
    known = set(places)
    for held in early:
        if held.stream is None or (held.stream, held.seq) in known:
            continue
        later = (at for at, step in enumerate(steps) if step.conversation_id == held.stream and step.seq > held.seq)
        steps.insert(next(later, len(steps)), _Step(held.stream, held.seq, held.frame))
    return steps
