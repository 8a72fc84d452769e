"""Who is typing. Lives in memory only and ends by itself."""

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct

from connections.broadcaster import Broadcaster
from connections.connection import Connection
from connections.limits import RateLimiter
from connections.registry import Registry
from protocol.outbound import TypingStart, TypingStop, encode, timestamp

# Starts that come again within this time are not told again.
REPEAT_S = 3.0


class _Typing(Struct):
    """One person typing in one conversation, and the socket they do it on (None: over REST)."""

    connection: Connection | None
    told_at: float
    expiry: asyncio.TimerHandle


class TypingIndicator:
    """Typing, told to the other participants who have joined the conversation.

    :param ttl_s: silence after which a stop follows by itself.
    """

    def __init__(
        self,
        registry: Registry,
        broadcaster: Broadcaster,
        rate: RateLimiter,
        *,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._broadcaster = broadcaster
        self._rate = rate
        self._ttl_s = ttl_s
        self._clock = clock
        self._active: dict[tuple[str, str], _Typing] = {}

    def set(self, user_id: str, conversation_id: str, is_typing: bool, connection: Connection | None) -> None:
        """Start or stop; a participant who is too fast is ignored in silence.

        Whether the user takes part has to be known already.
        """
        if self._rate.take(user_id):
            return
        if is_typing:
            self._start(user_id, conversation_id, connection)
        else:
            self.stop(user_id, conversation_id)

    def stop(self, user_id: str, conversation_id: str) -> None:
        """End it and tell, if it was going on."""
        typing = self._active.pop((user_id, conversation_id), None)
        if typing is not None:
            typing.expiry.cancel()
            self._tell(TypingStop, user_id, conversation_id)

    def stop_all(self, connection: Connection) -> None:
        """End all typing that was going on on a socket that has closed."""
        for (user_id, conversation_id), typing in list(self._active.items()):
            if typing.connection is connection:
                self.stop(user_id, conversation_id)

    def _start(self, user_id: str, conversation_id: str, connection: Connection | None) -> None:
        key, now = (user_id, conversation_id), self._clock()
        expiry = asyncio.get_running_loop().call_later(self._ttl_s, self.stop, user_id, conversation_id)
        typing = self._active.get(key)
        if typing is not None:
            typing.expiry.cancel()
            typing.expiry = expiry
            typing.connection = connection
            if now - typing.told_at < REPEAT_S:
                return
            typing.told_at = now
        else:
            self._active[key] = _Typing(connection, now, expiry)
        self._tell(TypingStart, user_id, conversation_id)

    def _tell(self, kind: type[TypingStart | TypingStop], user_id: str, conversation_id: str) -> None:
        frame = encode(kind(conversation_id=conversation_id, sender_id=user_id, timestamp=timestamp()))
        sockets = self._registry.listening_to(conversation_id, except_user=user_id)
        self._broadcaster.send_droppable(frame, sockets)
