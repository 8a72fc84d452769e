"""What happened, as the clients saw it: every call, ack and frame with its monotonic time.

The record only grows; the checker reads it when everything has ended.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

# Kinds of entries. The first group belongs to one socket, the rest to none.
OPENED, CLOSED, FRAME = "opened", "closed", "frame"
SENT = "sent"  # a frame that a client sent
STALLED, FLOWING = "stalled", "flowing"  # the client stopped, and went on, reading
CALL = "call"  # a REST call that has ended, however
CHANGE = "change"  # a bounty's status was changed, or may have been
FAULT, HEALED = "fault", "healed"
UP = "up"  # the server said that it listens
QUIET = "quiet"  # nobody sends any more, all is acked, and all that is under way has had time to arrive


class Entry(NamedTuple):
    """One thing that happened.

    :ivar at: monotonic seconds.
    :ivar who: a user's id, a subscriber's name, or empty.
    :ivar socket: the socket's number in this run; 0 where there is none.
    """

    at: float
    kind: str
    who: str
    socket: int
    data: Any


class Record:
    """All entries, in the order in which they happened."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._sockets = 0

    def new_socket(self) -> int:
        """Return a number for a socket, unique in this run."""
        self._sockets += 1
        return self._sockets

    def add(self, kind: str, who: str = "", socket: int = 0, data: Any = None) -> None:
        """Add an entry that happened now."""
        self.entries.append(Entry(time.monotonic(), kind, who, socket, data))

    def dump(self, path: Path) -> None:
        """Write one JSON array a line, in order."""
        with path.open("w") as file:
            for entry in self.entries:
                file.write(json.dumps(entry) + "\n")
