"""Sending a message: checked, persisted, then told.

The order is the promise: no ack and no ``message.new`` before the commit, and every socket hears of a
conversation's messages in the order of their ``seq``.
"""

import asyncio
import time

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from connections.limits import RateLimiter, rate_limited
from connections.registry import Registry
from measures import LATENCY_S, Histogram
from protocol.codes import AppError, ErrorCode
from protocol.outbound import MessageAck, MessageNew, encode, timestamp
from services.typing import TypingIndicator
from storage.message_writer import Draft, MessageWriter, OnStored, Stored


class Messaging:
    """Chat messages.

    :param max_text_chars: longest text, in characters.
    """

    def __init__(
        self,
        writer: MessageWriter,
        registry: Registry,
        broadcaster: Broadcaster,
        typing: TypingIndicator,
        rate: RateLimiter,
        *,
        max_text_chars: int,
    ) -> None:
        self._writer = writer
        self._registry = registry
        self._broadcaster = broadcaster
        self._typing = typing
        self._rate = rate
        self.max_text_chars = max_text_chars
        # From a message's being taken in to its having been told. One is observed for each message stored.
        self.latency = Histogram(LATENCY_S)
        # Whom the messages were for, and the sockets that they went to at once.
        self.recipients = 0
        self.deliveries = 0
        self.acks = 0
        self.duplicates = 0

    def send_from_socket(self, draft: Draft, origin: Connection) -> "asyncio.Future[Stored]":
        """Persist a message; ack it to ``origin``, then tell every other socket of every participant.

        The future ends when that is done, with ``AppError`` NOT_PARTICIPANT, UNKNOWN_MESSAGE or STORE_UNAVAILABLE
        where it is not. Raises ``AppError`` INVALID_TEXT or RATE_LIMITED.
        """

        def tell(message: Draft, stored: Stored) -> None:
            self.acks += 1
            origin.send_now(_ack(message, stored))
            self._tell(message, stored, but=origin.id)

        def ack_duplicate(writing: "asyncio.Future[Stored]") -> None:
            if writing.exception() is None and writing.result().duplicate:
                self.duplicates += 1
                origin.send_now(_ack(draft, writing.result()))

        writing = self._store(draft, tell)
        writing.add_done_callback(ack_duplicate)
        return writing

    async def send_from_rest(self, draft: Draft, origin_id: str | None) -> Stored:
        """Persist a message and tell the other participants.

        The sender's own sockets hear of it only where ``origin_id`` names the one that sent it, and then all but
        that one. Raises ``AppError`` INVALID_TEXT, RATE_LIMITED, NOT_PARTICIPANT, UNKNOWN_MESSAGE, STORE_UNAVAILABLE.
        """

        def tell(message: Draft, stored: Stored) -> None:
            self._tell(message, stored, but=origin_id, but_user=None if origin_id else message.sender_id)

        return await asyncio.shield(self._store(draft, tell))

    def _store(self, draft: Draft, tell: OnStored) -> "asyncio.Future[Stored]":
        self._check_text(draft.text)
        wait_s = self._rate.take(draft.sender_id)
        if wait_s:
            raise rate_limited(wait_s, "messages")
        return self._writer.write(draft, tell)

    def _check_text(self, text: str) -> None:
        if not text.strip():
            raise AppError(ErrorCode.INVALID_TEXT, "`text` is empty.")
        if len(text) > self.max_text_chars:
            raise AppError(ErrorCode.INVALID_TEXT, f"`text` is longer than {self.max_text_chars} characters.")
        if "\x00" in text:
            raise AppError(ErrorCode.INVALID_TEXT, "`text` holds U+0000.")

    def _tell(self, draft: Draft, stored: Stored, *, but: str | None, but_user: str | None = None) -> None:
        """Tell the participants. Runs right after the commit, with nothing in between that could change the order."""
        self._typing.stop(draft.sender_id, draft.conversation_id)
        frame = encode(
            MessageNew(
                conversation_id=draft.conversation_id,
                message_id=stored.message_id,
                sender_id=draft.sender_id,
                text=draft.text,
                timestamp=timestamp(stored.created_at),
                seq=stored.seq,
                reply_to=draft.reply_to,
                media_url=draft.media_url,
                client_message_id=draft.client_message_id,
            )
        )
        people = [user_id for user_id in stored.participant_ids if user_id != but_user]
        sockets = self._registry.connections_of(people)
        self.deliveries += self._broadcaster.send(frame, sockets, stream=draft.conversation_id, seq=stored.seq, but=but)
        self.recipients += len(stored.participant_ids) - 1
        self.latency.observe(time.monotonic() - draft.received_at)


def _ack(draft: Draft, stored: Stored) -> bytes:
    ack = MessageAck(
        client_message_id=draft.client_message_id,
        message_id=stored.message_id,
        conversation_id=stored.conversation_id,
        seq=stored.seq,
        timestamp=timestamp(stored.created_at),
    )
    if stored.duplicate:
        ack.duplicate = True
    return encode(ack)
