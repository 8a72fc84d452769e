"""One frame to many sockets."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from connections.connection import Connection

# A fan-out holds the loop for about this long, then lets everybody else have a turn. A chat message takes several turns
# of the loop, so it waits several times this; a turn itself costs tens of microseconds.
_TURN_S = 0.001
# Sends between two looks at the clock; at about 5 µs a send a look costs nothing, and the turn is kept.
_SENDS_A_LOOK = 32


class Broadcaster:
    """Sends frames, encoded once, to many connections."""

    def send(
        self,
        frame: bytes,
        connections: Iterable[Connection],
        *,
        stream: str | None = None,
        seq: int = 0,
        topic: str | None = None,
        but: str | None = None,
    ) -> int:
        """Send to each but the connection with the id ``but``; return to how many. See ``Connection.send``."""
        count = 0
        for connection in connections:
            if connection.id != but:
                connection.send(frame, stream, seq, topic)
                count += 1
        return count

    def send_droppable(self, frame: bytes, connections: Iterable[Connection]) -> int:
        """Send what is worth nothing later; return to how many."""
        count = 0
        for connection in connections:
            connection.send_droppable(frame)
            count += 1
        return count

    async def send_to_all(
        self, frame: bytes, connections: Sequence[Connection], *, stream: str, seq: int, topic: str
    ) -> None:
        """Send to a great many, in turns with the rest of the server.

        The caller waits for the end before it sends the next of the same stream: that keeps the order.
        """
        turn_ends = time.monotonic() + _TURN_S
        for start in range(0, len(connections), _SENDS_A_LOOK):
            self.send(frame, connections[start : start + _SENDS_A_LOOK], stream=stream, seq=seq, topic=topic)
            if time.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _TURN_S
