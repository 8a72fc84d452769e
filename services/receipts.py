"""Delivered and read: moves a participant's cursor, then tells everybody in the conversation."""

from connections.broadcaster import Broadcaster
from connections.registry import Registry
from measures import Histogram
from protocol import outbound
from protocol.outbound import encode, timestamp
from storage import receipts
from storage.analytics import WAITS_S
from storage.receipts import Mark, Moved


class Receipts:
    """Receipts of messages."""

    def __init__(self, store: receipts.Receipts, registry: Registry, broadcaster: Broadcaster) -> None:
        self._store = store
        self._registry = registry
        self._broadcaster = broadcaster
        # Messages that reached, and were read by, one recipient each; and how long after they were sent that was,
        # observed for the message that a receipt names.
        self.delivered = 0
        self.read = 0
        self.delivered_after = Histogram(WAITS_S)
        self.read_after = Histogram(WAITS_S)

    async def mark(self, mark: Mark) -> None:
        """Move the cursor; if it moved, tell all participants. Raises ``AppError`` NOT_PARTICIPANT, UNKNOWN_MESSAGE."""
        moved = await self._store.move(mark)
        if moved.moved:
            self._count(moved)
            self._tell(mark, moved)

    async def mark_ids(self, conversation_id: str, user_id: str, message_ids: list[str], *, is_read: bool) -> int:
        """Move the cursor to the newest of ``message_ids`` and return how many of them counted.

        Ids of one's own messages, of other conversations or of nothing are ignored. Raises NOT_PARTICIPANT.
        """
        count, newest = await self._store.others(conversation_id, user_id, message_ids)
        if newest is not None:
            await self.mark(Mark(user_id=user_id, conversation_id=conversation_id, seq=newest, is_read=is_read))
        return count

    def _count(self, moved: Moved) -> None:
        self.delivered += moved.delivered
        self.read += moved.read
        if moved.delivered:
            self.delivered_after.observe(moved.age_s)
        if moved.read:
            self.read_after.observe(moved.age_s)

    def _tell(self, mark: Mark, moved: Moved) -> None:
        kind = outbound.MessageRead if mark.is_read else outbound.MessageDelivered
        frame = encode(
            kind(
                conversation_id=mark.conversation_id,
                message_id=moved.message_id,
                sender_id=mark.user_id,
                user_id=mark.user_id,
                timestamp=timestamp(),
                seq=moved.seq,
            )
        )
        self._broadcaster.send(frame, self._registry.connections_of(moved.participant_ids))
