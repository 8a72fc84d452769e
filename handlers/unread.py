"""Answers that were given and not taken yet: each is memory, so there is a time and a most for them."""

import asyncio
import collections
from typing import Any

from tornado.iostream import IOStream

# An answer has REQUEST_TIMEOUT_S and as long as it takes at this pace, a slow phone's; then whoever asked for it, and
# does not read it, is let go of.
_SLOWEST_BYTES_A_S = 65_536
# What one user, else one address, may leave unread at a time. The largest page of history is 3 MiB: two hundred times
# 4000 characters of four bytes. Past it nobody is reading, and each request would be as much memory.
MAX_UNREAD_BYTES = 4 * 1024 * 1024


class Unread:
    """Bytes of answers that were not taken yet, by whom limits count requests by."""

    def __init__(self) -> None:
        self._bytes: collections.Counter[str] = collections.Counter()

    def __len__(self) -> int:
        """How many have some."""
        return len(self._bytes)

    def is_over(self, key: str) -> bool:
        """Whether ``key`` has left more than may be."""
        return self._bytes[key] > MAX_UNREAD_BYTES

    def watch(self, key: str, size: int, stream: IOStream, taken: "asyncio.Future[None]", timeout_s: float) -> None:
        """Count an answer until ``taken`` is done; close ``stream`` when that takes too long."""
        self._bytes[key] += size

        def let_go() -> None:
            stream.close()
            settle()

        def settle(_: Any = None) -> None:
            if letting_go.cancelled():
                return
            letting_go.cancel()
            self._bytes[key] -= size
            if not self._bytes[key]:
                del self._bytes[key]

        letting_go = asyncio.get_running_loop().call_later(timeout_s + size / _SLOWEST_BYTES_A_S, let_go)
        # Tornado forgets it where the connection ends while a body is still read: then the timer settles.
        taken.add_done_callback(settle)
