"""What has gone over the sockets since the server started. Counted up only; how many are open is the registry's."""

import collections

from measures import LATENCY_S, Histogram
from protocol.codes import CloseCode

# What a client closes with is its own choice, among thousands: a name each would be as many series. 1005 is a close
# without a code, 1006 the end of a connection without a close.
CLOSE_CODES = (*map(str, map(int, CloseCode)), "1005", "1006", "other")
# Not counted as errors: a client's or a page's own close, one without a code, and our own restart.
_ORDERLY = {"1000", "1001", "1005", "1012"}


class Traffic:
    """Counters that all connections share."""

    def __init__(self) -> None:
        # Frames handed to the kernel or put to wait.
        self.sent = 0
        # Frames that a peer which lags behind was spared: not worth sending later, or superseded by a newer one.
        self.dropped = 0
        self.superseded = 0
        self.slow_readers = 0
        # Frames that were acted on, by what they were decoded to.
        self.received: collections.Counter[type] = collections.Counter()
        # Handshakes that were completed, those that were then refused included, by endpoint.
        self.opened: collections.Counter[str] = collections.Counter()
        # By endpoint and close code ("other": none of the protocol's).
        self.closed: collections.Counter[tuple[str, str]] = collections.Counter()
        # Errors told, in frames and over HTTP, by code.
        self.errors: collections.Counter[str] = collections.Counter()
        # HTTP answers by status; WebSockets are not among them.
        self.answers: collections.Counter[int] = collections.Counter()
        self.answer_seconds = Histogram(LATENCY_S)

    def count_closed(self, endpoint: str, code: int) -> None:
        """Count a socket that has closed."""
        name = str(code)
        self.closed[endpoint, name if name in CLOSE_CODES else "other"] += 1

    def closes(self) -> dict[str, int]:
        """Return how many have closed, by code."""
        by_code: collections.Counter[str] = collections.Counter()
        for (_, code), count in self.closed.items():
            by_code[code] += count
        return dict(by_code)

    def failed(self) -> int:
        """Return how many ended by anything but an orderly close."""
        return sum(count for (_, code), count in self.closed.items() if code not in _ORDERLY)
